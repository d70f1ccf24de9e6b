//! Where feeds deliver, and what the same library does there by itself.

use super::Options;
use super::listener::Listener;
use crate::rivals::Trouble;
use crate::vault::place::{At, Bucket, Prepared};
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use perilune_protocol::Tso;
use reqwest::Client;
use std::fmt::Write;
use std::path::Path as FilePath;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// A kind of sink.
pub(super) trait Place {
    fn name(&self) -> &'static str;
    /// What it is made with, where that is something.
    fn library(&self) -> Option<&'static str>;
    /// What a feed is given that delivers to the folder of this name.
    fn uri(&self, folder: &str) -> String;
    /// Below which directory it lies, where it is one.
    fn root(&self) -> Option<&FilePath> {
        None
    }
    /// Takes away what came to the folder: the bodies of requests with rows.
    fn take(&mut self, folder: &str) -> Result<Vec<Bytes>, Trouble>;
    /// Takes away when rows came, and up to which stamp, where that can be seen there.
    fn seen(&mut self) -> Option<Vec<(Instant, Tso)>> {
        None
    }
    /// Sends bodies by the library alone, in their order, until all are acknowledged. What they leave is taken away again, untimed.
    fn send_bare(&mut self, bodies: &[Bytes]) -> Result<Duration, Trouble>;
}

/// All that is to be measured.
pub(super) fn all(options: &Options) -> Result<Vec<Box<dyn Place>>, Trouble> {
    let mut all: Vec<Box<dyn Place>> = vec![Box::new(Blackhole)];
    for (nth, place) in options.places.iter().enumerate() {
        let logs = options.dir.join(format!("place-{nth}"));
        std::fs::create_dir(&logs)?;
        all.push(Box::new(Files { place: place.prepare(&logs)?, runtime: runtime()? }));
    }
    all.push(Box::new(Webhook::start()?));
    #[cfg(feature = "kafka")]
    all.push(Box::new(super::kafka::Kafka::start(options.events)?));
    Ok(all)
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

struct Blackhole;

impl Place for Blackhole {
    fn name(&self) -> &'static str {
        "blackhole"
    }

    fn library(&self) -> Option<&'static str> {
        None
    }

    fn uri(&self, _: &str) -> String {
        "blackhole://".into()
    }

    fn take(&mut self, _: &str) -> Result<Vec<Bytes>, Trouble> {
        Ok(Vec::new())
    }

    fn send_bare(&mut self, _: &[Bytes]) -> Result<Duration, Trouble> {
        Ok(Duration::ZERO)
    }
}

/// A directory or a bucket.
struct Files {
    place: Prepared,
    runtime: Runtime,
}

impl Place for Files {
    fn name(&self) -> &'static str {
        self.place.name()
    }

    fn library(&self) -> Option<&'static str> {
        Some("object_store")
    }

    fn uri(&self, folder: &str) -> String {
        match &self.place.at {
            At::Directory(dir) => format!("file://{}/{folder}?protocol=csv", dir.display()),
            At::Bucket(Bucket { endpoint, bucket, ak, sk }) => {
                let [ak, sk, endpoint] = [ak, sk, endpoint].map(|text| escaped(text));
                format!("s3://{bucket}/{folder}?protocol=csv&access-key={ak}&secret-access-key={sk}&endpoint={endpoint}&region=us-east-1")
            }
        }
    }

    fn root(&self) -> Option<&FilePath> {
        match &self.place.at {
            At::Directory(dir) => Some(dir),
            At::Bucket(_) => None,
        }
    }

    fn take(&mut self, folder: &str) -> Result<Vec<Bytes>, Trouble> {
        let store = self.place.store(folder)?;
        self.runtime.block_on(async {
            let mut found: Vec<Path> = store.list(None).map_ok(|meta| meta.location).try_collect().await?;
            found.sort();
            let mut bodies = Vec::new();
            for path in found {
                if path.as_ref().ends_with(".csv") {
                    bodies.push(store.get(&path).await?.bytes().await?);
                }
                store.delete(&path).await?;
            }
            Ok(bodies)
        })
    }

    fn send_bare(&mut self, bodies: &[Bytes]) -> Result<Duration, Trouble> {
        let store = self.place.store("bare")?;
        let path = |nth: usize| Path::from(format!("{nth:06}.csv"));
        self.runtime.block_on(async {
            let began = Instant::now();
            for (nth, body) in bodies.iter().enumerate() {
                store.put(&path(nth), body.clone().into()).await?;
            }
            let took = began.elapsed();
            for nth in 0..bodies.len() {
                store.delete(&path(nth)).await?;
            }
            Ok(took)
        })
    }
}

