//! Background jobs with real masters, real nodes and real bytes: what a switch does to them, and that nothing is lost on the way.

mod balance;
#[path = "../cluster/mod.rs"]
mod cluster;
mod drain;
mod inspect;
mod load;
mod reigns;
mod repair;

use cluster::{Cluster, eventually, locate, value};
use perilune_client::protocol::rpc::job::{JobState, ListJobs, SwitchJob};
use perilune_client::protocol::rpc::segment::{ListSegments, SegmentState};
use perilune_client::protocol::{ObjectKey, PutConfig};
use perilune_client::{Put, Store};
use std::time::Duration;

/// With a short lease and short silences, so that what waits for them ends soon.
fn hurried() -> Cluster {
    Cluster::start_with(|config| {
        config.lease = Duration::from_millis(200);
        config.suspect_after = Duration::from_millis(300);
        config.lost_after = Duration::from_millis(800);
        config.put_discard = Duration::from_secs(3);
    })
}

fn switch(store: &Store, job: &str, on: bool) {
    store.call(&SwitchJob { job: job.into(), on }).unwrap();
}

fn job(store: &Store, name: &str) -> JobState {
    // Not there yet while a master has only just begun to lead.
    let find = || store.call(&ListJobs {}).unwrap().into_iter().find(|job| job.job == name);
    let mut found = None;
    eventually("the job is listed", || {
        found = find();
        found.is_some()
    });
    found.unwrap()
}

fn segments(store: &Store) -> Vec<SegmentState> {
    store.call(&ListSegments {}).unwrap()
}

/// Values that were put, to be found again.
struct Filled {
    items: Vec<(ObjectKey, Vec<u8>)>,
}

impl Filled {
    fn put(store: &Store, count: u64, bytes: usize, replicas: u8) -> Self {
        let items: Vec<(ObjectKey, Vec<u8>)> = (0..count).map(|n| (ObjectKey::from(format!("k{n}")), value(n, bytes))).collect();
        let config = PutConfig { replicas, ..PutConfig::default() };
        for (key, value) in &items {
            assert_eq!(store.put(key, value, &config), Ok(Put::Stored), "{key}");
        }
        Self { items }
    }

    /// Every value is there and right.
    fn check(&self, store: &Store) {
        for (key, value) in &self.items {
            assert!(store.get(key).unwrap_or_else(|fault| panic!("{key}: {fault}")) == *value, "{key}");
        }
    }

    /// Whether every object has so many copies that can be read.
    fn has(&self, store: &Store, copies: usize) -> bool {
        self.items.iter().all(|(key, _)| locate(store, key).is_ok_and(|place| place.replicas.len() == copies))
    }
}
