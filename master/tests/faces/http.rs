//! A client that shows everything of an answer and helps with nothing.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One answer. Header names in lower case.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    /// Whether the body ended as announced.
    pub(crate) whole: bool,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Asks on a connection of its own.
pub(crate) fn ask(addr: SocketAddr, method: &str, path: &str) -> Reply {
    let mut stream = connect(addr);
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    read(stream, method == "HEAD")
}

/// The same, with a body, as `curl -d` sends it.
pub(crate) fn send(addr: SocketAddr, method: &str, path: &str, body: &str) -> Reply {
    read(tell(addr, method, path, body), false)
}

/// The same, without waiting for an answer.
pub(crate) fn tell(addr: SocketAddr, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = connect(addr);
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n").unwrap();
    write!(stream, "Content-Length: {length}\r\n\r\n{body}").unwrap();
    stream
}

pub(crate) fn read(stream: TcpStream, head_only: bool) -> Reply {
    let mut stream = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    let status = line().split(' ').nth(1).expect("a status").parse().unwrap();
    let mut headers = BTreeMap::new();
    loop {
        let header = line();
        let Some((name, value)) = header.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut rest = Vec::new();
    let clean = stream.read_to_end(&mut rest).is_ok();
    let (body, whole) = match headers.get("content-length") {
        _ if head_only => (rest, true),
        Some(length) => {
            let whole = rest.len() == length.parse::<usize>().unwrap();
            (rest, whole)
        }
        None => dechunk(&rest),
    };
    Reply { status, headers, body: String::from_utf8(body).unwrap(), whole: whole && clean }
}

fn dechunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    while let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return (out, true);
        }
        let Some(chunk) = bytes.get(end + 2..end + 2 + length) else { break };
        out.extend_from_slice(chunk);
        bytes = bytes.get(end + 4 + length..).unwrap_or_default();
    }
    (out, false)
}
