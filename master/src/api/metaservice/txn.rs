//! Puts in progress, which the page calls transactions: listed, and ended by others than their writers.

use super::envelope::{Answer, Found, Refusal};
use super::tables::served;
use super::{said, tables};
use crate::api::App;
use crate::engine::NotAborted;
use perilune_protocol::{Tso, WriterId};
use perilune_state::txn::Txn;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
#[schema(as = AbortTxn)]
pub(super) struct Asked {
    #[serde(default, deserialize_with = "said::text")]
    instance_id: String,
    #[serde(default, deserialize_with = "said::text")]
    cloud_unique_id: String,
    #[serde(default, deserialize_with = "said::number")]
    txn_id: Option<u64>,
    #[serde(default, deserialize_with = "said::number")]
    db_id: Option<u64>,
    #[serde(default, deserialize_with = "said::text")]
    label: String,
    /// For the log; `User Abort` where nothing is said.
    #[serde(default, deserialize_with = "said::text")]
    reason: String,
    /// Whoever asks vouches that the writer has ended.
    #[serde(default)]
    writer_gone: bool,
}

/// A put in progress.
#[derive(Serialize)]
pub(super) struct Open {
    txn_id: String,
    label: String,
    db_id: String,
    table_id: String,
    tablet_id: String,
    key: String,
    size: String,
    copies: u64,
    age_ms: String,
    /// Its writer closed the connection that it asked on, or was killed.
    writer_left: bool,
}

pub(super) fn list(app: &App, asked: &tables::Asked) -> Answer {
    let known = app.engine.directory();
    let found = served(&known, &asked.instance_id, &asked.cloud_unique_id)?.ok_or_else(|| Refusal::argument("empty instance_id"))?;
    let open = app.engine.open_puts(found.id).into_iter().map(|put| {
        let table = known.table_of(found.id, &put.key);
        Open {
            txn_id: put.version.to_string(),
            label: put.label,
            db_id: table.db_id.to_string(),
            table_id: table.id.0.to_string(),
            tablet_id: table.shard_of(&put.key).0.to_string(),
            key: String::from_utf8_lossy(&put.key).into_owned(),
            size: put.size.to_string(),
            copies: put.copies,
            age_ms: put.age_ms.to_string(),
            writer_left: put.writer_left,
        }
    });
    Ok(Found::Transactions(open.collect()))
}

/// By `txn_id`, or by `db_id` and `label`.
pub(super) async fn abort(app: &App, asked: &Asked) -> Answer {
    let (txn_id, db_id) = (asked.txn_id.unwrap_or(0), asked.db_id.unwrap_or(0));
    let label = said::shortened(&asked.label);
    let txn = match (txn_id, db_id, asked.label.as_str()) {
        (0, 0, _) | (0, _, "") => {
            return Err(Refusal::argument(format!("invalid txn id and label, db_id={db_id} txn_id={txn_id} label={label}")));
        }
        (0, _, label) => label.parse::<WriterId>().ok().map(Txn::Label),
        (txn_id, ..) => Some(Txn::Version(Tso(txn_id))),
    };
    let known = app.engine.directory();
    let Some(tenant) = served(&known, &asked.instance_id, &asked.cloud_unique_id)? else {
        let unique_id = said::shortened(&asked.cloud_unique_id);
        let why = format!("cannot find instance_id with cloud_unique_id={unique_id} label={label} txn_id={txn_id}");
        return Err(Refusal::argument(why));
    };
    let outcome = match txn {
        Some(txn) => app.engine.abort(tenant.id, txn, Some(db_id).filter(|id| *id > 0), asked.writer_gone).await,
        // No writer is called so.
        None => Err(NotAborted::NoLabel),
    };
    if let Ok(puts) = &outcome {
        let reason = said::shortened(if asked.reason.is_empty() { "User Abort" } else { &asked.reason });
        tracing::info!(tenant = tenant.name, txn_id, db_id, label, puts, reason, "a transaction was aborted");
    }
    outcome.map(|_| Found::Nothing).map_err(|why| match why {
        NotAborted::NoVersion => {
            Refusal::not_found(format!("failed to get db id, txn_id={txn_id} err=there is none")).called("TXN_ID_NOT_FOUND")
        }
        NotAborted::NoLabel => Refusal::not_found(format!("label not found, db_id={db_id} label={label}")).called("TXN_LABEL_NOT_FOUND"),
        NotAborted::NotRunning => {
            Refusal::existed(format!("running transaction not found, db_id={db_id} label={label}")).called("TXN_INVALID_STATUS")
        }
        NotAborted::Aborted { db_id } => {
            Refusal::existed(format!("transaction is already abort db_id={db_id}txn_id={txn_id}")).called("TXN_ALREADY_ABORTED")
        }
        NotAborted::Visible { db_id } => {
            Refusal::existed(format!("transaction is already visible db_id={db_id}txn_id={txn_id}")).called("TXN_ALREADY_VISIBLE")
        }
        NotAborted::Fault(fault) => fault.into(),
    })
}
