//! Masters of this build, and a store node that exists only in their eyes.

use super::{Keeper, Options};
use crate::group::{Group, lend_nothing};
use crate::report::Latency;
use crate::rivals::Trouble;
use perilune_client::{Store, StoreConfig};
use perilune_protocol::rpc::object::{PutEnd, PutStart};
use perilune_protocol::{ObjectKey, Outcome, PutConfig, WriterId};
use std::path::Path;
use std::time::{Duration, Instant};

pub(super) struct Masters {
    group: Group,
    /// The node's own connection: the node is suspect when it closes.
    _node: Store,
    askers: Vec<Store>,
    /// Keys are never used twice.
    keys: u64,
}

impl Masters {
    pub(super) fn start(options: &Options, dir: &Path, members: usize, durability: &str) -> Result<Self, Trouble> {
        std::fs::create_dir_all(dir)?;
        // The node never beats: nothing but commits shall use the masters' time.
        let flags = ["--durability", durability, "--suspect-after", "24h", "--lost-after", "48h"];
        let group = Group::start(&options.program, dir, members, &flags)?;
        group.leader()?;
        let connect =
            |agent: &str| Store::connect(StoreConfig { masters: group.addresses(), agent: agent.to_owned(), ..StoreConfig::default() });
        let node = connect("perilune-bench node")?;
        lend_nothing(&node)?;
        let askers = (0..options.askers).map(|_| connect("perilune-bench")).collect::<Outcome<_>>()?;
        Ok(Self { group, _node: node, askers, keys: 0 })
    }
}

impl Keeper for Masters {
    fn commit(&mut self, askers: usize, batch: usize, time: Duration) -> Result<(u64, Latency), Trouble> {
        self.keys += 1;
        let round = self.keys;
        let end = Instant::now() + time;
        let results: Vec<Outcome<(u64, Latency)>> = std::thread::scope(|scope| {
            let threads: Vec<_> = self.askers[..askers]
                .iter()
                .enumerate()
                .map(|(n, store)| scope.spawn(move || ask(store, &format!("{round:06}/{n:03}"), batch, end)))
                .collect();
            threads.into_iter().map(|t| t.join().expect("an asker does not panic")).collect()
        });
        let (mut commits, mut latency) = (0, Latency::default());
        for result in results {
            let (done, took) = result?;
            commits += done;
            latency.add(&took);
        }
        Ok((commits, latency))
    }

    fn servers(&self) -> Vec<u32> {
        self.group.pids()
    }
}

/// Puts without bytes, with an invented checksum, until `end`.
fn ask(store: &Store, prefix: &str, batch: usize, end: Instant) -> Outcome<(u64, Latency)> {
    let (mut commits, mut latency) = (0, Latency::default());
    while Instant::now() < end {
        let keys: Vec<ObjectKey> = (0..batch as u64).map(|n| ObjectKey::from(super::key(prefix, commits + n).as_str())).collect();
        let asked = Instant::now();
        let puts = keys.iter().map(|key| (key.clone(), 4096)).collect();
        let grants = store
            .call(&PutStart { puts, config: PutConfig::default(), writer: WriterId::random() })?
            .into_iter()
            .collect::<Outcome<Vec<_>>>()?;
        let puts = keys.into_iter().zip(&grants).map(|(key, grant)| (key, grant.version, 7)).collect();
        store.call(&PutEnd { puts })?.into_iter().collect::<Outcome<Vec<()>>>()?;
        latency.record(asked.elapsed());
        commits += batch as u64;
    }
    Ok((commits, latency))
}
