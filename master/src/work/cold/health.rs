//! How each vault is, as whoever asked it last found it. Its claim is looked at every few seconds, so none stays unknown for long.

use super::lock;
use perilune_protocol::VaultId;
use perilune_vault::{Class, VaultFault};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// A look at a claim, two small requests, that takes longer says that the vault is slow.
const SLOW: Duration = Duration::from_secs(1);

/// How a vault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It does what it is asked.
    Works,
    /// It does, and takes its time.
    Slow,
    /// It does not answer, or says that it cannot at present.
    Away,
    /// It answers and does not do it: what opens it is wrong, the bucket is not there, or it is another cluster's.
    Refuses,
}

impl Condition {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Slow => "slow",
            Self::Away => "away",
            Self::Refuses => "refuses",
        }
    }

    /// Whether objects can be brought there and back.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Works | Self::Slow)
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub condition: Condition,
    /// Since when it is so, in milliseconds since 1970.
    pub since_ms: u64,
    /// What went wrong last; empty where nothing did in this reign.
    pub last_error: String,
}

/// By vault.
#[derive(Default)]
pub(crate) struct Health(Mutex<HashMap<VaultId, Finding>>);

impl Health {
    /// What is known of a vault.
    pub(crate) fn of(&self, id: VaultId) -> Option<Finding> {
        lock(&self.0).get(&id).cloned()
    }

    /// It did what it was asked; a look at its claim tells how long it took.
    pub(super) fn did(&self, id: VaultId, look: Option<Duration>, now_ms: u64) {
        let condition = match look {
            Some(took) if took > SLOW => Condition::Slow,
            Some(_) => Condition::Works,
            // How long the bytes of an object may take depends on them: who is slow stays so.
            None if self.of(id).is_some_and(|found| found.condition == Condition::Slow) => return,
            None => Condition::Works,
        };
        self.note(id, condition, None, now_ms);
    }

    /// It did not.
    pub(super) fn did_not(&self, id: VaultId, condition: Condition, why: &str, now_ms: u64) {
        self.note(id, condition, Some(why), now_ms);
    }

    /// Those that are not there any more are forgotten.
    pub(super) fn keep(&self, ids: &[VaultId]) {
        lock(&self.0).retain(|id, _| ids.contains(id));
    }

    fn note(&self, id: VaultId, condition: Condition, why: Option<&str>, now_ms: u64) {
        let mut all = lock(&self.0);
        let found = all.entry(id).or_insert_with(|| Finding { condition, since_ms: now_ms, last_error: String::new() });
        if found.condition != condition {
            let before = found.condition.as_str();
            tracing::info!(vault = %id, before, now = condition.as_str(), why = why.unwrap_or_default(), "a vault is otherwise");
            (found.condition, found.since_ms) = (condition, now_ms);
        }
        if let Some(why) = why {
            why.clone_into(&mut found.last_error);
        }
    }
}

impl From<&VaultFault> for Condition {
    fn from(fault: &VaultFault) -> Self {
        if fault.class == Class::Away { Self::Away } else { Self::Refuses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_begins_when_it_changes_and_the_last_error_stays() {
        let (health, id) = (Health::default(), VaultId(3));
        assert_eq!(health.of(id), None);
        let mut seen = Vec::new();
        let quick = Some(Duration::from_millis(3));
        for step in 0..8u64 {
            match step {
                0 | 6 => health.did(id, quick, step),
                1 | 2 => health.did_not(id, Condition::Away, &format!("no answer {step}"), step),
                3 => health.did(id, Some(Duration::from_secs(2)), step),
                4 | 7 => health.did(id, None, step),
                _ => health.did_not(id, Condition::Refuses, "403", step),
            }
            let found = health.of(id).unwrap();
            seen.push((found.condition.as_str(), found.since_ms, found.last_error));
        }
        let seen: Vec<_> = seen.iter().map(|(word, since, error)| (*word, *since, error.as_str())).collect();
        let away = "no answer 2";
        let expected = [
            ("works", 0, ""),
            ("away", 1, "no answer 1"),
            ("away", 1, away),
            ("slow", 3, away),
            ("slow", 3, away),
            ("refuses", 5, "403"),
            ("works", 6, "403"),
            ("works", 6, "403"),
        ];
        assert_eq!(seen, expected);
        health.keep(&[]);
        assert_eq!(health.of(id), None);
    }
}
