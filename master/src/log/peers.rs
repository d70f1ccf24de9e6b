//! The way to the other members of the group.

use raft::eraftpb::Message;

/// Carries raft messages to other members. Called by the log thread: must not block; losing a message is allowed.
pub(super) trait Peers: Send + 'static {
    /// Sends one message to the member `message.to`.
    fn send(&mut self, message: Message);
}

/// A group of one: there is nobody to write to.
pub(super) struct Alone;

impl Peers for Alone {
    fn send(&mut self, message: Message) {
        tracing::error!(to = message.to, "a raft message for a member that this group does not have");
    }
}
