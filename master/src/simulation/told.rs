//! The rules about what readers of events are told.

use super::oracle::{Check, Oracle};
use super::watch::Known;
use crate::events::told;
use perilune_protocol::Tso;
use perilune_protocol::event::Event;
use std::collections::BTreeMap;

impl Oracle {
    /// The effect at hand came to nothing.
    pub(super) fn nothing(&mut self) {
        self.moot.insert(self.head);
    }

    /// "told once, in order" and "resolved is resolved": a reader was told this from one place to another.
    pub(super) fn told(&mut self, member: u64, from: (u64, u64), events: &[Event], next: (u64, u64), resolved: Tso) -> Check {
        if self.lenient {
            return Ok(());
        }
        let tells = |(place, bytes): (&(u64, u64), &Vec<u8>)| {
            let told = (!self.moot.contains(place)).then(|| told::event(bytes).ok().flatten()).flatten();
            told.map(|(tenant, what)| (place.0, place.1 + 1, tenant, what))
        };
        let expected: Vec<_> = self.log.range(from..next).filter_map(tells).collect();
        let found: Vec<_> =
            events.iter().map(|event| (event.cursor.index, u64::from(event.cursor.place), event.tenant, event.what.clone())).collect();
        if let Some(nodes) = found.iter().zip(&expected).find(|(found, expected)| found != expected) {
            return Err((
                "told once, in order",
                format!("member {member} told from {from:?} to {next:?} {:?}, and it was {:?}", nodes.0, nodes.1),
            ));
        }
        if found.len() != expected.len() {
            let (found, expected) = (found.len(), expected.len());
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
