//! `perilune tables`: slices of a tenant's keys, what there is of their shards, and puts that nobody ends.

use super::meta::Service;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::report::Table;
use perilune_protocol::ByteSize;
use serde_json::{Value, json};

/// List the tables of a tenant, declare them, and see what there is of their shards
///
/// A table has the keys that begin as it says; where several say so, the longest. default.default has all others. Keys are cut into shards,
/// each with a number.
#[derive(clap::Args)]
pub(crate) struct Tables {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// List the tables, the numbers of their shards, and what is done on these now
    List(Of),
    /// Declare that keys that begin so are of a table
    Create {
        #[command(flatten)]
        table: Named,
        /// How the keys begin: 1 to 256 bytes
        prefix: String,
        /// How many shards it has, 1 to 1024
        #[arg(long, value_name = "COUNT", default_value_t = 16)]
        shards: u16,
        #[command(flatten)]
        service: Service,
    },
    /// Give the keys of a table back to the others; nothing is removed
    Drop {
        #[command(flatten)]
        table: Named,
        #[command(flatten)]
        service: Service,
    },
    /// Count what there is of shards; looks at every object
    Stats {
        #[command(flatten)]
        of: Of,
        /// Their numbers
        #[arg(required = true, value_name = "SHARD")]
        shards: Vec<u64>,
    },
    /// List the puts that are in progress
    Puts(Of),
    /// End a put that is in progress, and all that was begun with it: its key and its quota are free at once, its memory when its writer
    /// can write no more
    ///
    /// That is 30 s after it began (--put-discard of the master) where its writer closed its connection or was killed (writer_left of `puts`), then or
    /// later, or was told when it went on; and 10 minutes after it (--put-release) where it may have been stopped in the middle of a write.
    Abort {
        #[command(flatten)]
        of: Of,
        /// Its number, as `puts` lists it
        txn: u64,
        /// Why, for the log of the masters
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// The process that puts has ended for sure, though its connection is open: as if it had closed that. Also of what was aborted before
        #[arg(long)]
        writer_gone: bool,
    },
    /// Have a job that is done on a shard stop before its next object
    AbortJob {
        #[command(flatten)]
        of: Of,
        /// The number of the shard
        shard: u64,
        /// The number of the job
        job: u64,
    },
}

#[derive(clap::Args)]
struct Of {
    /// The tenant
    tenant: String,
    #[command(flatten)]
    service: Service,
}

#[derive(clap::Args)]
struct Named {
    /// The tenant
    tenant: String,
    /// The table, DATABASE.TABLE
    table: String,
}

impl Named {
    fn body(&self) -> Result<Value, Failure> {
        let wrong = || Failure::Usage(format!("`{}` is not of the form DATABASE.TABLE, such as llama.8b", self.table));
        let (db, table) = self.table.split_once('.').ok_or_else(wrong)?;
        Ok(json!({"instance_id": self.tenant, "db_name": db, "table_name": table}))
    }
}

impl Of {
    fn ask(&self, call: &str, mut body: Value) -> Result<Option<Value>, Failure> {
        body["instance_id"] = self.tenant.as_str().into();
        self.service.ask(call, body)
    }
}

impl Tables {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        match self.what {
            What::List(of) => shown(
                of.ask("list_tables", json!({}))?.as_ref(),
                global,
                ["db_name", "table_name", "prefix", "table_id", "db_id", "index_id", "partition_id", "tablet_ids", "jobs"],
            ),
            What::Create { table, prefix, shards, service } => {
                let mut body = table.body()?;
                (body["prefix"], body["shards"]) = (prefix.into(), shards.into());
                service.ask("create_table", body).map(drop)
            }
            What::Drop { table, service } => service.ask("drop_table", table.body()?).map(drop),
            What::Stats { of, shards } => {
                let asked: Vec<Value> = shards.iter().map(|shard| json!({"tablet_id": shard})).collect();
                let found = of.ask("get_tablet_stats", json!({"tablet_idx": asked}))?;
                // Its numbers stand beside what they are the numbers of.
                let flat = found.map(|found| {
                    let all = found["tablet_stats"].as_array().into_iter().flatten().cloned();
                    Value::Array(
                        all.map(|mut one| {
                            one["tablet_id"] = one["idx"]["tablet_id"].take();
                            one
                        })
                        .collect(),
                    )
                });
                shown(
                    flat.as_ref(),
                    global,
                    [
                        "tablet_id",
                        "num_rows",
                        "data_size",
                        "num_rowsets",
                        "num_segments",
                        "base_compaction_cnt",
                        "cumulative_compaction_cnt",
                        "cumulative_point",
                    ],
                )
            }
            What::Puts(of) => {
                let found = of.ask("list_txns", json!({}))?;
                shown(found.as_ref(), global, ["txn_id", "label", "key", "size", "copies", "age_ms", "writer_left", "tablet_id"])
            }
            What::Abort { of, txn, reason, writer_gone } => {
                of.ask("abort_txn", json!({"txn_id": txn, "reason": reason, "writer_gone": writer_gone})).map(drop)
            }
            What::AbortJob { of, shard, job } => {
                of.ask("abort_tablet_job", json!({"job": {"idx": {"tablet_id": shard}, "compaction": [{"id": job}]}})).map(drop)
            }
        }
    }
}

/// A line for each, with these columns.
fn shown<const N: usize>(found: Option<&Value>, global: &Global, columns: [&str; N]) -> Result<(), Failure> {
    let Some(Value::Array(all)) = found else { return Ok(()) };
    if global.json {
        return all.iter().try_for_each(output::json);
    }
    let mut table = (0..N).fold(Table::new(columns), Table::left);
    for one in all {
        table.row(columns.map(|column| match (column, &one[column]) {
            ("tablet_ids", Value::Array(ids)) => {
                let [first, last] = [ids.first(), ids.last()].map(|id| id.and_then(Value::as_str).unwrap_or_default());
                format!("{first}..{last}")
            }
            ("size" | "data_size", value) => {
                value.as_str().and_then(|n| n.parse().ok()).map_or_else(String::new, |n| ByteSize(n).to_string())
            }
            ("jobs", jobs) => {
                let text = |job: &Value, name: &str| job[name].as_str().unwrap_or_default().to_owned();
                let one = |job| format!("{} on {}", text(job, "id"), text(job, "tablet_id"));
                jobs.as_array().into_iter().flatten().map(one).collect::<Vec<_>>().join(", ")
            }
            (_, Value::String(text)) => text.clone(),
            (_, other) => other.to_string(),
        }));
    }
    output::bytes(table.to_string().as_bytes())
}
