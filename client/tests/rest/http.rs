//! The smallest HTTP client: what is sent is what is written here.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        assert!(self.head.contains("application/json; charset=utf-8"), "{}", self.head);
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks status and sentence.
    #[track_caller]
    pub(crate) fn refuses(&self, status: u16, error: &str) {
        let json = self.json();
        let said = json["error"].as_str().unwrap();
        assert!(self.status == status && said.starts_with(error), "{} {json}, not {status} {error}", self.status);
    }
}

pub(crate) fn send(at: SocketAddr, method: &str, path: &str, body: &[u8]) -> Reply {
    let mut socket = TcpStream::connect(at).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {at}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    // A server that refuses a body may close before it was sent whole.
    let _ = socket.write_all(body);
    let mut answer = Vec::new();
    let ended = socket.read_to_end(&mut answer);
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("no answer to {method} {path}: {ended:?}"));
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head, body }
}
