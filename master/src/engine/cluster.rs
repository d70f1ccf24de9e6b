//! Requests about nodes and segments, and the listings.

use super::{Engine, Speaker};
use perilune_protocol::metakey::MetaKey;
use perilune_protocol::rpc::cluster::{ClusterStat, NodeState};
use perilune_protocol::rpc::segment::{Mount, SegmentState, Unmount};
use perilune_protocol::rpc::session::{HeartbeatReply, Register, Registered, Welcome};
use perilune_protocol::{FaultCode, Millis, NodeId, Outcome, SegmentDesc, SegmentId, TenantId};
use perilune_state::Effect;
use perilune_state::directory::TenantStatus;
use perilune_state::segments::nodes::{Said, Seen};
use perilune_state::segments::{self, Reach, Segment};
use perilune_state::settings::TOKEN_GENERATION;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// The longest grace period.
pub(crate) const GRACE_MAX: Duration = Duration::from_secs(24 * 3600);

impl Engine {
    /// A node announces itself and the memory it still has.
    pub async fn register(&self, session: u64, speaker: &Speaker, question: Register) -> Outcome<Registered> {
        let Speaker { tenant, unique_id, .. } = speaker;
        let Register { node, name, rest, segments } = question;
        // All that it lent: what it does not name any more is unmounted below.
        self.is_of(node, *tenant)?;
        let intact: HashSet<SegmentId> = segments.iter().map(|s| s.id).collect();
        let (mut unknown, mut returning) = (Vec::new(), false);
        let strict = self.state().settings.strict_membership();
        for desc in segments {
            segments::check(&desc)?;
            let same = |s: &&Arc<Segment>| s.node() == node && desc.node == node && s.desc().size == desc.size;
            let known = self.state().segments.table().get(desc.id).filter(same).cloned();
            match known {
                Some(segment) => {
                    returning |= segment.reach() == Reach::Lost;
                    // What it presents may have changed, and with it the pool that this is of.
                    let was = segment.unique_id().unwrap_or_default();
                    let presented = *was == *unique_id;
                    if !presented {
                        if unique_id.is_empty() {
                            let why = format!("this memory was lent as {was:.200?}: start the node with that --unique-id");
                            return Err(FaultCode::Forbidden.with(why));
                        }
                        self.state().directory.may_lend(*tenant, unique_id, desc.tcp_endpoint(), strict)?;
                    }
                    if *segment.desc() != desc || !presented {
                        self.commit(&Effect::lend(*tenant, unique_id, desc)).await?;
                    }
                }
                None => unknown.push(desc.id),
            }
        }
        let table = self.state().segments.table().clone();
        for gone in table.iter().filter(|s| s.node() == node && !intact.contains(&s.id())) {
            tracing::warn!(%node, segment = %gone.id(), "the node came back without this segment; its replicas are gone");
            self.commit(&Effect::leaves(gone.tenant(), gone.id(), None)).await?;
        }
        self.state().nodes.register(node, Said { name, rest, unique_id: unique_id.clone(), tenant: *tenant }, session, self.now());
        self.judge();
        self.inner.heard.send_modify(|count| *count += 1);
        let objects_returned = if returning { self.objects_on(node) } else { 0 };
        tracing::info!(%node, segments = intact.len(), unknown = unknown.len(), objects_returned, "store node registered");
        Ok(Registered { unknown, objects_returned })
    }

    /// Whether all that a node lends is this tenant's.
    ///
    /// # Errors
    /// [`FaultCode::WrongState`].
    pub(crate) fn is_of(&self, node: NodeId, tenant: TenantId) -> Outcome<()> {
        if self.state().segments.table().iter().any(|s| s.node() == node && s.tenant() != tenant) {
            let why = "what this node lends holds objects of another tenant: start it for that one, or with a data directory of its own";
            return Err(FaultCode::WrongState.with(why));
        }
        Ok(())
    }

    fn objects_on(&self, node: NodeId) -> u64 {
        let mut count = 0;
        self.state().index.for_each(&mut |object| {
            count += u64::from(object.replicas.iter().any(|r| r.segment.node() == node));
            ControlFlow::Continue(())
        });
        count
    }

