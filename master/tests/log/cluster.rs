//! A group of real logs in one process, over a network that can be cut, with an oracle of what was acknowledged.

use crate::machine::Table;
use crate::net::Net;
use crate::wait::wait;
use perilune_master::log::{Log, LogConfig, Member, Members, Role, Standing};
use perilune_protocol::FaultCode;
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) struct Node {
    pub(crate) log: Log<Table>,
    pub(crate) table: Table,
}

pub(crate) struct Cluster {
    pub(crate) net: Net,
    pub(crate) id: Uuid,
    /// Who began the group.
    pub(crate) first: Members,
    pub(crate) dirs: BTreeMap<u64, TempDir>,
    pub(crate) up: BTreeMap<u64, Node>,
    pub(crate) settings: LogConfig,
    /// Effects that were acknowledged.
    pub(crate) acknowledged: BTreeSet<String>,
    /// Effects that surely were not stored.
    pub(crate) refused: BTreeSet<String>,
    next: u64,
}

impl Cluster {
    /// Members `1..=count`, none of them up.
    pub(crate) fn of(count: u64, settings: LogConfig) -> Self {
        let net = Net::default();
        let first = Members::begin((1..=count).map(|id| member(&net, id)).collect()).unwrap();
        let (dirs, up) = (BTreeMap::new(), BTreeMap::new());
        let (acknowledged, refused) = (BTreeSet::new(), BTreeSet::new());
        Self { net, id: Uuid::new_v4(), first, dirs, up, settings, acknowledged, refused, next: 0 }
    }

    /// The same, all up.
    pub(crate) fn start(count: u64, settings: LogConfig) -> Self {
        let mut cluster = Self::of(count, settings);
        (1..=count).for_each(|id| cluster.up(id));
        cluster
    }

    pub(crate) fn config(&mut self, id: u64, members: Members) -> LogConfig {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        self.net.set_target(id, Some(listener.local_addr().unwrap()));
        let dir = self.dirs.entry(id).or_insert_with(|| tempfile::tempdir().unwrap()).path().to_owned();
        LogConfig { dir, member: id, members, cluster: Some(self.id), listen: Some(Arc::new(listener)), ..self.settings.clone() }
    }

    pub(crate) fn up(&mut self, id: u64) {
        self.join(id, self.first.clone());
    }

    pub(crate) fn join(&mut self, id: u64, members: Members) {
        let table = Table::default();
        let log = Log::open(self.config(id, members), table.clone()).unwrap_or_else(|e| panic!("{e}"));
        self.up.insert(id, Node { log, table });
    }

    pub(crate) fn down(&mut self, id: u64) {
        self.net.set_target(id, None);
        let node = self.up.remove(&id).unwrap();
        node.log.close();
    }

    pub(crate) fn standing(&self, id: u64) -> Standing {
        self.up[&id].log.watch().borrow().clone()
    }

    /// The leader of the newest term, once there is one other than `not`.
    pub(crate) fn leader_but(&self, not: u64) -> u64 {
        wait("a leader", || {
            let leads = |id: &&u64| **id != not && self.standing(**id).role == Role::Leader;
            self.up.keys().filter(leads).max_by_key(|id| self.standing(**id).term).copied()
        })
    }

    pub(crate) fn leader(&self) -> u64 {
        self.leader_but(0)
    }

    pub(crate) fn log(&self, id: u64) -> &Log<Table> {
        &self.up[&id].log
    }

    pub(crate) fn fresh(&mut self) -> String {
        self.next += 1;
        format!("{:06}=x", self.next)
    }

    /// Proposes to this member and notes what it says. Whether it was acknowledged.
    pub(crate) fn put_to(&mut self, id: u64) -> bool {
        let effect = self.fresh();
        let outcome = self.log(id).propose(effect.clone().into_bytes()).wait();
        self.note(effect, outcome.map(drop))
    }

    /// Whether it was acknowledged.
    pub(crate) fn note(&mut self, effect: String, outcome: Result<(), perilune_protocol::Fault>) -> bool {
        let acknowledged = outcome.is_ok();
        match outcome {
            Ok(()) => assert!(self.acknowledged.insert(effect)),
            // A log that closes, or stops half-way, does not know what became of it.
            Err(fault) if fault.code == FaultCode::WrongState && fault.message.contains("was closed") => {}
            Err(fault) if fault.code == FaultCode::WrongState => assert!(self.refused.insert(effect)),
            Err(fault) => assert!(matches!(fault.code, FaultCode::Timeout | FaultCode::Storage), "{fault}"),
        }
        acknowledged
    }

    /// Until one is acknowledged, by whoever leads.
    pub(crate) fn put_anywhere_but(&mut self, not: u64) -> u64 {
        loop {
            let leader = self.leader_but(not);
            if self.put_to(leader) {
                return leader;
            }
        }
    }

    pub(crate) fn put(&mut self, count: usize) {
        for _ in 0..count {
            self.put_anywhere_but(0);
        }
    }

    /// All who are up come to the same state, which holds all that was acknowledged and nothing that was refused.
    pub(crate) fn check(&mut self) {
        self.put(1);
        let ids: Vec<u64> = self.up.keys().copied().collect();
        for id in ids {
            let node = &self.up[&id];
            wait(&format!("member {id} catches up"), || {
                let rows = node.table.rows();
                assert!(node.log.status().poisoned.is_none(), "{:?}", node.log.status());
                self.acknowledged.iter().all(|e| rows.contains_key(e.split_once('=').unwrap().0)).then_some(())
            });
            let rows = node.table.rows();
            let wrong: Vec<_> = self.refused.iter().filter(|e| rows.contains_key(e.split_once('=').unwrap().0)).collect();
            assert!(wrong.is_empty(), "member {id} holds what was refused: {wrong:?}");
        }
    }
}

pub(crate) fn member(net: &Net, id: u64) -> Member {
    Member { id, address: net.address_of(id), service: format!("service-{id}"), ..Member::default() }
}

/// A small generator for what a test draws; its seed is printed.
pub(crate) struct Draw(u64);

impl Draw {
    /// From `PERILUNE_TEST_SEED`, or always the same.
    pub(crate) fn new(default: u64) -> Self {
        let seed = std::env::var("PERILUNE_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(default);
        println!("seed {seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
