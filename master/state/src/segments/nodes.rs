//! Who was heard from, and when silence means absence. Soft: a new leader starts with nobody and waits to be told.

use super::{Reach, Segments};
use crate::MonotonicMs;
use crate::effect::Effect;
use perilune_protocol::{NodeId, SegmentId, TenantId, rpc::cluster::NodeState};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// When silence turns into suspicion, and suspicion into absence, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// Reads avoid the node.
    pub suspect_ms: u64,
    /// Its replicas are gone unless it returns.
    pub lost_ms: u64,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// A name for people, `host:port` of its transfer engine.
    pub name: String,
    /// The base URL of its REST listener, or empty.
    pub rest: String,
    /// What it presents, or empty.
    pub unique_id: String,
    /// Whose it is.
    pub tenant: TenantId,
}

/// A node that was heard, and what it is at.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which.
    pub node: NodeId,
    /// What it says of itself.
    pub said: Said,
    /// Milliseconds since it was last heard.
    pub silent_ms: u64,
    /// Transfers of peers that it served then.
    pub serves: u64,
    /// Puts in progress that may be writing to its memory.
    pub writes: u64,
}

struct Node {
    said: Said,
    serves: u64,
    heard: MonotonicMs,
    /// The connection it registered on. Only that one's end counts as the node's.
    session: u64,
    connected: bool,
    reach: Reach,
    /// Unmounted segments whose memory the node has yet to free.
    release: Vec<SegmentId>,
}

/// The room. Touched once a second per node, so one mutex serves; it is held for a few map operations
/// and never while another room's code that could wait is called.
pub struct Nodes {
    nodes: Mutex<BTreeMap<NodeId, Node>>,
    silence: Silence,
    /// Who is heard, as the log has it. Written by apply.
    told: Mutex<Told>,
}

/// Who is heard as far as those know who watch, with tenant and name.
pub(crate) type Told = BTreeMap<NodeId, (TenantId, String)>;

