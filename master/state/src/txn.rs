//! Puts in progress as transactions: somebody else than the writer ends them.
//!
//! All puts of one [`perilune_protocol::rpc::object::PutStart`] are one transaction. It is known by the version of any of them, and by its
//! writer, which is its label.

use crate::MonotonicMs;
use crate::apply::State;
use crate::objects::limbo::Why;
use crate::objects::puts::Put;
use perilune_protocol::{TenantId, Tso, WriterId};
use std::sync::Arc;

/// Which transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Txn {
    /// With a put of this version.
    Version(Tso),
    /// Of this writer.
    Label(WriterId),
}

impl State {
    /// The puts of a tenant that are in progress, the oldest first.
    pub fn open_puts(&self, tenant: TenantId) -> Vec<Arc<Put>> {
        let mut open = self.puts.of(tenant);
        open.sort_unstable_by_key(|put| put.version);
        open
    }

    /// All that a transaction has in progress.
    pub fn puts_of(&self, tenant: TenantId, txn: Txn) -> Vec<Arc<Put>> {
        let open = self.open_puts(tenant);
        let writer = match txn {
            Txn::Label(writer) => Some(writer),
            Txn::Version(version) => open.iter().find(|put| put.version == version).map(|put| put.writer()),
        };
        open.into_iter().filter(|put| Some(put.writer()) == writer).collect()
    }

    /// Ends a put that is in progress: its key, its quota and its label can be used at once. Its room can once its writer surely writes no more:
    /// as after [`State::put_revoke`] where somebody vouches that it has gone, otherwise as where it was not heard again. A writer that lives is told when it
    /// ends the put, and does not begin it anew. False when it ended
    /// otherwise meanwhile.
    pub fn abort(&self, put: &Put, writer_gone: bool, now: MonotonicMs) -> bool {
        self.end_put(put, if writer_gone { Why::Revoked } else { Why::Abandoned }, true, now)
    }
}
