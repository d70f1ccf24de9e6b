//! What of a job outlives its leader: how far it is, and what it has done. Kept as settings of the group, named [`JOB_RECORD`] and the switch.

use perilune_protocol::rpc::job::JobCounts;
use perilune_state::Effect;
use perilune_state::settings::{JOB_RECORD, Settings, Switch};
use serde::{Deserialize, Serialize};

/// Between two records of a job that goes on, in milliseconds. What is lost with a leader is done again, harmlessly.
pub(super) const EVERY_MS: u64 = 2000;

/// The record. Fields that a release does not know are left out, those that it lacks are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// Where its pass is; 0 when there is none.
    pub(super) at: u64,
    pub(super) counts: JobCounts,
}

fn key(job: Switch) -> String {
    format!("{JOB_RECORD}{}", job.key())
}

impl Record {
    /// What the last leader wrote. Anything that is no record counts as none.
    pub(super) fn load(settings: &Settings, job: Switch) -> Self {
        settings.get(&key(job)).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// The effect that keeps it.
    pub(super) fn effect(&self, job: Switch) -> Effect {
        Effect::Setting { key: key(job), value: serde_json::to_string(self).ok() }
    }
}
