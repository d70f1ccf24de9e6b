//! Redis from Debian, by RESP: SET and GET, MSET and MGET for batches.

use super::wire::Wire;
use super::{Bench, Case, Connection, Rival, START, Sample, Setting, Trouble, free_port, is_installed, measure};
use crate::pinned::Process;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A Redis server of our own on a private port.
pub struct Redis {
    bench: Bench,
    link: Link,
}

struct Link {
    wire: Wire,
    server: Process,
}

impl Redis {
    /// Starts it; `None` when it is not installed.
    pub fn start(setting: &Setting<'_>) -> Result<Option<Self>, Trouble> {
        if !is_installed("redis-server") {
            return Ok(None);
        }
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--maxmemory", "6gb"]);
        command.current_dir(setting.dir).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Process::start(&mut command, setting.server_core.as_slice())?;
        server.wait_until("redis-server", START, || Wire::connect(port).is_ok())?;
        Ok(Some(Self { bench: Bench::default(), link: Link { wire: Wire::connect(port)?, server } }))
    }
}

impl Rival for Redis {
    fn name(&self) -> String {
        "redis".into()
    }

    fn measure(&mut self, case: &Case, time: Duration) -> Result<Sample, Trouble> {
        measure(&mut self.bench, &mut self.link, case, time)
    }
}

impl Connection for Link {
    fn put(&mut self, keys: &[String], value: &[u8]) -> Result<(), Trouble> {
        let command = if keys.len() == 1 { "$3\r\nSET\r\n" } else { "$4\r\nMSET\r\n" };
        let heads: Vec<String> = keys
            .iter()
            .enumerate()
            .map(|(i, key)| {
                let first = if i == 0 { format!("*{}\r\n{command}", 1 + 2 * keys.len()) } else { "\r\n".into() };
                format!("{first}${}\r\n{key}\r\n${}\r\n", key.len(), value.len())
            })
            .collect();
        let mut parts: Vec<&[u8]> = heads.iter().flat_map(|head| [head.as_bytes(), value]).collect();
        parts.push(b"\r\n");
        self.wire.send(&parts)?;
        self.wire.expect("+OK")
    }

    fn get(&mut self, keys: &[String], into: &mut [u8]) -> Result<(), Trouble> {
        let size = into.len() / keys.len();
        let command = if keys.len() == 1 { "*2\r\n$3\r\nGET\r\n".to_owned() } else { format!("*{}\r\n$4\r\nMGET\r\n", 1 + keys.len()) };
        let question: String = std::iter::once(command).chain(keys.iter().map(|key| format!("${}\r\n{key}\r\n", key.len()))).collect();
        self.wire.send(&[question.as_bytes()])?;
        if keys.len() > 1 {
            self.wire.expect(&format!("*{}", keys.len()))?;
        }
        // An answer is taken whole even when a value is missing, so that the next one begins where it should.
        let mut missing = None;
        for (key, into) in keys.iter().zip(into.chunks_mut(size)) {
            match self.wire.line()?.as_str() {
                "$-1" => missing = Some(key),
                other if *other == format!("${size}") => {
                    self.wire.bytes(into)?;
                    self.wire.expect("")?;
                }
                other => return Err(format!("redis answered `{other}` for {key}").into()),
            }
        }
        missing.map_or(Ok(()), |key| Err(format!("redis has no {key}").into()))
    }

    fn forget(&mut self, _prefix: &str, keys: &[String]) -> Result<(), Trouble> {
        for keys in keys.chunks(512) {
            let question: String = std::iter::once(format!("*{}\r\n$3\r\nDEL\r\n", 1 + keys.len()))
                .chain(keys.iter().map(|key| format!("${}\r\n{key}\r\n", key.len())))
                .collect();
            self.wire.send(&[question.as_bytes()])?;
            self.wire.line()?;
        }
        Ok(())
    }

    fn servers(&self) -> Vec<u32> {
        vec![self.server.pid()]
    }
}
