//! A listener of HTTP/1.1 that takes whatever is posted, and notes what came and when.

use bytes::Bytes;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

/// Rows that came, and when their last byte did.
pub(super) type Seen = (Instant, Bytes);

/// Its threads end with the process.
pub(super) struct Listener {
    pub(super) addr: SocketAddr,
    /// Written by the thread of a connection before it answers.
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Listener {
    pub(super) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (addr, seen) = (listener.local_addr()?, Arc::<Mutex<Vec<Seen>>>::default());
        let of_threads = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&of_threads);
                // An error is the end of a connection; whoever called notices.
                thread::spawn(move || serve(stream, &seen));
            }
        });
        Ok(Self { addr, seen })
    }

    /// Bodies of rows that came since this was asked last.
    pub(super) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *lock(&self.seen))
    }
}

fn lock(seen: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Seen>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut has_rows) = (0, false);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            let (name, value) = line.trim_end().split_once(": ").unwrap_or_default();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().map_err(io::Error::other)?,
                "x-perilune-event" => has_rows = value == "rows",
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        if has_rows {
            lock(seen).push((Instant::now(), body.into()));
        }
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}
