//! `perilune jobs`: what the cluster does in the background, how far it is, and the switches of it.

use super::client::ClientArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::report::Table;
use perilune_protocol::ByteSize;
use perilune_protocol::rpc::job::{JobState, ListJobs, PaceJobs, SwitchJob};

/// List the background jobs of the cluster, switch one on or off, or set their pace
///
/// The jobs are disk_repair, balance, disk_drop, blob_delete, shard_repair and vol_inspect. All of them together move and compare
/// no more than 256 MiB a second, unless `perilune jobs rate` says otherwise.
#[derive(clap::Args)]
pub(crate) struct Jobs {
    /// What to do; without it all jobs are listed
    #[arg(value_name = "ACTION", requires = "what")]
    action: Option<Action>,
    /// The job to switch, such as `balance`; or how much all of them may move in a second, such as 64MiB
    #[arg(value_name = "WHAT")]
    what: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Switch it on
    Enable,
    /// Switch it off
    Disable,
    /// How many bytes all jobs together may move in a second
    Rate,
}

impl Jobs {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let store = self.client.connect()?;
        match (self.action, self.what) {
            (Some(Action::Rate), Some(rate)) => {
                let ByteSize(bytes_per_second) = rate.parse().map_err(Failure::Usage)?;
                Ok(store.call(&PaceJobs { bytes_per_second })?)
            }
            (Some(action), Some(job)) => Ok(store.call(&SwitchJob { job, on: action == Action::Enable })?),
            _ => show(&store.call(&ListJobs {})?, global),
        }
    }
}

fn show(jobs: &[JobState], global: &Global) -> Result<(), Failure> {
    if global.json {
        return jobs.iter().try_for_each(output::json);
    }
    let columns = ["job", "switch", "state", "pass", "copied", "bytes", "dropped", "verified", "bad", "removed", "failed"];
    let mut table = Table::new(columns).left(0).left(1).left(2);
    let mut lines = String::new();
    for job in jobs {
        let counts = &job.counts;
        let pass = if job.permille > 0 { format!("{:.1} %", f64::from(job.permille) / 10.0) } else { "-".to_owned() };
        table.row([
            job.job.clone(),
            if job.on { "on" } else { "off" }.to_owned(),
            if job.in_flight > 0 { format!("{} ({} under way)", job.state, job.in_flight) } else { job.state.clone() },
            pass,
            counts.copied.to_string(),
            ByteSize(counts.copied_bytes).to_string(),
            counts.dropped.to_string(),
            counts.verified.to_string(),
            counts.bad.to_string(),
            counts.removed.to_string(),
            counts.failed.to_string(),
        ]);
        for (what, text) in [("", &job.note), ("last error: ", &job.last_error)] {
            if !text.is_empty() {
                lines += &format!("{}: {what}{text}\n", job.job);
            }
        }
        for segment in &job.segments {
            let stuck = if segment.stuck > 0 { format!(", {} out of reach", segment.stuck) } else { String::new() };
            lines += &format!("{}: segment {} is {}, {} objects left{stuck}\n", job.job, segment.segment, segment.status, segment.left);
        }
    }
    let rest = if lines.is_empty() { String::new() } else { format!("\n{lines}") };
    output::bytes(format!("{table}{rest}").as_bytes())
}