/// As a parameter of a URI.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            // Writing to a string has no way to fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// A listener in this process.
struct Webhook {
    listener: Listener,
    client: Client,
    runtime: Runtime,
}

impl Webhook {
    fn start() -> Result<Self, Trouble> {
        // An error says that one was chosen before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self { listener: Listener::start()?, client: Client::builder().build()?, runtime: runtime()? })
    }
}

impl Place for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn library(&self) -> Option<&'static str> {
        Some("reqwest")
    }

    fn uri(&self, folder: &str) -> String {
        format!("http://{}/{folder}", self.listener.addr)
    }

    fn take(&mut self, _: &str) -> Result<Vec<Bytes>, Trouble> {
        Ok(self.listener.take().into_iter().map(|(_, body)| body).collect())
    }

    fn seen(&mut self) -> Option<Vec<(Instant, Tso)>> {
        // Rows come in the order of their stamps.
        let last = |body: &[u8]| {
            let text = std::str::from_utf8(body).ok()?;
            let stamp = text.rsplit_once("\"commitTs\":")?.1;
            stamp[..stamp.find(|c: char| !c.is_ascii_digit())?].parse().ok().map(Tso)
        };
        Some(self.listener.take().into_iter().filter_map(|(at, body)| Some((at, last(&body)?))).collect())
    }

    fn send_bare(&mut self, bodies: &[Bytes]) -> Result<Duration, Trouble> {
        let url = format!("http://{}/bare", self.listener.addr);
        let began = Instant::now();
        self.runtime.block_on(async {
            for body in bodies {
                let request = self.client.post(&url).header("Content-Type", "application/x-ndjson").header("X-Perilune-Event", "rows");
                request.body(body.clone()).send().await?.error_for_status()?;
            }
            Ok::<_, Trouble>(())
        })?;
        let took = began.elapsed();
        drop(self.listener.take());
        Ok(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_to_a_listener_is_known_by_its_last_stamp() {
        let mut hook = Webhook::start().unwrap();
        let body = Bytes::from_static(b"{\"_tidb\":{\"commitTs\":7},\"data\":[]}\r\n{\"_tidb\":{\"commitTs\":12},\"data\":[]}\r\n");
        let post = |hook: &Webhook, event: &str| {
            let request = hook.client.post(hook.uri("f")).header("X-Perilune-Event", event).body(body.clone());
            hook.runtime.block_on(request.send()).unwrap().error_for_status().unwrap();
        };
        for event in ["ping", "rows", "watermark"] {
            post(&hook, event);
        }
        let seen = hook.seen().unwrap();
        assert!(seen.len() == 1 && seen[0].1 == Tso(12), "{seen:?}");
        assert!(hook.send_bare(&[body.clone(), body.clone()]).unwrap() > Duration::ZERO && hook.take("f").unwrap().is_empty());
        post(&hook, "rows");
        assert_eq!(hook.take("f").unwrap(), [body]);
    }

    #[test]
    fn what_stands_in_a_uri_is_escaped() {
        assert_eq!(escaped("a b+c/ü:"), "a%20b%2Bc%2F%C3%BC%3A");
    }
}
