//! What this machine can do at best: a plain copy in memory, and one question and answer of the same size over a socket.

use super::{Bench, Case, Connection, Op, Rival, START, Sample, Setting, Trouble, measure};
use crate::pinned::Process;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Copies the bytes inside this process.
#[derive(Default)]
pub struct Memcpy {
    bench: Bench,
    arena: Arena,
}

/// As much memory as a working set has, so that copies do not stay in the caches.
#[derive(Default)]
struct Arena {
    bytes: Vec<u8>,
    at: usize,
}

const ARENA: usize = 256 << 20;

impl Arena {
    fn next(&mut self, len: usize) -> &mut [u8] {
        self.bytes.resize(ARENA, 0);
        if self.at + len > ARENA {
            self.at = 0;
        }
        self.at += len;
        &mut self.bytes[self.at - len..self.at]
    }
}

impl Rival for Memcpy {
    fn name(&self) -> String {
        "memcpy".into()
    }

    fn measure(&mut self, case: &Case, time: Duration) -> Result<Sample, Trouble> {
        measure(&mut self.bench, &mut self.arena, case, time)
    }
}

impl Connection for Arena {
    fn put(&mut self, keys: &[String], value: &[u8]) -> Result<(), Trouble> {
        for _ in keys {
            self.next(value.len()).copy_from_slice(value);
        }
        std::hint::black_box(&self.bytes);
        Ok(())
    }

    fn get(&mut self, keys: &[String], into: &mut [u8]) -> Result<(), Trouble> {
        let size = into.len() / keys.len();
        for into in into.chunks_mut(size) {
            into.copy_from_slice(self.next(size));
        }
        std::hint::black_box(into);
        Ok(())
    }

    fn forget(&mut self, _prefix: &str, _keys: &[String]) -> Result<(), Trouble> {
        Ok(())
    }

    fn servers(&self) -> Vec<u32> {
        Vec::new()
    }

    fn keeps_values(&self) -> bool {
        false
    }
}

/// One question and one answer over a socket to another process, with nothing behind it.
pub struct RawTcp {
    bench: Bench,
    link: Link,
}

struct Link {
    stream: TcpStream,
    server: Process,
}

impl RawTcp {
    /// Starts the other process: this program, asked to answer.
    pub fn start(setting: &Setting<'_>) -> Result<Self, Trouble> {
        let mut command = Command::new(setting.program);
        command.args(["bench", "answer-raw"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut server = Process::start(&mut command, setting.server_core.as_slice())?;
        let mut port = String::new();
        BufReader::new(server.child().stdout.take().ok_or("the raw server has no output")?).read_line(&mut port)?;
        let port: u16 = port.trim().parse().map_err(|e| format!("the raw server did not tell its port within {START:?}: {e}"))?;
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self { bench: Bench::default(), link: Link { stream, server } })
    }
}

impl Rival for RawTcp {
    fn name(&self) -> String {
        "raw tcp".into()
    }

    fn measure(&mut self, case: &Case, time: Duration) -> Result<Sample, Trouble> {
        measure(&mut self.bench, &mut self.link, case, time)
    }
}

/// A question: which operation, how many bytes, how many of them are a value.
fn question(op: Op, len: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = op as u8;
    bytes[8..].copy_from_slice(&(len as u64).to_le_bytes());
    bytes
}

impl Connection for Link {
    fn put(&mut self, keys: &[String], value: &[u8]) -> Result<(), Trouble> {
        self.stream.write_all(&question(Op::Put, value.len() * keys.len()))?;
        for _ in keys {
            self.stream.write_all(value)?;
        }
        Ok(self.stream.read_exact(&mut [0])?)
    }

    fn get(&mut self, _keys: &[String], into: &mut [u8]) -> Result<(), Trouble> {
        self.stream.write_all(&question(Op::Get, into.len()))?;
        Ok(self.stream.read_exact(into)?)
    }

    fn forget(&mut self, _prefix: &str, _keys: &[String]) -> Result<(), Trouble> {
        Ok(())
    }

    fn servers(&self) -> Vec<u32> {
        vec![self.server.pid()]
    }

    fn keeps_values(&self) -> bool {
        false
    }
}

/// The other side of [`RawTcp`]: takes one connection and answers until it closes. `listening` is told the port.
pub fn answer_raw(listening: impl FnOnce(u16) -> std::io::Result<()>) -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    listening(listener.local_addr()?.port())?;
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut arena = Arena::default();
    let mut asked = [0; 16];
    while stream.read_exact(&mut asked).is_ok() {
        let len = usize::try_from(u64::from_le_bytes(asked[8..].try_into().unwrap_or_default())).unwrap_or(usize::MAX);
        if len > ARENA {
            return Err(std::io::Error::other(format!("a question for {len} bytes, the limit is {ARENA}")));
        }
        if asked[0] == Op::Put as u8 {
            stream.read_exact(arena.next(len))?;
            stream.write_all(&[0])?;
        } else {
            stream.write_all(arena.next(len))?;
        }
    }
    Ok(())
}
