//! The brain as a whole: events in, effects out, no clock, no socket, no thread.

mod cold;
mod copies;
mod leases;
mod life;
mod nodes;
mod pools;
mod recovery;
mod tenants;
mod txn;
mod vaults;
mod weight;

use perilune_protocol::rpc::object::PutGrant;
use perilune_protocol::{Capability, Endpoint, NodeId, ObjectKey, Protocol, PutConfig, SegmentDesc, SegmentId, TenantId, Tso, WriterId};
use perilune_state::directory::{Decision, Known, Refused};
use perilune_state::place::Placement;
use perilune_state::segments::nodes::Silence;
use perilune_state::write::{PutEnding, PutRefusal, Stamp};
use perilune_state::{Applied, Effect, MonotonicMs, Rules, State};
use std::sync::Arc;

const TENANT: TenantId = TenantId(0);
const MIB: u64 = 1 << 20;

const RULES: Rules = Rules {
    lease_ms: 10_000,
    put_discard_ms: 30_000,
    put_release_ms: 600_000,
    silence: Silence { suspect_ms: 2000, lost_ms: 10_000 },
    placement: Placement::Random,
};

/// A leader whose log is a vector: what is proposed is committed at once.
struct Leader {
    state: Arc<State>,
    log: Vec<Effect>,
    now: u64,
    version: u64,
}

/// Bytes taken, by segment, and what tenants have.
fn used(state: &State) -> (Vec<u64>, Vec<(u64, u64)>) {
    let taken = state.segments.table().iter().map(|s| s.space().used()).collect();
    (taken, state.meters.all().values().map(|m| (m.objects(), m.bytes())).collect())
}

impl Leader {
    fn new() -> Self {
        let state = Arc::new(State::new(RULES));
        state.lead(1).unwrap();
        Self { state, log: Vec::new(), now: 1, version: 0 }
    }

    /// What a process that was killed finds again: everything in the log, nothing else.
    fn restarted(&self) -> Self {
        self.succeeded(1)
    }

    /// A member that learned at time 1 of everything leads.
    fn succeeded(&self, now: MonotonicMs) -> Self {
        let state = Arc::new(State::new(RULES));
        for effect in &self.log {
            state.apply(Effect::decode(&effect.encode()).unwrap(), 1);
        }
        state.lead(now).unwrap();
        Self { state, log: self.log.clone(), now, version: self.version }
    }

    /// So much time passes, and is told to the log's clock; then what is inherited for long enough closes.
    fn pass(&mut self, ms: u64) {
        let close = |leader: &mut Self| leader.state.left_behind().0.into_iter().for_each(|effect| drop(leader.commit(effect)));
        close(self);
        self.now += ms;
        self.commit(Effect::Passed { ms });
        close(self);
    }

    /// Closes what the window has too much.
    fn narrow(&mut self) {
        for effect in self.state.narrower() {
            self.commit(effect);
        }
    }

    /// Has the directory changed as `decide` says.
    fn decide(&mut self, decide: impl Fn(&Known) -> Decision) -> Result<(), Refused> {
        let (revision, decision) = {
            let known = self.state.directory.known();
            (known.revision + 1, decide(&known)?)
        };
        let Some(change) = decision else { return Ok(()) };
        assert_eq!(self.commit(Effect::Directory { revision, change: Box::new(change) }), Applied::Done);
        Ok(())
    }

    fn commit(&mut self, effect: Effect) -> Applied {
        self.log.push(effect.clone());
        self.state.apply(effect, self.now)
    }

    /// Nodes number `nodes`, each with one segment of `size` bytes, all heard just now.
    fn with_nodes(nodes: u64, size: u64) -> (Self, Vec<NodeId>) {
        let mut leader = Self::new();
        let ids: Vec<_> = (0..nodes).map(|n| leader.node(n, size)).collect();
        (leader, ids)
    }

    fn node(&mut self, n: u64, size: u64) -> NodeId {
        let node = NodeId::random();
        self.commit(Effect::Mount(desc(node, n, size)));
        self.hear(node, n + 1);
        node
    }

    fn hear(&self, node: NodeId, session: u64) {
        self.state.nodes.register(node, perilune_state::segments::nodes::Said::default(), session, self.now);
        self.judge();
    }

    fn judge(&self) {
        self.state.nodes.judge(&self.state.segments, self.state.began(), self.now);
    }

    fn segments(&self) -> Vec<SegmentId> {
        self.state.segments.table().iter().map(|s| s.id()).collect()
    }

    fn used(&self) -> u64 {
        self.state.segments.table().iter().map(|s| s.space().used()).sum()
    }

    /// Asks for room as the engine does: windows are logged when needed.
    fn start(&mut self, key: &str, size: u64, config: &PutConfig) -> Result<PutGrant, PutRefusal> {
        self.start_by(WriterId::random(), key, size, config)
    }

    fn start_by(&mut self, writer: WriterId, key: &str, size: u64, config: &PutConfig) -> Result<PutGrant, PutRefusal> {
        self.version += 1;
        self.commit(Effect::TsoLimit(Tso(self.version)));
        loop {
            let stamp = Stamp { tenant: TENANT, pool: None, now: self.now, host: "127.0.0.1", writer, session: 1, draw: self.version };
            match self.state.put_start(&key.into(), size, config, Tso(self.version), stamp) {
                Err(PutRefusal::NeedWindow(effect)) => {
                    self.commit(*effect);
                }
                other => return other,
            }
        }
    }

    fn end(&mut self, key: &str, version: Tso) -> Applied {
        match self.state.put_end(TENANT, &key.into(), version, 7).unwrap() {
            PutEnding::Propose(effect) => self.commit(effect),
            PutEnding::Underway | PutEnding::Published => Applied::Done,
        }
    }

    fn put(&mut self, key: &str, size: u64) -> PutGrant {
        let grant = self.start(key, size, &PutConfig::default()).unwrap();
        assert_eq!(self.end(key, grant.version), Applied::Done);
        grant
    }

    fn exists(&self, key: &str) -> bool {
        self.state.exists(TENANT, &[key.into()], self.now)[0]
    }

    fn remove(&mut self, key: &str, force: bool) -> Result<(), i32> {
        let effect = self.state.remove(TENANT, &key.into(), force, self.now).map_err(|f| f.code.number())?;
        self.commit(effect);
        Ok(())
    }
}

fn desc(node: NodeId, n: u64, size: u64) -> SegmentDesc {
    SegmentDesc {
        id: SegmentId::random(),
        name: format!("127.0.0.1:{}", 15_000 + n),
        node,
        base: 0x1000,
        size,
        protocol: Protocol::Tcp,
        location: String::new(),
        endpoints: vec![Endpoint::Tcp(format!("127.0.0.1:{}", 15_000 + n))],
        capability: Capability(9),
    }
}

fn code(refusal: PutRefusal) -> i32 {
    match refusal {
        PutRefusal::Fault(fault) | PutRefusal::NeedNode(fault) | PutRefusal::NeedRoom(_, fault) => fault.code.number(),
        PutRefusal::NeedWindow(_) => 0,
    }
}

fn upsert() -> PutConfig {
    PutConfig { upsert: true, ..PutConfig::default() }
}

fn key(text: &str) -> ObjectKey {
    text.into()
}