    /// A node says that it lives, and how many transfers it serves.
    pub fn heartbeat(&self, session: u64, node: NodeId, serves: u64) -> HeartbeatReply {
        match self.state().nodes.beat(node, session, serves, self.now()) {
            Some(release) => HeartbeatReply { register: false, release },
            None => HeartbeatReply { register: true, release: Vec::new() },
        }
    }

    /// Looks at who is silent, and tells their segments.
    pub(crate) fn judge(&self) {
        let state = self.state();
        for (node, reach) in state.nodes.judge(&state.segments, state.began(), self.now()) {
            match reach {
                Reach::Alive => {
                    tracing::info!(%node, "store node is heard again");
                    self.inner.heard.send_modify(|count| *count += 1);
                }
                Reach::Suspect => tracing::warn!(%node, "store node is silent; reads avoid it"),
                Reach::Lost => tracing::warn!(%node, "store node is lost; its replicas count as gone until it returns"),
            }
        }
    }

    /// A node lends segments. All or nothing.
    pub async fn mount(&self, session: u64, speaker: &Speaker, question: Mount) -> Outcome<()> {
        let Speaker { tenant, unique_id, .. } = speaker;
        let (directory, strict) = (&self.state().directory, self.state().settings.strict_membership());
        directory.may_add(*tenant)?;
        for desc in &question.segments {
            if !self.state().nodes.is_registered(desc.node, session) {
                return Err(FaultCode::NodeNotFound.with(format!("node {} is not registered on this connection", desc.node)));
            }
            segments::check(desc)?;
            directory.may_lend(*tenant, unique_id, desc.tcp_endpoint(), strict)?;
            let known = self.state().segments.table().get(desc.id).cloned();
            if known.is_some_and(|s| s.node() != desc.node || s.desc().size != desc.size || s.tenant() != *tenant) {
                return Err(FaultCode::SegmentExists
                    .with(format!("segment {} is mounted already, by another node, for another tenant or with another size", desc.id)));
            }
        }
        for desc in question.segments {
            tracing::info!(key = %MetaKey::Segment(desc.id), segment = %desc.id, node = %desc.node, bytes = desc.size, "segment mounted");
            self.commit(&Effect::lend(*tenant, unique_id, desc)).await?;
        }
        self.judge();
        Ok(())
    }

    /// Takes segments back, at once or after a grace period during which they can be read.
    /// `of`: only what is this tenant's.
    pub async fn unmount(&self, of: Option<TenantId>, question: Unmount) -> Vec<Outcome<()>> {
        let mut outcomes = Vec::with_capacity(question.segments.len());
        if question.grace_ms > Millis::from(GRACE_MAX).0 {
            let fault = FaultCode::InvalidParams.with(format!("a grace period of {} ms; the longest is {GRACE_MAX:?}", question.grace_ms));
            return question.segments.iter().map(|_| Err(fault.clone())).collect();
        }
        for segment in question.segments {
            if let Some(fault) = of.and_then(|tenant| self.describe(tenant, segment).err()) {
                outcomes.push(Err(fault));
                continue;
            }
            outcomes.push(if question.grace_ms > 0 {
                tracing::info!(%segment, grace_ms = question.grace_ms, "segment drains");
                self.commit(&Effect::leaves(self.owner_of(segment), segment, Some(question.grace_ms))).await
            } else {
                self.unmount_now(segment).await
            });
        }
        outcomes
    }

    /// To whom a segment is lent; one that there is not is nobody's.
    pub(crate) fn owner_of(&self, segment: SegmentId) -> TenantId {
        self.state().segments.table().get(segment).map_or_else(TenantId::default, |segment| segment.tenant())
    }

    /// The segment goes, and its node is told to free the memory.
    pub(crate) async fn unmount_now(&self, segment: SegmentId) -> Outcome<()> {
        let node = self.state().segments.table().get(segment).map(|s| s.node());
        self.commit(&Effect::leaves(self.owner_of(segment), segment, None)).await?;
        if let Some(node) = node {
            self.state().nodes.release(node, segment);
        }
        tracing::info!(key = %MetaKey::Segment(segment), %segment, "segment unmounted");
        Ok(())
    }

