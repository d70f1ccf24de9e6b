//! A listener of HTTP: rows are posted, a row a line of JSON, and are there once it has answered 2xx.
//!
//! ```text
//! POST PATH
//! Content-Type: application/x-ndjson
//! X-Perilune-Feed: NAMESPACE/NAME
//! X-Perilune-Event: ping | rows | watermark
//! Idempotency-Key: of the feed as it is set up, and the places of the first row and of the last: the same when these are sent together again
//! X-Perilune-Signature: t=SECONDS,v1=HEX       where there is a `secret`: HMAC-SHA256 with it of "SECONDS.KEY." and the body, KEY being that above
//! ```
//! Parameters of the URI that are ours, `protocol`, `secret` and `timeout`, are not sent; `user:password@` is sent as basic authentication.

use super::{Sink, Whose};
use crate::api::Boxed;
use crate::feeds::check::{BOOTSTRAP, Checked};
use crate::feeds::config::ReplicaConfig;
use crate::feeds::duration::Nanos;
use crate::feeds::encode::Encoder;
use crate::feeds::failure::{Code, Failure};
use crate::feeds::row::Row;
use hmac::{Hmac, Mac};
use perilune_protocol::Tso;
use perilune_protocol::metakey::hex;
use reqwest::{Client, StatusCode};
use sha2::Sha256;
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

/// Parameters that are ours.
const OURS: [&str; 5] = ["protocol", "secret", "timeout", "enable-tidb-extension", BOOTSTRAP];
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes of one request, if no single row is larger.
const BODY_BYTES: usize = 1 << 20;
/// A body is not more than such a part of what may be in flight.
const BODIES_IN_QUOTA: u64 = 4;

pub(super) struct Webhook {
    client: Client,
    url: String,
    basic: Option<(String, Option<String>)>,
    secret: Option<Zeroizing<String>>,
    feed: String,
    /// Of this feed in this run with this config: what another feed sends, or this one anew on purpose, has other keys.
    stem: String,
    encoder: Encoder,
    /// A body ends with the row that makes it so long.
    body_bytes: usize,
}

