//! Order, group commit, restart.

use crate::machine::{Table, config, open, put_each};
use perilune_master::log::{Durability, EFFECT_BYTES_MAX, Log, LogConfig, Machine, Role, SnapshotWriter};
use perilune_protocol::FaultCode;
use std::io;
use std::sync::{Barrier, mpsc};

#[test]
fn effects_are_applied_and_answered_in_the_order_of_their_proposal() {
    let dir = tempfile::tempdir().unwrap();
    for durability in [Durability::QuorumFsync, Durability::Quorum, Durability::Leader] {
        let (log, table) = open(LogConfig { durability, ..config(&dir.path().join(durability.as_str())) });
        let proposals: Vec<_> = (0..1000).map(|n| log.propose(format!("{n}=x").into_bytes())).collect();
        for (n, proposal) in proposals.into_iter().enumerate() {
            assert_eq!(proposal.wait().unwrap().1, n + 1);
        }
        assert_eq!(table.seen(), (0..1000).map(|n| format!("{n}=x")).collect::<Vec<_>>());
        let status = log.status();
        assert_eq!((status.role, status.effects, status.applied), (Role::Leader, 1000, status.last_index));
        assert_eq!(status.commit, status.applied);
        assert!(status.bytes_written > 1000 * 4);
    }
}

#[test]
fn fsync_comes_before_the_answer_only_where_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for (durability, at_least) in [(Durability::QuorumFsync, 20), (Durability::Leader, 0)] {
        let (log, _) = open(LogConfig { durability, ..config(&dir.path().join(durability.as_str())) });
        let before = log.status();
        put_each(&log, (0..20).map(|n| format!("{n}=x")));
        let after = log.status();
        assert_eq!(after.fsyncs - before.fsyncs, at_least, "{durability}");
        assert_eq!(after.sync.count() - before.sync.count(), at_least, "{durability}");
        assert_eq!(after.append.count() - before.append.count(), 20);
    }
}

#[test]
fn the_background_sync_follows_an_append_and_only_an_append() {
    let dir = tempfile::tempdir().unwrap();
    // At once, so that one that looks before the append is there finds nothing.
    let (log, _) = open(LogConfig { sync_every: std::time::Duration::from_nanos(1), ..config(dir.path()) });
    for n in 0..50 {
        let before = log.status().fsyncs;
        put_each(&log, [format!("{n}=1")]);
        crate::machine::until(&log, "a sync", |s| s.fsyncs > before);
    }
}

/// Says when it applies, and waits to be let on.
struct Slow {
    applying: mpsc::Sender<u64>,
    go_on: mpsc::Receiver<()>,
}

impl Machine for Slow {
    type Output = u64;

    fn apply(&mut self, index: u64, effect: &[u8]) -> u64 {
        if effect == b"wait" {
            self.applying.send(index).unwrap();
            self.go_on.recv().unwrap();
        }
        index
    }

    fn snapshot(&self) -> SnapshotWriter {
        Box::new(|_| Ok(()))
    }

    fn restore(&mut self, _: &mut dyn io::Read) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn all_that_waits_shares_an_entry_within_its_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let (applying, applied) = mpsc::channel();
    let (go_on, gate) = mpsc::channel();
    let config = LogConfig { batch_effects: 100, batch_bytes: 10_000, ..config(dir.path()) };
    let log = Log::open(config, Slow { applying, go_on: gate }).unwrap();
    let first = log.propose(b"wait".to_vec());
    let index = applied.recv().unwrap();
    // While the first entry is held, 250 small and 3 large effects queue up.
    let small: Vec<_> = (0..250).map(|_| log.propose(b"x".to_vec())).collect();
    let large: Vec<_> = (0..3).map(|_| log.propose(vec![0; 6000])).collect();
    go_on.send(()).unwrap();
    assert_eq!(first.wait().unwrap(), index);
    let small: Vec<u64> = small.into_iter().map(|p| p.wait().unwrap() - index).collect();
    assert_eq!(small, (0..250).map(|n| 1 + n / 100).collect::<Vec<u64>>());
    let large: Vec<u64> = large.into_iter().map(|p| p.wait().unwrap() - index).collect();
    assert_eq!(large, [3, 4, 5]);
    assert_eq!((log.status().entries, log.status().effects), (6, 254));
}

