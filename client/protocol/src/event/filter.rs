//! Which events somebody wants.

use super::{Event, EventKind};
use crate::{ObjectKey, TenantId, Tso};
use serde::{Deserialize, Serialize};

/// What an event is about: all that a filter goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About<'a> {
    /// Whose it is.
    pub tenant: Option<TenantId>,
    /// What kind of event.
    pub kind: EventKind,
    /// Of which object, and of which version of it.
    pub object: Option<(&'a [u8], Tso)>,
}

impl Event {
    /// What it is about.
    pub fn about(&self) -> About<'_> {
        let object = self.what.object().map(|(key, version)| (key.as_bytes(), version));
        About { tenant: self.tenant, kind: self.what.kind(), object }
    }
}

/// Which events somebody wants. What is empty wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFilter {
    /// Of this tenant, and of nobody else.
    pub tenant: Option<TenantId>,
    /// About objects whose key begins with one of these. What is about no object is wanted as well.
    pub prefixes: Vec<ObjectKey>,
    /// Of these kinds.
    pub kinds: Vec<EventKind>,
    /// Of the tables that these rules take, the last one that matches deciding, as for changefeeds: `db.table`, `db.*`, `!db.table`. What is
    /// about no object is of `system.segments`, `system.nodes` and `system.tenants`. Only a master knows tables, so [`EventFilter::wants`] does
    /// not ask for them.
    pub tables: Vec<String>,
}

impl EventFilter {
    /// Whether what is about this is wanted.
    pub fn wants(&self, about: &About<'_>) -> bool {
        let of_tenant = self.tenant.is_none() || about.tenant == self.tenant;
        let begins = |key: &[u8]| self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_bytes()));
        of_tenant
            && (self.kinds.is_empty() || self.kinds.contains(&about.kind))
            && (self.prefixes.is_empty() || about.object.is_none_or(|(key, _)| begins(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cursor, What};
    use super::*;
    use crate::NodeId;
    use uuid::Uuid;

    #[test]
    fn a_filter_wants_what_it_names() {
        let cursor = Cursor { cluster: Uuid::nil(), index: 77, place: 3, stamp: Tso(0) };
        let what = What::Demoted { key: "llama/1".into(), version: Tso(7) };
        let event = Event { cursor, commit_ts: Tso(9), tenant: Some(TenantId(2)), what };
        let all = EventFilter::default();
        let about = event.about();
        assert!(all.wants(&about));
        assert!(EventFilter { tenant: Some(TenantId(2)), ..all.clone() }.wants(&about));
        assert!(!EventFilter { tenant: Some(TenantId(1)), ..all.clone() }.wants(&about));
        assert!(EventFilter { prefixes: vec!["qwen/".into(), "llama/".into()], ..all.clone() }.wants(&about));
        assert!(!EventFilter { prefixes: vec!["qwen/".into()], ..all.clone() }.wants(&about));
        assert!(!EventFilter { kinds: vec![EventKind::Put], ..all.clone() }.wants(&about));
        let down = Event { tenant: Some(TenantId(1)), what: What::NodeDown { node: NodeId::random() }, ..event };
        assert!(
            EventFilter { tenant: Some(TenantId(1)), prefixes: vec!["qwen/".into()], kinds: vec![], tables: vec![] }.wants(&down.about())
        );
    }
}
