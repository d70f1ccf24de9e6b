//! What one caller says, frame by frame: messages to pass on, and a snapshot in stretches between them. No socket.

use super::frame::Frame;
use super::transfer::Incoming;
use super::{Card, Post, invalid};
use crate::log::disk::Disk;
use raft::eraftpb::Message;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// One caller's, from its greeting on.
pub(in crate::log) struct Arrivals {
    card: Card,
    from: u64,
    disk: Arc<dyn Disk>,
    snapshots: PathBuf,
    /// Of the file of a snapshot that arrives; no other caller has it.
    name: String,
    incoming: Option<Incoming>,
}

impl Arrivals {
    /// `number` differs from that of every other caller.
    pub(in crate::log) fn new(card: Card, from: u64, number: u64, disk: Arc<dyn Disk>, snapshots: PathBuf) -> Self {
        Self { card, from, disk, snapshots, name: format!("received.{from}.{number}"), incoming: None }
    }

    /// What the log thread is to be told of it, if anything; an error when it makes no sense.
    pub(in crate::log) fn take(&mut self, frame: Frame) -> io::Result<Option<Post>> {
        match frame {
            Frame::Message(message) => self.checked(message).map(Some),
            Frame::Snapshot(message) => {
                // One that is half received is forgotten first, as its file has the same name.
                drop(self.incoming.take());
                match Incoming::begin(Arc::clone(&self.disk), message, &self.snapshots, &self.name) {
                    Ok(begun) => self.incoming = Some(begun),
                    Err(e) => return Ok(Some(self.refuse(&e))),
                }
                Ok(None)
            }
            // Of one that went wrong, the rest is passed over.
            Frame::Bytes(bytes) => match self.incoming.as_mut().map(|incoming| incoming.write(&bytes)) {
                Some(Err(e)) => {
                    self.incoming = None;
                    Ok(Some(self.refuse(&e)))
                }
                _ => Ok(None),
            },
            Frame::End => match self.incoming.take().map(|incoming| incoming.finish(&self.snapshots, self.card.cluster)) {
                Some(Ok(message)) => self.checked(message).map(Some),
                Some(Err(e)) => Ok(Some(self.refuse(&e))),
                None => Ok(None),
            },
        }
    }

    /// The other side is told, by way of the log thread, and may begin again.
    fn refuse(&self, why: &io::Error) -> Post {
        tracing::warn!(from = self.from, "a snapshot was not stored as it was sent, what was here is kept: {why}");
        Post::SnapshotRefused(self.from)
    }

    fn checked(&self, message: Message) -> io::Result<Post> {
        if message.from != self.from || message.to != self.card.me {
            let Message { from, to, .. } = message;
            return Err(invalid(format!("a message from member {from} to member {to}, sent by member {}", self.from)));
        }
        Ok(Post::Message(Box::new(message)))
    }
}
