//! A master for tests: a listener whose connections are played by a closure.

use super::Caller;
use perilune_protocol::Outcome;
use perilune_protocol::frame::{HEADER_BYTES, Header};
use perilune_protocol::rpc::session::{Greet, Hello, Welcome};
use perilune_protocol::rpc::{self, Call};
use serde::Serialize;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// One connection, seen from the master.
pub(crate) struct Peer {
    /// Counts connections from 0.
    pub(crate) nth: usize,
    socket: TcpStream,
}

/// A question as it came.
pub(crate) struct Asked {
    pub(crate) op: u16,
    pub(crate) id: u64,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn read<C: Call>(&self) -> C {
        assert_eq!(self.op, C::OP, "another question was expected");
        rpc::decode(&self.body).unwrap()
    }
}

impl Peer {
    /// The next question, or `None` when the client left.
    pub(crate) fn ask(&mut self) -> Option<Asked> {
        let mut head = [0; HEADER_BYTES];
        self.socket.read_exact(&mut head).ok()?;
        let header = Header::decode(&head).unwrap();
        let mut body = vec![0; header.body_len as usize];
        self.socket.read_exact(&mut body).ok()?;
        header.check(&body).unwrap();
        Some(Asked { op: header.op, id: header.id, body })
    }

    /// As [`Peer::ask`], and `None` when none comes in time.
    pub(crate) fn ask_within(&mut self, patience: Duration) -> Option<Asked> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let asked = self.ask();
        self.socket.set_read_timeout(None).unwrap();
        asked
    }

    pub(crate) fn answer<R: Serialize>(&mut self, asked: &Asked, answer: Outcome<R>) {
        let mut out = Vec::new();
        rpc::encode_answer(&mut out, asked.op, asked.id, &answer).unwrap();
        self.send(&out);
    }

    /// Whether the client is still there does not matter to a test's master.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    pub(crate) fn hello(&mut self) -> Option<()> {
        self.hello_with(welcome())
    }

    pub(crate) fn hello_with(&mut self, welcome: Welcome) -> Option<()> {
        let asked = self.ask()?;
        asked.read::<Hello>();
        self.answer(&asked, Ok(welcome));
        Some(())
    }
}

pub(crate) fn caller() -> Caller {
    Caller { token: None, greet: Greet { agent: "test".into(), ..Greet::default() } }
}

pub(crate) fn welcome() -> Welcome {
    Welcome { cluster: "test".into(), release: "0".into(), lease_ms: 10_000, heartbeat_ms: 1_000, put_deadline_ms: 30_000 }
}

/// Plays a master; its address. A connection closes when the closure returns. Ends with the test's process.
pub(crate) fn master(play: impl Fn(Peer) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let play = std::sync::Arc::new(play);
    thread::spawn(move || {
        for (nth, socket) in listener.incoming().flatten().enumerate() {
            let play = std::sync::Arc::clone(&play);
            thread::spawn(move || play(Peer { nth, socket }));
        }
    });
    address
}

/// An address where nobody listens.
pub(crate) fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// An answer with one damaged byte.
pub(crate) fn damaged(asked: &Asked) -> Vec<u8> {
    let mut out = Vec::new();
    rpc::encode_answer(&mut out, asked.op, asked.id, &Ok(7u64)).unwrap();
    *out.last_mut().unwrap() ^= 1;
    out
}
