//! Puts in progress as transactions: somebody else than the writer ends them.
//!
//! All puts of one [`perilune_protocol::rpc::object::PutStart`] are one transaction. It is known by the version of any of them, and by its
//! writer, which is its label.

use crate::MonotonicMs;
use crate::apply::State;
use crate::effect::Effect;
use crate::objects::KeyRef;
use crate::objects::limbo::Why;
use crate::objects::puts::{GivenUp, Put};
use perilune_protocol::{ObjectKey, TenantId, Tso, WriterId};
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

    /// Whoever asked on this connection has closed it, or the system did when its process ended: it is not one that was stopped in the middle of a
    /// write.
    pub fn writer_left(&self, session: u64) {
        self.puts.left(session);
        self.limbo.have_ended(|writer| writer.session == session);
    }

    /// Somebody vouches that the writer of puts that were ended before has ended: their room waits for its deadline only. Of how many that is news.
    pub fn vouch_gone(&self, tenant: TenantId, txn: Txn) -> usize {
        let of_tenant = |gone: &GivenUp| gone.key.as_ref().tenant == tenant;
        let writer = match txn {
            Txn::Label(writer) => Some(writer),
            Txn::Version(version) => self.puts.last_given_up(|gone| gone.version == version && of_tenant(gone)).map(|gone| gone.writer),
        };
        let versions: Vec<Tso> = self.puts.given_up_where(|gone| Some(gone.writer) == writer && of_tenant(gone));
        self.limbo.have_ended(|writer| versions.contains(&writer.version))
    }

    /// Ends a put that is in progress: its key, its quota and its label can be used at once. Its room can once its writer surely writes no more:
    /// as after [`State::put_revoke`] where somebody vouches that it has gone, otherwise as where it was not heard again. A writer that lives is told when it
    /// ends the put, and does not begin it anew; with the effect in the log, also by the next leader. `None` when it ended otherwise meanwhile.
    pub fn abort(&self, put: &Put, writer_gone: bool, now: MonotonicMs) -> Option<Effect> {
        let why = if writer_gone { Why::Revoked } else { Why::Abandoned };
        let KeyRef { tenant, bytes } = put.key.as_ref();
        let effect = || Effect::Aborted { tenant, key: ObjectKey::new(bytes), version: put.version, writer: put.writer() };
        self.end_put(put, why, true, now).then(effect)
    }
}
