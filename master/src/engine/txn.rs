//! Requests about shards and about puts of others: what there is, and what is to stop.

use super::Engine;
use crate::planted::{self, Defect};
use perilune_protocol::{Outcome, TenantId};
use perilune_state::directory::ShardId;
use perilune_state::shards::ShardCount;
use perilune_state::txn::Txn;
use std::collections::{BTreeMap, BTreeSet};

/// A put in progress, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPut {
    /// Its version, by which its transaction is known, too.
    pub version: u64,
    /// Its writer.
    pub label: String,
    /// Its key.
    pub key: Vec<u8>,
    /// Bytes of the value.
    pub size: u64,
    /// Copies that are written.
    pub copies: u64,
    /// How long ago it was begun, or asked for again, in milliseconds.
    pub age_ms: u64,
    /// Whether its writer closed the connection it asked on.
    pub writer_left: bool,
}

/// Why no put was ended.
#[derive(Debug)]
pub enum NotAborted {
    /// There is none of this version, and was none lately.
    NoVersion,
    /// There is none of this label, and was none lately.
    NoLabel,
    /// Those of this label ended before.
    NotRunning,
    /// It came to nothing before.
    Aborted {
        /// The number of its database.
        db_id: u64,
    },
    /// It was published.
    Visible {
        /// The number of its database.
        db_id: u64,
    },
    /// It could not be looked for.
    Fault(perilune_protocol::Fault),
}

impl Engine {
    /// What there is of these shards of a tenant.
    pub(crate) async fn count_shards(&self, tenant: TenantId, shards: BTreeSet<ShardId>) -> Outcome<BTreeMap<ShardId, ShardCount>> {
        let engine = self.clone();
        self.inner.walks.run(move || engine.state().count_shards(tenant, &|shard| shards.contains(&shard))).await
    }

    /// The puts of a tenant that are in progress, the oldest first.
    pub(crate) fn open_puts(&self, tenant: TenantId) -> Vec<OpenPut> {
        let now = self.now();
        let open = self.state().open_puts(tenant);
        let listed = open.iter().map(|put| OpenPut {
            version: put.version.0,
            label: put.writer().to_string(),
            key: put.key.as_ref().bytes.to_vec(),
            size: put.size,
            copies: put.replicas.len() as u64,
            age_ms: now.saturating_sub(put.started()),
            writer_left: put.has_left(),
        });
        listed.collect()
    }

    /// Ends what a transaction of a tenant has in progress, in one database or in any; says how many puts that were. `writer_gone`: the caller
    /// vouches that whoever writes has ended.
    pub(crate) async fn abort(&self, tenant: TenantId, txn: Txn, db: Option<u64>, writer_gone: bool) -> Result<u64, NotAborted> {
        let (state, known) = (self.state(), self.directory());
        let db_id = |key: &[u8]| known.table_of(tenant, key).db_id;
        let of_db = |key: &[u8]| db.is_none_or(|db| db_id(key) == db);
        let open: Vec<_> = state.puts_of(tenant, txn).into_iter().filter(|put| of_db(put.key.as_ref().bytes)).collect();
        let aborting = open.iter().filter_map(|put| Some((put, state.abort(put, writer_gone, self.now())?)));
        let (aborted, effects): (Vec<_>, Vec<_>) = aborting.unzip();
        if !aborted.is_empty() {
            let puts = aborted.len() as u64;
            tracing::info!(?txn, puts, writer_gone, "puts were aborted on request");
            if !writer_gone {
                self.metrics().puts_discarded(puts, aborted.iter().map(|put| put.size * put.replicas.len() as u64).sum());
            }
            if planted::is(Defect::ForgottenAbort) {
                return Ok(puts);
            }
            for (effect, proposal) in effects.iter().zip(self.propose_all(&effects)) {
                self.stored(effect, proposal).await.map_err(NotAborted::Fault)?;
            }
            return Ok(puts);
        }
        if let Some(put) = open.first() {
            return Err(NotAborted::Visible { db_id: db_id(put.key.as_ref().bytes) });
        }
        // They were aborted before; what is news is that their writer has ended.
        let vouched = if writer_gone { state.vouch_gone(tenant, txn) } else { 0 };
        if vouched > 0 {
            tracing::info!(?txn, puts = vouched, "puts that were aborted have no writer any more");
            return Ok(vouched as u64);
        }
        let gone = state.puts.last_given_up(|gone| {
            let is_it = match txn {
                Txn::Version(version) => gone.version == version,
                Txn::Label(writer) => gone.writer == writer,
            };
            is_it && gone.key.as_ref().tenant == tenant && of_db(gone.key.as_ref().bytes)
        });
        match (txn, gone) {
            (Txn::Label(_), Some(_)) => Err(NotAborted::NotRunning),
            (Txn::Label(_), None) => Err(NotAborted::NoLabel),
            (Txn::Version(_), Some(gone)) => Err(NotAborted::Aborted { db_id: db_id(gone.key.as_ref().bytes) }),
            (Txn::Version(version), None) => {
                let engine = self.clone();
                let walk = move || engine.state().published(tenant, version);
                let found = self.inner.walks.run(walk).await.map_err(NotAborted::Fault)?;
                let visible = found.map(|object| NotAborted::Visible { db_id: db_id(object.key.as_ref().bytes) });
                Err(visible.unwrap_or(NotAborted::NoVersion))
            }
        }
    }
}
