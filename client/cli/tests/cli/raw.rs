//! A caller of a master that says each word itself, so that a put can be begun and not ended.

use perilune_protocol::frame::{HEADER_BYTES, Header};
use perilune_protocol::rpc::session::Greet;
use perilune_protocol::rpc::{self, Call};
use perilune_protocol::{Fault, Outcome};
use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::net::TcpStream;

pub(crate) struct Raw(TcpStream);

impl Raw {
    /// One that speaks for a tenant.
    pub(crate) fn greet(rpc: &str, tenant: &str) -> Self {
        let mut raw = Self(TcpStream::connect(rpc).unwrap());
        raw.ask(&Greet { agent: "test".into(), tenant: tenant.into(), ..Greet::default() }).unwrap();
        raw
    }

    pub(crate) fn ask<C: Call>(&mut self, question: &C) -> Outcome<C::Reply>
    where
        Outcome<C::Reply>: DeserializeOwned,
    {
        let mut frame = Vec::new();
        rpc::encode_question(&mut frame, 1, question).unwrap();
        self.0.write_all(&frame).unwrap();
        let mut head = [0; HEADER_BYTES];
        self.0.read_exact(&mut head).unwrap();
        let mut body = vec![0; Header::decode(&head).unwrap().body_len as usize];
        self.0.read_exact(&mut body).unwrap();
        rpc::decode::<Result<C::Reply, Fault>>(&body).unwrap()
    }
}
