//! Masters in one process, over real connections, on addresses of their own.

use crate::http::{self, Reply};
use crate::wait::wait;
use perilune_master::log::Member;
use perilune_master::{Master, MasterConfig};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) struct Group {
    ip: Ipv4Addr,
    pub(crate) cluster: Uuid,
    count: u64,
    pub(crate) dirs: BTreeMap<u64, TempDir>,
    pub(crate) up: BTreeMap<u64, Master>,
}

impl Group {
    /// `count` masters, the first of which leads in the end if it is alone.
    pub(crate) fn start(count: u64) -> Self {
        static GROUPS: AtomicU8 = AtomicU8::new(1);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, high.max(1), low, 100 + GROUPS.fetch_add(1, Ordering::Relaxed));
        let mut group = Self { ip, cluster: Uuid::new_v4(), count, dirs: BTreeMap::new(), up: BTreeMap::new() };
        (1..=count).for_each(|id| group.up(id));
        group
    }

    pub(crate) fn peer(&self, id: u64) -> SocketAddr {
        (self.ip, 20_000 + id as u16).into()
    }

    pub(crate) fn rpc(&self, id: u64) -> SocketAddr {
        (self.ip, 10_000 + id as u16).into()
    }

    pub(crate) fn http(&self, id: u64) -> SocketAddr {
        (self.ip, 30_000 + id as u16).into()
    }

    pub(crate) fn config(&mut self, id: u64) -> MasterConfig {
        let dir = self.dirs.entry(id).or_insert_with(|| tempfile::tempdir().unwrap()).path().to_owned();
        MasterConfig {
            data_dir: dir,
            rpc: self.rpc(id),
            http: vec![self.http(id)],
            member: id,
            peer_listen: Some(self.peer(id)),
            ..MasterConfig::default()
        }
    }

    /// As one of those who begin the group.
    pub(crate) fn founder(&mut self, id: u64) -> MasterConfig {
        let peer = |id: u64| Member { id, address: self.peer(id).to_string(), service: self.rpc(id).to_string(), ..Member::default() };
        let peers = if self.count > 1 { (1..=self.count).map(peer).collect() } else { Vec::new() };
        MasterConfig { peers, cluster: Some(self.cluster), ..self.config(id) }
    }

    pub(crate) fn up(&mut self, id: u64) {
        let config = self.founder(id);
        self.start_as(config);
    }

    pub(crate) fn start_as(&mut self, config: MasterConfig) {
        let id = config.member;
        self.up.insert(id, Master::start(config).unwrap_or_else(|e| panic!("master {id}: {e}")));
    }

    pub(crate) fn down(&mut self, id: u64) {
        self.up.remove(&id).unwrap().stop();
    }

    pub(crate) fn get(&self, id: u64, path: &str) -> Reply {
        http::ask(self.http(id), "GET", path)
    }

    pub(crate) fn post(&self, id: u64, path: &str, body: &str) -> Reply {
        http::send(self.http(id), "POST", path, body)
    }

    pub(crate) fn raft(&self, id: u64) -> Value {
        self.get(id, "/stat").json()["raft_status"].take()
    }

    /// The master that leads, once all that are up agree and know where its HTTP is.
    pub(crate) fn leader(&self) -> u64 {
        wait("a leader that all know of", || {
            let stats: Vec<Value> = self.up.keys().map(|id| self.get(*id, "/stat").json()).collect();
            let leader = stats[0]["raft_status"]["leader"].as_u64().unwrap();
            let host = self.up.contains_key(&leader).then(|| self.http(leader).to_string())?;
            let agrees = |s: &Value| s["raft_status"]["leader"] == json!(leader) && s["leader_host"] == json!(host);
            stats.iter().all(agrees).then_some(leader)
        })
    }

    /// Someone who follows.
    pub(crate) fn follower(&self) -> u64 {
        let leader = self.leader();
        *self.up.keys().find(|id| **id != leader).unwrap()
    }

    pub(crate) fn peer_seen(&self, by: u64, id: u64) -> Option<Value> {
        self.raft(by)["peers"].as_array()?.iter().find(|p| p["id"] == json!(id)).cloned()
    }
}

/// The status and the body, to be compared whole.
pub(crate) fn said(reply: &Reply) -> (u16, &str) {
    (reply.status, &reply.body)
}
