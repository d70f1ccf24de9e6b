//! Members in processes of their own: kill -9 and SIGSTOP of whoever leads, under load.

use crate::cluster::{Draw, member};
use crate::machine::{Table, config};
use crate::net::Net;
use crate::wait::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use perilune_master::log::{Log, LogConfig, Member, Members, Role};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

const CHILD: &str = "PERILUNE_TEST_GROUP_CHILD";

/// A member of the group at these addresses; and what it listens with.
fn settings(dir: &Path, id: u64, cluster: Uuid, addresses: &[String]) -> (LogConfig, Arc<TcpListener>) {
    let listener = Arc::new(TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let member =
        |(n, address): (usize, &String)| Member { id: n as u64 + 1, address: address.clone(), service: String::new(), ..Member::default() };
    let members = Members::begin(addresses.iter().enumerate().map(member).collect()).unwrap();
    let (cluster, listen) = (Some(cluster), Some(Arc::clone(&listener)));
    (LogConfig { member: id, members, cluster, listen, snapshot_entries: 400, ..config(dir) }, listener)
}

/// Not a test of its own: one of the processes that [`the_leader_is_killed_and_stopped_and_nothing_acknowledged_is_lost`] runs. Proposes
/// while it leads, and says what was acknowledged.
#[test]
fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let told: Vec<&str> = told.split('|').collect();
    let addresses: Vec<String> = told[3].split(',').map(str::to_owned).collect();
    let (config, listener) = settings(Path::new(told[0]), told[1].parse().unwrap(), told[2].parse().unwrap(), &addresses);
    println!("\nlistening {}", listener.local_addr().unwrap());
    drop(listener);
    let log = Log::open(config, Table::default()).unwrap_or_else(|e| panic!("{e}"));
    let standing = log.watch();
    let (mut flying, mut next) = (VecDeque::new(), 0);
    loop {
        if standing.borrow().role == Role::Leader {
            let key = format!("{}-{}-{next}", told[1], std::process::id());
            next += 1;
            flying.push_back((key.clone(), log.propose(format!("{key}=x").into_bytes())));
        } else if flying.is_empty() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        if flying.len() == 16 || standing.borrow().role != Role::Leader {
            let Some((key, proposal)) = flying.pop_front() else { continue };
            if proposal.wait().is_ok() {
                // One call, so that a kill does not leave half of it to be taken for another.
                std::io::stdout().write_all(format!("stored {key}.\n").as_bytes()).unwrap();
            }
        }
    }
}

struct Group {
    net: Net,
    cluster: Uuid,
    addresses: Vec<String>,
    dirs: Vec<TempDir>,
    children: BTreeMap<u64, Child>,
    say: Sender<(u64, String)>,
    said: Receiver<(u64, String)>,
    acknowledged: BTreeSet<String>,
}

impl Group {
    fn spawn(&mut self, id: u64) {
        let dir = self.dirs[id as usize - 1].path().display();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::child", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{dir}|{id}|{}|{}", self.cluster, self.addresses.join(",")))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.by_ref().find_map(|l| l.strip_prefix("listening ")?.parse().ok()).expect("the child did not begin");
        self.net.set_target(id, Some(address));
        let say = self.say.clone();
        std::thread::spawn(move || {
            for key in lines.filter_map(|l| Some(l.strip_prefix("stored ")?.strip_suffix('.')?.to_owned())) {
                if say.send((id, key)).is_err() {
                    return;
                }
            }
        });
        self.children.insert(id, child);
    }

    /// Until a member other than `not` has `count` more acknowledged. Gives the last one.
    fn hear(&mut self, not: u64, count: usize) -> u64 {
        let mut heard = 0;
        loop {
            let (from, key) = self.said.recv_timeout(Duration::from_secs(60)).expect("nobody serves");
            self.acknowledged.insert(key);
            heard += usize::from(from != not);
            if heard == count {
                return from;
            }
        }
    }

    fn signal(&self, id: u64, signal: Signal) {
        kill(Pid::from_raw(self.children[&id].id() as i32), signal).unwrap();
    }

    fn kill(&mut self, id: u64) {
        self.net.set_target(id, None);
        let mut child = self.children.remove(&id).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            // A test that failed leaves no process behind, not even a stopped one.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn the_leader_is_killed_and_stopped_and_nothing_acknowledged_is_lost() {
    let mut draw = Draw::new(1);
    let net = Net::default();
    let addresses = (1..=3).map(|id| member(&net, id).address).collect();
    let dirs = (1..=3).map(|_| tempfile::tempdir().unwrap()).collect();
    let (say, said) = channel();
    let (children, acknowledged) = (BTreeMap::new(), BTreeSet::new());
    let mut group = Group { net, cluster: Uuid::new_v4(), addresses, dirs, children, say, said, acknowledged };
    (1..=3).for_each(|id| group.spawn(id));
    let rounds = std::env::var("PERILUNE_TEST_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(6);
    for round in 0..rounds {
        let leader = group.hear(0, 100 + draw.below(400) as usize);
        let stop = draw.below(2) == 0;
        if stop {
            group.signal(leader, Signal::SIGSTOP)
        } else {
            group.kill(leader)
        }
        let went = Instant::now();
        let next = group.hear(leader, 1);
        println!(
            "round {round}: member {leader} was {}, member {next} serves after {:?}",
            if stop { "stopped" } else { "killed" },
            went.elapsed()
        );
        group.hear(leader, draw.below(600) as usize + 1);
        if stop { group.signal(leader, Signal::SIGCONT) } else { group.spawn(leader) }
    }
    (1..=3).for_each(|id| group.kill(id));
    // What they still said before they died counts too.
    group.say = channel().0;
    while let Ok((_, key)) = group.said.recv() {
        group.acknowledged.insert(key);
    }
    let reopened: Vec<(Log<Table>, Table)> = (1..=3)
        .map(|id| {
            let (config, listener) = settings(group.dirs[id as usize - 1].path(), id, group.cluster, &group.addresses);
            group.net.set_target(id, Some(listener.local_addr().unwrap()));
            let table = Table::default();
            (Log::open(config, table.clone()).unwrap_or_else(|e| panic!("{e}")), table)
        })
        .collect();
    for (log, table) in &reopened {
        wait("all that was acknowledged", || {
            assert!(log.status().poisoned.is_none(), "{:?}", log.status());
            let rows = table.rows();
            group.acknowledged.iter().all(|key| rows.contains_key(key)).then_some(())
        });
    }
    println!("{} acknowledged, {} stored", group.acknowledged.len(), reopened[0].1.rows().len());
}
