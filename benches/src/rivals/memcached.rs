//! memcached from Debian, by its text protocol: set and get; pipelined sets and one get of many keys for batches.

use super::wire::Wire;
use super::{Bench, Case, Connection, Rival, START, Sample, Setting, Trouble, free_port, is_installed, measure};
use crate::pinned::Process;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A memcached of our own on a private port.
pub struct Memcached {
    bench: Bench,
    link: Link,
}

struct Link {
    wire: Wire,
    server: Process,
}

impl Memcached {
    /// Starts it; `None` when it is not installed.
    pub fn start(setting: &Setting<'_>) -> Result<Option<Self>, Trouble> {
        if !is_installed("memcached") {
            return Ok(None);
        }
        let port = free_port()?;
        let mut command = Command::new("memcached");
        command.args(["-u", "nobody", "-l", "127.0.0.1", "-p", &port.to_string(), "-m", "6144", "-I", "64m", "-t", "1"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Process::start(&mut command, setting.server_core.as_slice())?;
        server.wait_until("memcached", START, || Wire::connect(port).is_ok())?;
        Ok(Some(Self { bench: Bench::default(), link: Link { wire: Wire::connect(port)?, server } }))
    }
}

impl Rival for Memcached {
    fn name(&self) -> String {
        "memcached".into()
    }

    fn measure(&mut self, case: &Case, time: Duration) -> Result<Sample, Trouble> {
        measure(&mut self.bench, &mut self.link, case, time)
    }
}

impl Connection for Link {
    fn put(&mut self, keys: &[String], value: &[u8]) -> Result<(), Trouble> {
        let heads: Vec<String> = keys.iter().map(|key| format!("set {key} 0 0 {}\r\n", value.len())).collect();
        let parts: Vec<&[u8]> = heads.iter().flat_map(|head| [head.as_bytes(), value, b"\r\n"]).collect();
        self.wire.send(&parts)?;
        keys.iter().try_for_each(|_| self.wire.expect("STORED"))
    }

    fn get(&mut self, keys: &[String], into: &mut [u8]) -> Result<(), Trouble> {
        let size = into.len() / keys.len();
        self.wire.send(&[b"get ", keys.join(" ").as_bytes(), b"\r\n"])?;
        let mut found = 0;
        loop {
            let line = self.wire.line()?;
            if line == "END" {
                break;
            }
            if !(line.starts_with("VALUE ") && line.ends_with(&format!(" {size}")) && found < keys.len()) {
                return Err(format!("memcached answered `{line}`").into());
            }
            self.wire.bytes(&mut into[found * size..][..size])?;
            self.wire.expect("")?;
            found += 1;
        }
        if found == keys.len() { Ok(()) } else { Err(format!("memcached has {found} of {} values", keys.len()).into()) }
    }

    fn forget(&mut self, _prefix: &str, keys: &[String]) -> Result<(), Trouble> {
        for keys in keys.chunks(512) {
            let question: String = keys.iter().map(|key| format!("delete {key}\r\n")).collect();
            self.wire.send(&[question.as_bytes()])?;
            for _ in keys {
                self.wire.line()?;
            }
        }
        Ok(())
    }

    fn servers(&self) -> Vec<u32> {
        vec![self.server.pid()]
    }
}
