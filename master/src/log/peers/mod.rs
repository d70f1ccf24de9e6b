//! The way to the other members of the group.
//!
//! ```text
//! log thread ─► Peers::send ─► link (a thread and a connection to each member) ═══► listen (a thread for each caller) ─► post ─► log thread
//! ```
//! | file | what |
//! |---|---|
//! | `hello`, `proof`, `frame` | what crosses the wire; no socket |
//! | `link` | to one member |
//! | `listen`, `arrivals` | from the others |
//! | `transfer` | a snapshot on its way |

mod arrivals;
mod frame;
mod hello;
mod link;
mod listen;
mod proof;
mod transfer;

#[cfg(feature = "simulation")]
pub(super) use self::{
    arrivals::Arrivals,
    frame::{put_message, read},
    transfer::Outgoing,
};

use super::directory::{self, Directory, io_error};
use super::disk::Disk;
use super::members::Member;
use super::snapshot::SnapshotId;
use super::status::Board;
use super::{LogConfig, LogError};
use crossbeam::channel::Sender;
use link::Link;
use listen::Listener;
use perilune_protocol::access::Token;
use raft::eraftpb::Message;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

/// What the others, or the way to them, have to say. Raft tolerates that any of it is lost.
pub(super) enum Post {
    /// A message of another member. With a snapshot's, the file has arrived whole and waits in the snapshot directory.
    Message(Box<Message>),
    /// What was last sent to this member is probably lost.
    Unreachable(u64),
    /// Whether all of a snapshot was written to this member. Whether it took it over, its own answer to raft says.
    SnapshotSent(u64, bool),
    /// A snapshot of this member was not stored.
    SnapshotRefused(u64, Refusal),
}

/// Why a snapshot is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It did not arrive as it was sent, or could not be stored.
    Damaged,
    /// It may be well: there is no room for it.
    NoRoom,
}

/// Carries raft messages to other members. Called by the log thread: must not block; losing a message is allowed.
pub(super) trait Peers: Send + 'static {
    /// Whom there is to write to, this member left out.
    fn members(&mut self, members: &[Member]);

    /// Sends one message to the member `message.to`. False when it is surely lost.
    fn send(&mut self, message: Message) -> bool;

    /// Sends the snapshot `id` and then `message`, which announces it. What came of it is told by [`Post::SnapshotSent`], or by false.
    fn send_snapshot(&mut self, message: Message, id: SnapshotId) -> bool;
}

/// A group of one: there is nobody to write to.
pub(super) struct Alone;

impl Peers for Alone {
    fn members(&mut self, members: &[Member]) {
        for member in members {
            tracing::error!(member = member.id, "this member was opened without a listener and cannot reach the others");
        }
    }

    fn send(&mut self, _: Message) -> bool {
        false
    }

    fn send_snapshot(&mut self, _: Message, _: SnapshotId) -> bool {
        false
    }
}

/// Who this member is to the others.
#[derive(Clone)]
pub(super) struct Card {
    pub(super) me: u64,
    pub(super) cluster: Uuid,
    /// The others must know it too.
    pub(super) token: Option<Token>,
}

/// Members over TCP.
pub(super) struct Tcp {
    card: Card,
    disk: Arc<dyn Disk>,
    snapshots: PathBuf,
    post: Sender<Post>,
    links: BTreeMap<u64, Link>,
    /// Dropped last: then no reader is left.
    _listener: Listener,
}

/// The way to the others that `config` asks for.
pub(super) fn open(config: &LogConfig, directory: &Directory, board: Arc<Board>, post: Sender<Post>) -> Result<Box<dyn Peers>, LogError> {
    let Some(listener) = &config.listen else { return Ok(Box::new(Alone)) };
    let card = Card { me: config.member, cluster: directory.cluster, token: config.token.clone() };
    let (disk, snapshots) = (Arc::clone(&directory.disk), directory::snapshots(&directory.path));
    let listening = Listener::start(Arc::clone(listener), card.clone(), Arc::clone(&disk), board, snapshots.clone(), post.clone());
    let listener = listening.map_err(|e| io_error(&config.dir, "the listener for other members cannot be started", e))?;
    Ok(Box::new(Tcp { card, disk, snapshots, post, links: BTreeMap::new(), _listener: listener }))
}

impl Peers for Tcp {
    fn members(&mut self, members: &[Member]) {
        let stays = |id: &u64, link: &mut Link| members.iter().any(|m| m.id == *id && m.address == link.address);
        let gone: Vec<Link> = self.links.extract_if(.., |id, link| !stays(id, link)).map(|(_, link)| link).collect();
        if !gone.is_empty() {
            // Elsewhere, for a link that is just connecting takes its time to end.
            std::thread::spawn(move || drop(gone));
        }
        for member in members {
            if self.links.contains_key(&member.id) {
                continue;
            }
            match Link::start(self.card.clone(), Arc::clone(&self.disk), member, self.post.clone()) {
                Ok(link) => drop(self.links.insert(member.id, link)),
                Err(e) => tracing::error!(member = member.id, "a thread that writes to another member cannot be started: {e}"),
            }
        }
    }

    fn send(&mut self, message: Message) -> bool {
        self.links.get(&message.to).is_some_and(|link| link.send(message))
    }

    fn send_snapshot(&mut self, message: Message, id: SnapshotId) -> bool {
        let path = id.path(&self.snapshots);
        self.links.get(&message.to).is_some_and(|link| link.send_snapshot(message, path))
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.links.values_mut().for_each(Link::stop);
    }
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
