//! The rules about what readers of events are told.

use super::master::CLUSTER;
use super::oracle::{Check, Oracle};
use super::watch::Known;
use crate::events::told;
use perilune_protocol::Tso;
use perilune_protocol::event::{Cursor, Event};
use std::collections::BTreeMap;

impl Oracle {
    /// The effect at hand came to nothing.
    pub(super) fn nothing(&mut self) {
        self.moot.insert(self.head);
    }

    /// What an effect of the log means to those outside, unless it came to nothing.
    pub(super) fn event(&self, place: (u64, u64), bytes: &[u8]) -> Option<Event> {
        let (index, nth) = place;
        let commit_ts = self.stamps.get(&index).copied().filter(|_| !self.moot.contains(&place))?;
        let (tenant, what) = told::event(bytes).ok().flatten()?;
        Some(Event { cursor: Cursor { cluster: CLUSTER, index, place: nth as u32 + 1, stamp: commit_ts }, commit_ts, tenant, what })
    }

    /// "told once, in order" and "resolved is resolved": a reader was told this from one place to another.
    pub(super) fn told(&mut self, member: u64, from: (u64, u64), events: &[Event], next: (u64, u64), resolved: Tso) -> Check {
        if self.lenient {
            return Ok(());
        }
        let expected: Vec<_> = self.log.range(from..next).filter_map(|(place, bytes)| self.event(*place, bytes)).collect();
        if let Some(nodes) = events.iter().zip(&expected).find(|(found, expected)| found != expected) {
            return Err((
                "told once, in order",
                format!("member {member} told from {from:?} to {next:?} {:?}, and it was {:?}", nodes.0, nodes.1),
            ));
        }
        if events.len() != expected.len() {
            let (found, expected) = (events.len(), expected.len());
            return Err(("told once, in order", format!("member {member} told from {from:?} to {next:?} {found} of {expected} events")));
        }
        for event in events {
            let promised = self.resolved.range(..=event.cursor.index).next_back().map(|(_, stamp)| *stamp);
            if promised.is_some_and(|promised| event.commit_ts <= promised) {
                return Err((
                    "resolved is resolved",
                    format!("member {member} told {event:?}, and all up to {promised:?} was said to lie before"),
                ));
            }
        }
        if !events.is_sorted_by(|a, b| a.cursor < b.cursor && a.commit_ts <= b.commit_ts) {
            return Err(("told once, in order", format!("member {member} told {events:?}")));
        }
        let before = self.resolved.range(..=next.0).next_back().map_or(Tso(0), |(_, stamp)| *stamp);
        self.resolved.insert(next.0, resolved.max(before));
        self.resolved.range_mut(next.0..).for_each(|(_, stamp)| *stamp = resolved.max(*stamp));
        self.counts.told += events.len() as u64;
        Ok(())
    }

    /// "a stamp is a place": whoever resumes at a stamp is told what has a higher one, and `safe` is the stamp from which all can be.
    pub(super) fn resumes(&mut self, stamp: Tso, at: Cursor, whose: &str) -> Check {
        self.counts.resumed += 1;
        let fits = |(index, found): (&u64, &Tso)| (*found <= stamp) == (*index < at.index);
        match self.stamps.iter().find(|entry| !fits(*entry)).filter(|_| !self.lenient) {
            None => Ok(()),
            Some((index, found)) => {
                Err(("a stamp is a place", format!("{whose} resumes after {} at {at}, and entry {index} has {}", stamp.0, found.0)))
            }
        }
    }

    /// "a list and what follows it": what somebody who applied both up to the newest entry knows.
    pub(super) fn equals(&mut self, index: u64, known: &Known) -> Check {
        if self.lenient || index <= self.head.0 {
            return Ok(());
        }
        self.counts.compared += 1;
        let mut right = Known::new();
        for left in self.remaining().into_iter().filter(|left| !left.record.replicas.is_empty()) {
            let places: BTreeMap<_, _> = left.record.replicas.into_iter().map(|place| (place.segment, place)).collect();
            right.insert(left.key, (left.record.version, places.into_values().collect()));
        }
        if *known == right {
            return Ok(());
        }
        let (more, less) = (known.iter().find(|k| right.get(k.0) != Some(k.1)), right.iter().find(|k| known.get(k.0) != Some(k.1)));
        Err(("a list and what follows it", format!("before entry {index} a reader has {more:?} and should have {less:?}")))
    }
}
