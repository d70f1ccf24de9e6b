//! What somebody wants of what happens, made ready to be looked for.

use crate::feeds::{Filter, Op, ReplicaConfig, filter_of};
use perilune_protocol::event::{About, EventFilter, EventKind};
use perilune_protocol::{FaultCode, Outcome};
use perilune_state::directory::{FeedId, FeedRecord, Known};
use std::sync::Arc;

/// Most rules on tables of one question: each costs whoever answers.
const RULES_MAX: usize = 32;
/// So long a name of a consumer.
const CONSUMER_BYTES_MAX: usize = 64;

/// What somebody wants.
pub(crate) struct Wanted {
    pub(super) filter: EventFilter,
    /// An event is of a table that each of them takes.
    tables: Vec<Filter>,
    /// As whom the consumer is shown; empty: it is not.
    pub(super) consumer: String,
    /// Of which feed it is what that carries.
    feed: Option<Carried>,
}

/// What was asked of a feed, and how that was then.
struct Carried {
    id: FeedId,
    config: String,
    asked: EventFilter,
}

impl Wanted {
    /// # Errors
    /// [`FaultCode::InvalidParams`] for rules that are none.
    pub(crate) fn new(filter: EventFilter) -> Outcome<Self> {
        if filter.tables.len() > RULES_MAX {
            return Err(FaultCode::InvalidParams.with(format!("{} rules on tables; {RULES_MAX} will do", filter.tables.len())));
        }
        let tables = if filter.tables.is_empty() {
            vec![]
        } else {
            let mut config = ReplicaConfig::default();
            config.filter.rules.clone_from(&filter.tables);
            vec![filter_of(&config).map_err(|failure| FaultCode::InvalidParams.with(failure.message))?]
        };
        Ok(Self { filter, tables, consumer: String::new(), feed: None })
    }

    /// Of this, what a feed carries.
    ///
    /// # Errors
    /// [`FaultCode::InvalidParams`] for rules that are none and for another tenant; when the rules of the feed cannot be read.
    pub(crate) fn of_feed(feed: &FeedRecord, filter: EventFilter) -> Outcome<Self> {
        if filter.tenant.is_some_and(|tenant| tenant != feed.tenant) {
            return Err(FaultCode::InvalidParams.with("the feed is of another tenant: leave tenant_id out"));
        }
        let mut wanted = Self::new(EventFilter { tenant: Some(feed.tenant), ..filter.clone() })?;
        let config = ReplicaConfig::stored(&feed.config).map_err(|e| FaultCode::Internal.with(format!("the config of the feed: {e}")))?;
        wanted.tables.push(filter_of(&config).map_err(|failure| FaultCode::Internal.with(failure.message))?);
        wanted.feed = Some(Carried { id: feed.id, config: feed.config.clone(), asked: filter });
        Ok(wanted)
    }

    /// The same as of now: the rules of a feed may be others, and a feed may be gone.
    ///
    /// # Errors
    /// [`FaultCode::InvalidParams`] when it is.
    pub(crate) fn as_of(self: &Arc<Self>, known: &Known) -> Outcome<Arc<Self>> {
        let Some(Carried { id, config, asked }) = &self.feed else { return Ok(Arc::clone(self)) };
        let feed = known.feed(*id).ok_or_else(|| FaultCode::InvalidParams.with("the changefeed was removed"))?;
        if feed.config == *config {
            return Ok(Arc::clone(self));
        }
        Self::of_feed(feed, asked.clone())?.by(self.consumer.clone()).map(Arc::new)
    }

    /// By this consumer; nobody in particular, where it has no name.
    ///
    /// # Errors
    /// [`FaultCode::InvalidParams`] for what is no name.
    pub(crate) fn by(self, consumer: String) -> Outcome<Self> {
        if consumer.len() > CONSUMER_BYTES_MAX || !consumer.bytes().all(|byte| byte.is_ascii_graphic()) {
            let why = format!("{consumer:.100?} is no name of a consumer: up to {CONSUMER_BYTES_MAX} visible characters of ASCII are");
            return Err(FaultCode::InvalidParams.with(why));
        }
        Ok(Self { consumer, ..self })
    }

    /// Whether what is about this is wanted.
    pub(crate) fn wants(&self, known: &Known, about: &About<'_>) -> bool {
        self.filter.wants(about) && self.tables.iter().all(|tables| is_carried(tables, known, about))
    }
}