/// However quick the log is to take what it is given: each set of 128 goes into one entry, and what is refused harms none of the others.
#[test]
fn what_is_proposed_together_shares_an_entry() {
    let dir = tempfile::tempdir().unwrap();
    let (applying, _applied) = mpsc::channel();
    let (_go_on, gate) = mpsc::channel();
    let log = Log::open(config(dir.path()), Slow { applying, go_on: gate }).unwrap();
    let too_large = 300;
    let effect = |n| vec![0; if n == too_large { EFFECT_BYTES_MAX + 1 } else { n % 7 }];
    let outcomes: Vec<_> = log.propose_all(0, (0..301).map(effect)).into_iter().map(|p| p.wait()).collect();
    assert_eq!(outcomes[too_large].as_ref().unwrap_err().code, FaultCode::InvalidParams);
    let entries: Vec<u64> = outcomes.into_iter().filter_map(Result::ok).collect();
    for set in entries.chunks(128) {
        assert_eq!(set, vec![set[0]; set.len()]);
    }
    assert!(entries.is_sorted() && entries.len() == 300);
    assert_eq!(log.status().effects, 300);
}

#[test]
fn a_restart_replays_exactly_what_was_applied() {
    let dir = tempfile::tempdir().unwrap();
    let (mut all, mut cluster) = (Vec::new(), None);
    for round in 0..4 {
        let (log, table) = open(config(dir.path()));
        assert_eq!(table.seen(), all, "round {round}");
        assert_eq!(*cluster.get_or_insert(log.cluster_id()), log.cluster_id());
        assert!(log.status().term > round);
        let effects: Vec<_> = (0..100).map(|n| format!("{round}/{n}=x")).collect();
        put_each(&log, effects.clone());
        all.extend(effects);
        log.close();
        log.close();
        assert_eq!(log.propose(b"late=1".to_vec()).wait().unwrap_err().code, FaultCode::WrongState);
    }
}

#[test]
fn many_threads_propose_and_each_sees_its_own_order() {
    let dir = tempfile::tempdir().unwrap();
    let (log, table) = open(config(dir.path()));
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (log, start) = (&log, &start);
            scope.spawn(move || {
                start.wait();
                let proposals: Vec<_> = (0..500).map(|n| log.propose(format!("{thread}={n}").into_bytes())).collect();
                for proposal in proposals {
                    proposal.wait().unwrap();
                }
            });
        }
    });
    let seen = table.seen();
    for thread in 0..8 {
        let own: Vec<_> = seen.iter().filter(|e| e.starts_with(&format!("{thread}="))).cloned().collect();
        assert_eq!(own, (0..500).map(|n| format!("{thread}={n}")).collect::<Vec<_>>());
    }
}

#[test]
fn an_effect_has_a_limit_and_a_large_one_survives() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(config(dir.path()));
    let refused = log.propose(vec![b'x'; EFFECT_BYTES_MAX + 1]).wait().unwrap_err();
    assert_eq!(refused.code, FaultCode::InvalidParams);
    log.propose(vec![b'x'; EFFECT_BYTES_MAX]).wait().unwrap();
    drop(log);
    let (_log, table) = open(config(dir.path()));
    assert_eq!(table.seen()[0].len(), EFFECT_BYTES_MAX);
}

#[test]
fn a_proposal_is_a_future() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(config(dir.path()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(log.propose(b"a=1".to_vec())).unwrap().1, 1);
}

/// Panics at the word.
struct Fragile(Table);

impl Machine for Fragile {
    type Output = (u64, usize);

    fn apply(&mut self, index: u64, effect: &[u8]) -> (u64, usize) {
        assert!(effect != b"panic", "the machine is broken");
        self.0.apply(index, effect)
    }

    fn snapshot(&self) -> SnapshotWriter {
        self.0.snapshot()
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        self.0.restore(from)
    }
}

#[test]
fn a_machine_that_panics_stops_the_log_and_not_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(config(dir.path()), Fragile(Table::default())).unwrap();
    log.propose(b"a=1".to_vec()).wait().unwrap();
    // Its own proposer is told by the dropped answer, all later ones by the fault.
    assert!(log.propose(b"panic".to_vec()).wait().is_err());
    let fault = log.propose(b"b=2".to_vec()).wait().unwrap_err();
    assert_eq!(fault.code, FaultCode::Storage);
    assert!(fault.message.contains("the machine is broken"), "{fault}");
    assert!(log.status().poisoned.is_some());
}