    /// What a caller should know before its first question.
    pub fn welcome(&self) -> Welcome {
        let config = &self.inner.config;
        let ms = |d: std::time::Duration| Millis::from(d).0;
        Welcome {
            cluster: self.inner.log.cluster_id().to_string(),
            release: env!("CARGO_PKG_VERSION").into(),
            lease_ms: ms(config.lease),
            heartbeat_ms: ms(config.heartbeat),
            put_deadline_ms: self.state().rules.put_deadline_ms(),
        }
    }

    /// What was set under this name, or is its default.
    pub fn setting(&self, key: &str) -> Option<String> {
        self.state().settings.get(key)
    }

    /// Sets something for the whole group; `None` takes it back.
    ///
    /// # Errors
    /// When it cannot be set so, or nothing can be stored.
    pub async fn set(&self, key: &str, value: Option<&str>) -> Outcome<()> {
        // Decided one after the other, and while no tenant comes or goes.
        let _one = self.inner.directory.lock().await;
        let key = self.state().settings.check(key, value)?.to_owned();
        if let Some(tenant) = key.strip_prefix(TOKEN_GENERATION) {
            self.may_set_generation(tenant, value)?;
        }
        tracing::info!(key = %MetaKey::Setting(key.clone()), name = key, value, "setting");
        self.commit(&Effect::Setting { key, value: value.map(str::to_owned) }).await
    }

    /// What revoked tokens is not taken back: they would be good again.
    fn may_set_generation(&self, tenant: &str, value: Option<&str>) -> Outcome<()> {
        let wrong = |why| Err(FaultCode::InvalidParams.with(why));
        if self.directory().named(tenant).is_none_or(|found| found.status == TenantStatus::Gone) {
            return wrong(format!("{TOKEN_GENERATION}{tenant:.128}: there is no such tenant"));
        }
        let now = self.state().settings.token_generation(tenant);
        if value.and_then(|value| value.parse().ok()).unwrap_or(0) < now {
            return wrong(format!("{TOKEN_GENERATION}{tenant}: tokens before generation {now} are revoked, and stay so: set a higher one"));
        }
        Ok(())
    }

    /// How to reach a segment, for those whose it is.
    ///
    /// # Errors
    /// [`FaultCode::SegmentNotFound`].
    pub fn describe(&self, tenant: TenantId, id: SegmentId) -> Outcome<Arc<SegmentDesc>> {
        let table = self.state().segments.table();
        let found = table.get(id).filter(|s| s.tenant() == tenant);
        found.map(|s| s.desc()).ok_or_else(|| FaultCode::SegmentNotFound.with(format!("segment {id} is not mounted")))
    }

    /// Every segment, sorted by name and id.
    pub fn segments(&self) -> Vec<SegmentState> {
        let mut all: Vec<_> = self.state().segments.table().iter().map(|s| s.state()).collect();
        all.sort_by(|a, b| (&a.desc.name, a.desc.id).cmp(&(&b.desc.name, b.desc.id)));
        all
    }

    /// Every store node that registered with this master.
    pub fn nodes(&self) -> Vec<NodeState> {
        self.state().nodes.list(&self.state().segments, self.now())
    }

    /// Every store node that registered with this master, and what it is at.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let mut seen = self.state().nodes.seen(self.now());
        for node in &mut seen {
            node.writes = self.state().puts.on_node(node.node);
        }
        seen
    }

    /// The totals.
    pub fn stat(&self) -> ClusterStat {
        let state = self.state();
        let table = state.segments.table();
        let log = self.inner.log.status();
        ClusterStat {
            cluster: self.inner.log.cluster_id().to_string(),
            release: env!("CARGO_PKG_VERSION").into(),
            objects: state.index.len() as u64,
            puts: state.puts.len() as u64,
            nodes: state.nodes.alive(),
            segments: table.len() as u64,
            capacity: table.iter().map(|s| s.space().capacity()).sum(),
            used: table.iter().map(|s| s.space().used()).sum(),
            evictions: self.reign.evictor.evicted(),
            applied: log.applied,
            uptime_s: self.now() / 1000,
        }
    }
}
