//! `perilune jobs`: what the cluster does in the background, how far it is, and the switches of it.

use super::client::ClientArgs;
use crate::failure::Failure;
use crate::output;
use crate::settings::Global;
use perilune_benches::report::Table;
use perilune_protocol::ByteSize;
use perilune_protocol::rpc::job::{JobState, ListJobs, SwitchJob};

/// List the background jobs of the cluster, or switch one on or off
///
/// The jobs are disk_repair, balance, disk_drop, blob_delete, shard_repair and vol_inspect. All of them together move no more bytes
/// a second than the setting job_bytes_per_second says.
#[derive(clap::Args)]
pub(crate) struct Jobs {
    /// What to do to a job; without it all are listed
    #[arg(value_name = "ACTION", requires = "job")]
    action: Option<Action>,
    /// The job to switch, such as `balance`
    #[arg(value_name = "JOB")]
    job: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Switch it on
    Enable,
    /// Switch it off
    Disable,
}

impl Jobs {
    pub(crate) fn run(self, global: &Global) -> Result<(), Failure> {
        let store = self.client.connect()?;
        match (self.action, self.job) {
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
