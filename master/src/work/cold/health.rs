//! How each vault is, as whoever asked it last found it. Its claim is looked at every few seconds, so none stays unknown for long.
//!
//! Looks and writes are told apart: a bucket may answer the one and refuse the other, and is then as the worse of the two.

use super::{lock, one_line};
use perilune_protocol::VaultId;
use perilune_vault::{Class, VaultFault};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// A look at a claim, two small requests, that takes longer says that the vault is slow.
const SLOW: Duration = Duration::from_secs(1);
/// A write that failed says nothing any more when none was tried for so long, in milliseconds: twice the longest pause between two tries.
const STALE_MS: u64 = 60_000;

/// How a vault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Whether it can be listed and is so all the same: its writes say so, or it is another cluster's.
    pub though_listed: bool,
}

/// What was asked of a vault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// To list, and to read small things.
    Look = 0,
    /// To take an object.
    Write = 1,
}

/// What is known of one: as its looks say, and as its writes do; each with when it was found last.
type Sides = [Option<(Finding, u64)>; 2];

/// By vault.
#[derive(Default)]
pub(crate) struct Health(Mutex<HashMap<VaultId, Sides>>);

impl Health {
    /// What is known of a vault.
    pub(crate) fn of(&self, id: VaultId, now_ms: u64) -> Option<Finding> {
        let all = lock(&self.0);
        let [looks, writes] = all.get(&id)?;
        let fresh = |(found, at): &&(Finding, u64)| found.condition.is_up() || now_ms.saturating_sub(*at) < STALE_MS;
        let (looks, writes) = (looks.as_ref().map(|(found, _)| found), writes.as_ref().filter(fresh).map(|(found, _)| found));
        let (worst, other) = match (looks, writes) {
            (Some(looks), Some(writes)) if writes.condition > looks.condition => (writes, Some(looks)),
            (Some(looks), writes) => (looks, writes),
            (None, writes) => (writes?, None),
        };
        // What one that is up says last is whatever went wrong with it.
        let silent = other.filter(|_| worst.condition.is_up() && worst.last_error.is_empty());
        let though_listed = looks.is_none_or(|looks| looks.condition < worst.condition);
        Some(Finding { last_error: silent.unwrap_or(worst).last_error.clone(), though_listed, ..worst.clone() })
    }

    /// A look at its claim took so long.
    pub(super) fn looked(&self, id: VaultId, took: Duration, now_ms: u64) {
        let condition = if took > SLOW { Condition::Slow } else { Condition::Works };
        self.note(id, Asked::Look, condition, None, now_ms);
    }

    /// It took an object. How long that may take depends on the bytes.
    pub(super) fn wrote(&self, id: VaultId, now_ms: u64) {
        self.note(id, Asked::Write, Condition::Works, None, now_ms);
    }

    /// It did not do what it was asked.
    pub(super) fn did_not(&self, id: VaultId, asked: Asked, condition: Condition, why: &str, now_ms: u64) {
        self.note(id, asked, condition, Some(why), now_ms);
    }

    /// Those that are not there any more are forgotten.
    pub(super) fn keep(&self, ids: &[VaultId]) {
        lock(&self.0).retain(|id, _| ids.contains(id));
    }

    /// What its writes said was of another key.
    pub(super) fn forget_writes(&self, id: VaultId) {
        if let Some(sides) = lock(&self.0).get_mut(&id) {
            sides[Asked::Write as usize] = None;
        }
    }

    fn note(&self, id: VaultId, asked: Asked, condition: Condition, why: Option<&str>, now_ms: u64) {
        let mut all = lock(&self.0);
        let side = &mut all.entry(id).or_default()[asked as usize];
        let (found, at) = side.get_or_insert_with(|| {
            (Finding { condition, since_ms: now_ms, last_error: String::new(), though_listed: asked == Asked::Write }, now_ms)
        });
        *at = now_ms;
        if found.condition != condition {
            let before = found.condition.as_str();
            tracing::info!(vault = %id, before, now = condition.as_str(), why = why.unwrap_or_default(), "a vault is otherwise");
            (found.condition, found.since_ms) = (condition, now_ms);
        }
        if let Some(why) = why {
            found.last_error = one_line(why);
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

    const ID: VaultId = VaultId(3);

    fn of(health: &Health, now_ms: u64) -> (&'static str, u64, String) {
        let found = health.of(ID, now_ms).unwrap();
        (found.condition.as_str(), found.since_ms, found.last_error)
    }

    #[test]
    fn a_condition_begins_when_it_changes_and_the_last_error_stays() {
        let health = Health::default();
        assert_eq!(health.of(ID, 0), None);
        let mut seen = Vec::new();
        let quick = Duration::from_millis(3);
        for step in 0..7u64 {
            match step {
                0 | 6 => health.looked(ID, quick, step),
                1 | 2 => health.did_not(ID, Asked::Look, Condition::Away, &format!("no\n answer {step}"), step),
                3 => health.looked(ID, Duration::from_secs(2), step),
                4 => health.wrote(ID, step),
                _ => health.did_not(ID, Asked::Look, Condition::Refuses, "403", step),
            }
            seen.push(of(&health, step));
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
        ];
        assert_eq!(seen, expected);
        health.keep(&[]);
        assert_eq!(health.of(ID, 8), None);
    }

    #[test]
    fn a_look_that_works_does_not_clear_a_write_that_fails() {
        let health = Health::default();
        let refused = |now_ms| health.did_not(ID, Asked::Write, Condition::Away, "503 SlowDown", now_ms);
        for step in 1..9 {
            health.looked(ID, Duration::ZERO, 10_000 * step);
            refused(10_000 * step);
            assert_eq!(of(&health, 10_000 * step), ("away", 10_000, "503 SlowDown".into()));
        }
        health.wrote(ID, 90_000);
        assert_eq!(of(&health, 90_000), ("works", 10_000, "503 SlowDown".into()), "and one that works does");
        refused(100_000);
        assert_eq!(of(&health, 100_000 + STALE_MS - 1).0, "away");
        assert_eq!(of(&health, 100_000 + STALE_MS), ("works", 10_000, String::new()), "nobody tried again");
    }
}