fn is_carried(tables: &Filter, known: &Known, about: &About<'_>) -> bool {
    let op = match about.kind {
        EventKind::Put | EventKind::Mounted | EventKind::NodeUp => Op::Insert,
        EventKind::Removed | EventKind::Unmounted | EventKind::NodeDown | EventKind::Cleared => Op::Delete,
        EventKind::Replicas | EventKind::Offloaded | EventKind::ColdLost | EventKind::Demoted | EventKind::Draining => Op::Update,
    };
    if let Some((key, version)) = about.object {
        let table = known.table_at(about.tenant.unwrap_or_default(), key, version);
        return tables.takes(&table.db, &table.name, op);
    }
    let table = match about.kind {
        EventKind::NodeUp | EventKind::NodeDown => "nodes",
        EventKind::Cleared => "tenants",
        _ => "segments",
    };
    tables.takes("system", table, op)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::Rows;
    use perilune_protocol::event::{Cursor, Event, RemoveReason, What};
    use perilune_protocol::{NodeId, Pin, SegmentId, TenantId, Tso};
    use perilune_state::directory::FeedState;
    use uuid::Uuid;

    /// The stream of a feed for programs has the events that its rows are made of.
    #[test]
    fn what_is_carried_is_what_feeds_make_rows_of() {
        let (segment, node, key, version) = (SegmentId::random(), NodeId::random(), "k".into(), Tso(3));
        let all = [
            What::Put { key, version, size: 1, checksum: 2, pin: Pin::None, replicas: vec![] },
            What::Replicas { key: "k".into(), version, add: None, drop: Some(segment) },
            What::Removed { key: "k".into(), version, reason: RemoveReason::Evicted },
            What::Demoted { key: "k".into(), version },
            What::Cleared,
            What::Mounted { segment, name: "s".into(), node, size: 1, endpoint: "e".into() },
            What::Draining { segment, grace_ms: 1 },
            What::Unmounted { segment },
            What::NodeUp { node, name: "n".into() },
            What::NodeDown { node },
        ];
        let known = Known::default();
        let cursor = Cursor { cluster: Uuid::nil(), index: 1, place: 1, stamp: Tso(0) };
        let mut carried = 0;
        for (rules, ignored) in [
            (vec!["*.*"], vec![]),
            (vec!["default.*"], vec!["update"]),
            (vec!["system.*", "!system.nodes"], vec![]),
            (vec!["*.*"], vec!["insert", "delete"]),
            (vec!["other.*"], vec![]),
        ] {
            let config = serde_json::json!({"filter": {"rules": rules, "event_filters": [{"matcher": ["*.*"], "ignore_event": ignored}]}});
            let config = ReplicaConfig::default().over(config.as_object().unwrap()).unwrap();
            let filter = filter_of(&config).unwrap();
            let mut rows = Rows::new(TenantId(0), "default", filter_of(&config).unwrap());
            for what in &all {
                let event = Event { cursor, commit_ts: version, tenant: Some(TenantId(0)), what: what.clone() };
                assert_eq!(
                    is_carried(&filter, &known, &event.about()),
                    rows.of(&known, &event).is_some(),
                    "{rules:?} {ignored:?} {what:?}"
                );
                carried += usize::from(is_carried(&filter, &known, &event.about()));
            }
        }
        assert!(carried > 10, "{carried}");
    }

    /// Of what a feed carries, whoever asks has what its own rules take as well; of another tenant nothing.
    #[test]
    fn who_asks_for_a_feed_narrows_it_and_does_not_widen_it() {
        let config = serde_json::json!({"filter": {"rules": ["system.*", "!system.nodes"]}});
        let feed = FeedRecord {
            id: FeedId(1),
            tenant: TenantId(2),
            name: "f".into(),
            sink: "blackhole://".into(),
            sealed: None,
            config: ReplicaConfig::default().over(config.as_object().unwrap()).unwrap().shown().to_string(),
            start: Tso(1),
            target: None,
            state: FeedState::Normal,
            error: None,
            warning: None,
            run: 0,
            creator: String::new(),
            ctime_ms: 0,
            mtime_ms: 0,
        };
        let cursor = Cursor { cluster: Uuid::nil(), index: 1, place: 1, stamp: Tso(0) };
        let takes = |tenant: Option<u32>, rules: &[&str]| {
            let tables = rules.iter().map(|rule| (*rule).into()).collect();
            let wanted = Wanted::of_feed(&feed, EventFilter { tenant: tenant.map(TenantId), tables, ..EventFilter::default() })?;
            let event = |what| Event { cursor, commit_ts: Tso(3), tenant: Some(TenantId(2)), what };
            let all = [What::Unmounted { segment: SegmentId::random() }, What::NodeDown { node: NodeId::random() }, What::Cleared];
            Ok::<_, perilune_protocol::Fault>(all.map(|what| wanted.wants(&Known::default(), &event(what).about())))
        };
        assert_eq!(takes(None, &[]), Ok([true, false, true]));
        assert_eq!(takes(Some(2), &["*.segments", "*.nodes"]), Ok([true, false, false]), "what both take");
        assert_eq!(takes(None, &["default.*"]), Ok([false; 3]));
        assert_eq!(takes(Some(3), &[]).unwrap_err().code, FaultCode::InvalidParams, "the feed is of another");
        assert_eq!(takes(None, &["a"]).unwrap_err().code, FaultCode::InvalidParams);
    }

    #[test]
    fn what_is_no_rule_and_no_name_is_refused() {
        let filter = |tables: &[&str]| EventFilter { tables: tables.iter().map(|rule| (*rule).into()).collect(), ..EventFilter::default() };
        assert!(Wanted::new(filter(&["a.b", "!*.c"])).is_ok());
        for wrong in ["a", "", "a.[", "/(/.x"] {
            assert_eq!(Wanted::new(filter(&[wrong])).err().unwrap().code, FaultCode::InvalidParams, "{wrong}");
        }
        assert!(Wanted::new(filter(&["a.b"; RULES_MAX + 1])).is_err());
        let by = |name: &str| Wanted::new(filter(&[])).unwrap().by(name.into()).is_ok();
        assert!(by("") && by("router-1") && !by("a b") && !by("ü") && !by(&"x".repeat(CONSUMER_BYTES_MAX + 1)));
    }
}
