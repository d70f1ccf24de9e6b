//! What one caller says, frame by frame: messages to pass on, and a snapshot in stretches between them. No socket.

use super::frame::Frame;
use super::transfer::Incoming;
use super::{Card, Post, Refusal, invalid};
use crate::log::disk::Disk;
use crate::log::room::Room;
use crate::log::status::Board;
use raft::eraftpb::Message;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// One caller's, from its greeting on.
pub(in crate::log) struct Arrivals {
    card: Card,
    from: u64,
    disk: Arc<dyn Disk>,
    board: Arc<Board>,
    snapshots: PathBuf,
    /// Of the file of a snapshot that arrives; no other caller has it.
    name: String,
    incoming: Option<Incoming>,
}

impl Arrivals {
    /// `number` differs from that of every other caller.
    pub(in crate::log) fn new(card: Card, from: u64, number: u64, disk: Arc<dyn Disk>, board: Arc<Board>, snapshots: PathBuf) -> Self {
        Self { card, from, disk, board, snapshots, name: format!("received.{from}.{number}"), incoming: None }
    }

    /// What the log thread is to be told of it, if anything; an error when it makes no sense.
    pub(in crate::log) fn take(&mut self, frame: Frame) -> io::Result<Option<Post>> {
        match frame {
            Frame::Message(message) => self.checked(message).map(Some),
            Frame::Snapshot(message) => {
                // One that is half received is forgotten first, as its file has the same name.
                drop(self.incoming.take());
                if self.board.room().0 != Room::Enough {
                    // Not even begun: it would take what room there is.
                    return Ok(Some(self.refuse(&io::ErrorKind::StorageFull.into())));
                }
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
        let full = matches!(why.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        Post::SnapshotRefused(self.from, if full { Refusal::NoRoom } else { Refusal::Damaged })
    }

    fn checked(&self, message: Message) -> io::Result<Post> {
        if message.from != self.from || message.to != self.card.me {
            let Message { from, to, .. } = message;
            return Err(invalid(format!("a message from member {from} to member {to}, sent by member {}", self.from)));
        }
        Ok(Post::Message(Box::new(message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::System;
    use uuid::Uuid;

    #[test]
    fn without_room_a_snapshot_is_refused_before_it_is_received() {
        let dir = tempfile::tempdir().unwrap();
        let board = Arc::<Board>::default();
        let card = Card { me: 2, cluster: Uuid::from_u128(7), token: None };
        let mut arrivals = Arrivals::new(card, 1, 1, Arc::new(System), Arc::clone(&board), dir.path().into());
        let mut message = Message { to: 2, from: 1, ..Message::default() };
        message.mut_snapshot().mut_metadata().index = 9;
        for (room, taken) in [(Room::Low, false), (Room::Brim, false), (Room::Enough, true)] {
            board.show_room(room, false);
            let post = arrivals.take(Frame::Snapshot(message.clone())).unwrap();
            assert_eq!(matches!(post, Some(Post::SnapshotRefused(1, Refusal::NoRoom))), !taken, "{room:?}");
            assert!(arrivals.take(Frame::Bytes(vec![1; 9])).unwrap().is_none());
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), usize::from(taken), "{room:?}");
        }
        let cut_short = arrivals.take(Frame::End).unwrap();
        assert!(matches!(cut_short, Some(Post::SnapshotRefused(1, Refusal::Damaged))));
    }
}