impl Webhook {
    /// Opens the connection and posts a `ping`.
    pub(super) async fn open(whose: &Whose<'_>, checked: &Checked, config: &ReplicaConfig) -> Result<Self, Failure> {
        let wrong = |why: String| Code::SinkInvalidConfig.with(format!("sink config invalid: {why}"));
        let uri = &checked.uri;
        let timeout = match uri.get("timeout") {
            None => TIMEOUT,
            Some(said) => Nanos::parse(said)
                .map(Nanos::duration)
                .filter(|said| !said.is_zero())
                .ok_or_else(|| wrong("timeout is such as 10s".into()))?,
        };
        perilune_vault::provide_tls();
        let client = Client::builder().connect_timeout(CONNECT).timeout(timeout).redirect(reqwest::redirect::Policy::none()).build();
        let client = client.map_err(|e| wrong(causes(e)))?;
        let [feed, run] = whose.run;
        let set_up = format!("{:?}{}", checked.protocol, config.shown());
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, set_up.as_bytes());
        let new = Self {
            client,
            url: uri.without(&OURS),
            basic: (!uri.user.is_empty()).then(|| (uri.user.clone(), uri.password.clone())),
            secret: uri.get("secret").map(|secret| Zeroizing::new(secret.to_owned())),
            feed: whose.name.to_owned(),
            stem: format!("{feed}.{run}.{sum:08x}"),
            encoder: Encoder::new(checked.protocol, config, true),
            body_bytes: usize::try_from(config.memory_quota / BODIES_IN_QUOTA).unwrap_or(BODY_BYTES).min(BODY_BYTES),
        };
        match new.post("ping", "ping", Vec::new()).await? {
            status if status.is_success() => Ok(new),
            status => Err(refused(status)),
        }
    }

    async fn post(&self, event: &str, key: &str, body: Vec<u8>) -> Result<StatusCode, Failure> {
        let key = &format!("{}.{key}", self.stem);
        let mut request = self.client.post(&self.url).header("Content-Type", "application/x-ndjson");
        request = request.header("X-Perilune-Feed", &self.feed).header("X-Perilune-Event", event).header("Idempotency-Key", key);
        if let Some((user, password)) = &self.basic {
            request = request.basic_auth(user, password.as_ref());
        }
        if let Some(secret) = &self.secret {
            let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            request = request.header("X-Perilune-Signature", format!("t={seconds},v1={}", signature(secret, seconds, key, &body)));
        }
        let answer = request.body(body).send().await;
        answer.map(|answer| answer.status()).map_err(|e| match e.is_builder() {
            true => Code::SinkUriInvalid.with(format!("sink uri invalid '{}'", causes(e))),
            false => Code::Webhook.with(format!("the listener did not answer: {}", causes(e))),
        })
    }

    async fn take(&mut self, rows: &[Row]) -> Result<u64, Failure> {
        let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let (mut body, mut first, mut bytes) = (Vec::new(), 0, 0);
        for (nth, row) in rows.iter().enumerate() {
            self.encoder.line(row, now_ms, &mut body);
            if body.len() >= self.body_bytes || nth + 1 == rows.len() {
                bytes += body.len() as u64;
                self.deliver(&rows[first..=nth], std::mem::take(&mut body), now_ms).await?;
                first = nth + 1;
            }
        }
        Ok(bytes)
    }

    /// Posts rows; where the listener takes them not all at once, one after the other, so that it is known which it does not take.
    async fn deliver(&self, rows: &[Row], body: Vec<u8>, now_ms: u64) -> Result<(), Failure> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
        let status = self.post("rows", &format!("{}.{}", first.place, last.place), body).await?;
        let about_rows = [StatusCode::BAD_REQUEST, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY, StatusCode::CONFLICT];
        match status {
            status if status.is_success() => return Ok(()),
            status if !about_rows.contains(&status) => return Err(refused(status)),
            _ => {}
        }
        for row in rows {
            let mut body = Vec::new();
            self.encoder.line(row, now_ms, &mut body);
            match self.post("rows", &format!("{0}.{0}", row.place), body).await? {
                status if status.is_success() => {}
                status if about_rows.contains(&status) => {
                    return Err(Code::RowRejected.with(format!("the listener answers {status} to {}", row.name())));
                }
                status => return Err(refused(status)),
            }
        }
        Ok(())
    }

    async fn tell(&mut self, checkpoint: Tso) -> Result<(), Failure> {
        let mut body = Vec::new();
        self.encoder.watermark(checkpoint, checkpoint.physical_ms(), &mut body);
        match self.post("watermark", &format!("watermark-{}", checkpoint.0), body).await? {
            status if status.is_success() => Ok(()),
            status => Err(refused(status)),
        }
    }
}

impl Sink for Webhook {
    fn write<'a>(&'a mut self, rows: &'a [Row]) -> Boxed<'a, Result<u64, Failure>> {
        Box::pin(self.take(rows))
    }

    fn flush(&mut self, checkpoint: Tso) -> Boxed<'_, Result<(), Failure>> {
        Box::pin(self.tell(checkpoint))
    }
}

fn refused(status: StatusCode) -> Failure {
    Code::Webhook.with(format!("the listener answers {status}"))
}

/// An error with what it came from, on one line. Without the URL, which may hold what only the receiver should see.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}

fn signature(secret: &str, seconds: u64, key: &str, body: &[u8]) -> String {
    // A key of any length is one.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(format!("{seconds}.{key}.").as_bytes());
    mac.update(body);
    hex(&mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf '1700000000.1.1.0.ping.{"a":1}' | openssl dgst -sha256 -hmac s3cret`
    #[test]
    fn a_signature_is_what_openssl_makes() {
        assert_eq!(signature("s3cret", 1_700_000_000, "1.1.0.ping", br#"{"a":1}"#), SIGNED);
    }

    const SIGNED: &str = "48c8f6103c299fb4ca97dd67add5d5453a8e71065cf39ba5b1cc319e175383e7";
}