impl Nodes {
    /// Nobody yet.
    pub fn new(silence: Silence) -> Self {
        Self { nodes: Mutex::default(), silence, told: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Node>> {
        self.nodes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Apply: see [`Effect::Node`]. Whether that is news.
    pub(crate) fn tell(&self, node: NodeId, tenant: TenantId, up: Option<String>) -> bool {
        match up {
            Some(name) => self.told().insert(node, (tenant, name.clone())) != Some((tenant, name)),
            None => self.told().remove(&node).is_some(),
        }
    }

    /// Who is heard, as the log has it.
    pub fn told_up(&self) -> BTreeMap<NodeId, (TenantId, String)> {
        self.told().clone()
    }

    pub(crate) fn replace_told(&self, told: Told) {
        *self.told() = told;
    }

    /// What the log is to be told, to be proposed by a leader that began `began`.
    pub fn news(&self, began: MonotonicMs, now: MonotonicMs) -> Vec<Effect> {
        let (nodes, told) = (self.lock(), self.told());
        let mut news = Vec::new();
        for (node, n) in nodes.iter().filter(|(_, n)| n.reach != Reach::Lost) {
            let Said { name, tenant, .. } = &n.said;
            if told.get(node).is_none_or(|(was, known)| (was, known) != (tenant, name)) {
                news.push(Effect::Node { node: *node, tenant: *tenant, up: Some(name.clone()) });
            }
        }
        for (node, (tenant, _)) in told.iter() {
            let lost = match nodes.get(node) {
                Some(n) => n.reach == Reach::Lost,
                None => self.reach(now.saturating_sub(began), false) == Reach::Lost,
            };
            if lost {
                news.push(Effect::Node { node: *node, tenant: *tenant, up: None });
            }
        }
        news
    }

    /// A node announced itself on connection `session`.
    pub fn register(&self, node: NodeId, said: Said, session: u64, now: MonotonicMs) {
        let fresh = Node { said, serves: 0, heard: now, session, connected: true, reach: Reach::Alive, release: Vec::new() };
        self.lock().insert(node, fresh);
    }

    /// A heartbeat of a node that serves so many transfers. `None` when the node must register (again) on this connection first.
    /// Otherwise the segments it should free, told once.
    pub fn beat(&self, node: NodeId, session: u64, serves: u64, now: MonotonicMs) -> Option<Vec<SegmentId>> {
        let mut nodes = self.lock();
        let known = nodes.get_mut(&node).filter(|n| n.session == session && n.reach != Reach::Lost)?;
        (known.heard, known.serves) = (now, serves);
        known.connected = true;
        known.reach = Reach::Alive;
        Some(std::mem::take(&mut known.release))
    }

    /// A connection ended: the node behind it is suspect at once, without waiting for silence.
    pub fn disconnected(&self, session: u64) {
        if let Some(node) = self.lock().values_mut().find(|n| n.session == session) {
            node.connected = false;
        }
    }

    /// The node should free this memory at its next heartbeat.
    pub fn release(&self, node: NodeId, segment: SegmentId) {
        // One that is lost registers before it beats again, and is told then which of its segments nobody knows.
        if let Some(known) = self.lock().get_mut(&node).filter(|n| n.reach != Reach::Lost && !n.release.contains(&segment)) {
            known.release.push(segment);
        }
    }

    /// Whether this node registered with this leader, whatever became of it.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.lock().contains_key(&node)
    }

    /// Whether this node registered on this connection.
    pub fn is_registered(&self, node: NodeId, session: u64) -> bool {
        self.lock().get(&node).is_some_and(|n| n.session == session)
    }

    /// Judges every node by its silence and tells its segments. A segment whose node never registered with this leader
    /// is judged by the silence since the leader began (`began`). Returns nodes whose state changed.
    pub fn judge(&self, segments: &Segments, began: MonotonicMs, now: MonotonicMs) -> Vec<(NodeId, Reach)> {
        let mut changed = Vec::new();
        let mut nodes = self.lock();
        for (id, node) in nodes.iter_mut() {
            let reach = self.reach(now.saturating_sub(node.heard), node.connected);
            if reach != node.reach {
                node.reach = reach;
                if reach == Reach::Lost {
                    node.release = Vec::new();
                }
                changed.push((*id, reach));
            }
        }
        for segment in segments.table().iter() {
            let reach = match nodes.get(&segment.node()) {
                Some(node) => node.reach,
                None if now.saturating_sub(began) >= self.silence.lost_ms => Reach::Lost,
                None => self.reach(now.saturating_sub(began), false),
            };
            if segment.reach() != reach {
                segment.set_reach(reach);
            }
        }
        changed
    }

    fn reach(&self, silent_ms: u64, connected: bool) -> Reach {
        if silent_ms >= self.silence.lost_ms {
            Reach::Lost
        } else if silent_ms >= self.silence.suspect_ms || !connected {
            Reach::Suspect
        } else {
            Reach::Alive
        }
    }

    /// For listings.
    pub fn list(&self, segments: &Segments, now: MonotonicMs) -> Vec<NodeState> {
        let table = segments.table();
        self.lock()
            .iter()
            .map(|(id, n)| NodeState {
                node: *id,
                name: n.said.name.clone(),
                rest: n.said.rest.clone(),
                status: match n.reach {
                    Reach::Alive => "ALIVE",
                    Reach::Suspect => "SUSPECT",
                    Reach::Lost => "LOST",
                }
                .into(),
                silent_ms: now.saturating_sub(n.heard),
                segments: table.iter().filter(|s| s.node() == *id).count() as u64,
            })
            .collect()
    }

    /// Every node, whatever became of it; what is written to it is for others to say.
    pub fn seen(&self, now: MonotonicMs) -> Vec<Seen> {
        let nodes = self.lock();
        let seen = nodes.iter().map(|(id, n)| Seen {
            node: *id,
            said: n.said.clone(),
            silent_ms: now.saturating_sub(n.heard),
            serves: n.serves,
            writes: 0,
        });
        seen.collect()
    }

    /// Nodes of a tenant that are heard, and what they say of themselves.
    pub(crate) fn heard_of(&self, tenant: TenantId) -> Vec<(NodeId, Said)> {
        let nodes = self.lock();
        let heard = nodes.iter().filter(|(_, n)| n.said.tenant == tenant && n.reach == Reach::Alive);
        heard.map(|(node, n)| (*node, n.said.clone())).collect()
    }

    /// Nodes that are not lost.
    pub fn alive(&self) -> u64 {
        self.lock().values().filter(|n| n.reach != Reach::Lost).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_judged_step_by_step_and_a_dead_node_must_register_again() {
        let nodes = Nodes::new(Silence { suspect_ms: 2000, lost_ms: 10_000 });
        let segments = Segments::default();
        let id = NodeId::random();
        assert_eq!(nodes.beat(id, 1, 0, 0), None, "unknown");
        nodes.register(id, Said::default(), 1, 0);
        assert_eq!(nodes.beat(id, 1, 0, 1000), Some(vec![]));
        assert_eq!(nodes.judge(&segments, 0, 2999), vec![]);
        assert_eq!(nodes.judge(&segments, 0, 3000), vec![(id, Reach::Suspect)]);
        assert_eq!(nodes.beat(id, 1, 0, 3500), Some(vec![]));
        nodes.disconnected(1);
        assert_eq!(nodes.judge(&segments, 0, 3501), vec![(id, Reach::Suspect)], "a closed connection is suspect at once");
        assert_eq!(nodes.judge(&segments, 0, 13_500), vec![(id, Reach::Lost)]);
        assert_eq!(nodes.beat(id, 1, 0, 13_600), None, "lost: register again");
        nodes.register(id, Said::default(), 2, 13_700);
        nodes.disconnected(1);
        assert_eq!(nodes.judge(&segments, 0, 13_800), vec![], "the end of an older connection does not count");
    }
    #[test]
    fn what_a_node_is_to_free_is_kept_once_and_not_for_one_that_is_lost() {
        let nodes = Nodes::new(Silence { suspect_ms: 2000, lost_ms: 10_000 });
        let (segments, id) = (Segments::default(), NodeId::random());
        nodes.register(id, Said::default(), 1, 0);
        let [first, second] = [(); 2].map(|()| SegmentId::random());
        [first, second, first].into_iter().for_each(|segment| nodes.release(id, segment));
        assert_eq!(nodes.beat(id, 1, 0, 1000), Some(vec![first, second]));
        nodes.release(id, first);
        nodes.judge(&segments, 0, 11_000);
        nodes.release(id, second);
        assert_eq!(nodes.lock()[&id].release, []);
    }
}
