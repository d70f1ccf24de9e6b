//! Three members over real connections: they elect, replicate, and lose nothing when the leader goes.

use crate::cluster::{Cluster, Draw};
use crate::machine::{Table, config};
use crate::wait::wait;
use perilune_master::log::{EFFECT_BYTES_MAX, Log, LogConfig, LogError, Role};
use perilune_protocol::FaultCode;
use perilune_protocol::access::Token;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;
use uuid::Uuid;

#[test]
fn three_members_elect_and_replicate() {
    let mut cluster = Cluster::start(3, LogConfig::default());
    cluster.put(50);
    // The largest there is goes through as well, though on a busy machine the lead may be lost over it.
    let largest = [b"largest=".to_vec(), vec![b'x'; EFFECT_BYTES_MAX - 8]].concat();
    while cluster.log(cluster.leader()).propose(largest.clone()).wait().is_err() {}
    cluster.check();
    let leader = cluster.leader();
    cluster.log(leader).read_barrier().wait().unwrap();
    wait("the lease", || cluster.log(leader).holds_lease().then_some(()));
    let standing = cluster.standing(leader);
    for id in (1..=3).filter(|id| *id != leader) {
        assert!(!cluster.log(id).holds_lease());
        for fault in [cluster.log(id).propose(b"no=1".to_vec()).wait().unwrap_err(), cluster.log(id).read_barrier().wait().unwrap_err()] {
            assert_eq!(fault.code, FaultCode::WrongState);
            assert!(fault.message.contains(&format!("the leader is member {leader} at service-{leader}")), "{fault}");
        }
        let seen = cluster.standing(id);
        assert_eq!((seen.role, seen.term, seen.leader), (Role::Follower, standing.term, standing.leader.clone()));
    }
}

#[test]
fn what_was_decided_in_an_earlier_term_is_refused() {
    let mut cluster = Cluster::start(3, LogConfig::default());
    cluster.put(1);
    let (first, mut terms) = (cluster.leader(), Vec::new());
    // Away and back again: it leads, but not in the term in which it decided.
    for to in [first % 3 + 1, first] {
        let leader = cluster.leader();
        terms.push(cluster.standing(leader).term);
        cluster.log(leader).transfer(to).wait().unwrap();
        wait("the other leads", || (cluster.standing(to).role == Role::Leader).then_some(()));
    }
    let term = cluster.standing(first).term;
    assert!(terms[0] < terms[1] && terms[1] < term);
    cluster.log(first).propose_in(term, b"now=1".to_vec()).wait().unwrap();
    for wrong in [terms[0], terms[1], term + 1] {
        let fault = cluster.log(first).propose_in(wrong, b"then=1".to_vec()).wait().unwrap_err();
        assert_eq!(fault.code, FaultCode::WrongState);
    }
    assert!(!cluster.up[&first].table.rows().contains_key("then"));
}

#[test]
fn the_leader_goes_and_comes_back_and_nothing_acknowledged_is_lost() {
    let mut draw = Draw::new(7);
    let mut cluster = Cluster::start(3, LogConfig { snapshot_entries: 100, ..LogConfig::default() });
    for round in 0..6 {
        cluster.put(20 + draw.below(40) as usize);
        let leader = cluster.leader();
        // Some are under way when it goes.
        let flying: Vec<_> = (0..draw.below(200)).map(|_| cluster.fresh()).collect();
        let flying: Vec<_> = flying.into_iter().map(|e| (e.clone(), cluster.log(leader).propose(e.into_bytes()))).collect();
        cluster.down(leader);
        let went = Instant::now();
        cluster.put_anywhere_but(leader);
        println!("round {round}: member {leader} went, another serves after {:?}", went.elapsed());
        for (effect, proposal) in flying {
            // A log that closes says so instead of what came of it.
            if proposal.wait().is_ok() {
                cluster.acknowledged.insert(effect);
            }
        }
        cluster.up(leader);
    }
    cluster.check();
}

#[test]
fn a_paused_leader_is_replaced_and_does_not_speak_for_the_group() {
    let mut cluster = Cluster::start(3, LogConfig::default());
    cluster.put(20);
    let old = cluster.leader();
    wait("the lease", || cluster.log(old).holds_lease().then_some(()));
    let gate = cluster.up[&old].table.gate.clone();
    let closed = gate.lock().unwrap();
    // Its log thread stops in the middle of applying the first; the rest waits in its inbox.
    let flying: Vec<_> = (0..10).map(|_| cluster.fresh()).collect();
    let flying: Vec<_> = flying.into_iter().map(|e| (e.clone(), cluster.log(old).propose(e.into_bytes()))).collect();
    let stopped = Instant::now();
    let new = cluster.put_anywhere_but(old);
    println!("member {old} was stopped, member {new} serves after {:?}", stopped.elapsed());
    assert!(!cluster.log(old).holds_lease(), "the old leader would still answer reads");
    cluster.put_anywhere_but(old);
    drop(closed);
    for (effect, proposal) in flying {
        let outcome = proposal.wait().map(drop);
        cluster.note(effect, outcome);
    }
    wait("the old leader follows", || (cluster.standing(old).role == Role::Follower).then_some(()));
    cluster.check();
}

#[test]
fn a_leader_cut_off_acknowledges_nothing_and_forgets_what_it_had_appended() {
    let mut draw = Draw::new(3);
    let mut cluster = Cluster::start(3, LogConfig::default());
    for _ in 0..3 {
        cluster.put(10);
        let old = cluster.leader();
        cluster.net.isolate(old, 1..=3);
        let count = 1 + draw.below(50);
        let flying: Vec<_> = (0..count).map(|_| cluster.fresh()).collect();
        let flying: Vec<_> = flying.into_iter().map(|e| (e.clone(), cluster.log(old).propose(e.into_bytes()))).collect();
        let read = cluster.log(old).holds_lease().then_some(()).map_or_else(|| Some(cluster.log(old).read_barrier()), |()| None);
        cluster.put_anywhere_but(old);
        for (effect, proposal) in flying {
            let outcome = proposal.wait().map(drop);
            assert!(outcome.is_err(), "{effect} was acknowledged by a leader that was cut off");
            cluster.note(effect, outcome);
        }
        assert!(!cluster.log(old).holds_lease());
        if let Some(read) = read {
            read.wait().unwrap_err();
        }
        assert!(cluster.log(old).read_barrier().wait().is_err());
        cluster.net.heal();
        cluster.check();
        // What took the place of its own entries survives a restart.
        cluster.down(old);
        cluster.up(old);
        cluster.check();
    }
}

#[test]
fn one_deaf_direction_does_not_stop_the_group() {
    let mut cluster = Cluster::start(3, LogConfig::default());
    cluster.put(5);
    let leader = cluster.leader();
    let other = (1..=3).find(|id| *id != leader).unwrap();
    // The leader is not heard by one of them, which therefore asks for votes again and again.
    cluster.net.cut(leader, other);
    cluster.put(30);
    cluster.net.heal();
    cluster.check();
}

#[test]
fn a_leader_whose_log_failed_leaves_the_lead_to_another() {
    let mut cluster = Cluster::start(3, LogConfig::default());
    cluster.put(10);
    let old = cluster.leader();
    *cluster.up[&old].table.broken.lock().unwrap() = true;
    assert!(!cluster.put_to(old));
    cluster.put_anywhere_but(old);
    assert!(!cluster.log(old).holds_lease());
    // The machine takes its time to panic, backtrace and all.
    wait("a log that says that it failed", || {
        let standing = cluster.standing(old);
        (standing.role == Role::Follower && standing.leader.is_none()).then_some(())
    });
    for fault in [cluster.log(old).propose(b"no=1".to_vec()).wait().unwrap_err(), cluster.log(old).read_barrier().wait().unwrap_err()] {
        assert_eq!(fault.code, FaultCode::Storage, "{fault}");
    }
    cluster.down(old);
    cluster.up(old);
    cluster.check();
}

#[test]
fn all_members_restart_at_once() {
    let mut cluster = Cluster::start(3, LogConfig { snapshot_entries: 30, ..LogConfig::default() });
    for _ in 0..3 {
        cluster.put(40);
        (1..=3).for_each(|id| cluster.down(id));
        (1..=3).for_each(|id| cluster.up(id));
    }
    cluster.check();
}

#[test]
fn five_members_stand_the_loss_of_two() {
    let mut cluster = Cluster::start(5, LogConfig::default());
    cluster.put(10);
    for _ in 0..2 {
        let leader = cluster.leader();
        cluster.down(leader);
        cluster.put(10);
    }
    cluster.check();
}

#[test]
fn another_cluster_and_noise_are_not_heard() {
    let mut cluster = Cluster::of(3, LogConfig::default());
    cluster.up(1);
    cluster.up(2);
    cluster.put(5);
    // A third member of another cluster, at the addresses of this one.
    let stranger = cluster.config(3, cluster.first.clone());
    let dir = tempfile::tempdir().unwrap();
    let own = Uuid::new_v4();
    let table = Table::default();
    let log = Log::open(LogConfig { dir: dir.path().into(), cluster: Some(own), ..stranger.clone() }, table.clone()).unwrap();
    // What it calls out, and what is called to it, is answered with another cluster's name.
    let mut call = TcpStream::connect(stranger.listen.as_ref().unwrap().local_addr().unwrap()).unwrap();
    let hello = greeting(cluster.id, 1, 3);
    call.write_all(&hello).unwrap();
    let mut answer = Vec::new();
    call.read_to_end(&mut answer).unwrap();
    assert_eq!(answer[12..28], *own.as_bytes(), "and then it hangs up");
    // Noise at a member that works: nothing, half a greeting, and what is none at all.
    let target = cluster.net.target(1);
    for noise in [&hello[..0], &hello[..20], &[0xff; 48], b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"] {
        TcpStream::connect(target).unwrap().write_all(noise).unwrap();
    }
    // A right greeting, then garbage.
    let mut call = TcpStream::connect(target).unwrap();
    call.write_all(&greeting(cluster.id, 3, 1)).unwrap();
    call.write_all(&[0xee; 5000]).unwrap();
    // It may have hung up before all was read.
    let _ = call.read_to_end(&mut answer);
    cluster.put(20);
    assert_eq!((log.status().term, log.status().applied, table.rows().len()), (0, 0, 0));
    assert!(!cluster.log(1).members().is_changing());
    drop(log);
    let error = Log::open(stranger_of(&dir, &cluster), Table::default()).err().unwrap();
    assert!(matches!(error, LogError::OtherCluster { found, .. } if found == own), "{error}");
    // The right one is welcome.
    cluster.up(3);
    cluster.check();
}

#[test]
fn members_that_do_not_know_the_token_are_not_heard() {
    let token = |text| Some(Token::new(text).unwrap());
    let mut cluster = Cluster::of(3, LogConfig { token: token("0123456789abcdef"), ..LogConfig::default() });
    cluster.up(1);
    cluster.up(2);
    cluster.put(5);
    for (version, more) in [(1, &[][..]), (2, &[7; 48][..])] {
        let mut call = TcpStream::connect(cluster.net.target(1)).unwrap();
        call.write_all(&greeting_of(version, cluster.id, 3, 1)).unwrap();
        call.write_all(more).unwrap();
        let mut answer = Vec::new();
        // It hangs up, maybe before all was read.
        let _ = call.read_to_end(&mut answer);
        assert!(answer.len() <= 48 + 16 + 32, "nothing but a greeting and a proof of its own");
    }
    // The very member, with another token or none: it is not let in, and lets nobody in.
    let listener = cluster.config(3, cluster.first.clone());
    for wrong in [token("0123456789abcdeF"), None] {
        let dir = tempfile::tempdir().unwrap();
        let table = Table::default();
        let log = Log::open(LogConfig { dir: dir.path().into(), token: wrong, ..listener.clone() }, table.clone()).unwrap();
        cluster.put(20);
        assert_eq!((log.status().term, log.status().applied, table.rows().len()), (0, 0, 0));
    }
    cluster.up(3);
    cluster.check();
}

fn greeting(cluster: Uuid, from: u64, to: u64) -> Vec<u8> {
    greeting_of(1, cluster, from, to)
}

fn greeting_of(version: u32, cluster: Uuid, from: u64, to: u64) -> Vec<u8> {
    let mut hello = Vec::from(*b"PRLNPEER");
    hello.extend(version.to_le_bytes());
    hello.extend(cluster.as_bytes());
    hello.extend([from.to_le_bytes(), to.to_le_bytes()].concat());
    hello.extend((crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &hello) as u32).to_le_bytes());
    hello
}

fn stranger_of(dir: &tempfile::TempDir, cluster: &Cluster) -> LogConfig {
    LogConfig { cluster: Some(cluster.id), ..config(dir.path()) }
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let mut cluster = Cluster::of(3, LogConfig::default());
    let right = cluster.config(1, cluster.first.clone());
    let ms = std::time::Duration::from_millis;
    for (wrong, why) in [
        (LogConfig { cluster: None, ..right.clone() }, "cluster id"),
        (LogConfig { listen: None, ..right.clone() }, "needs a listener"),
        (LogConfig { member: 4, ..right.clone() }, "not among the members"),
        (LogConfig { election: (ms(60), ms(500)), ..right.clone() }, "two heartbeats"),
        (LogConfig { election: (ms(250), ms(250)), ..right.clone() }, "room to choose"),
    ] {
        let error = Log::open(wrong, Table::default()).err().unwrap();
        assert!(matches!(error, LogError::Config(_)) && error.to_string().contains(why), "{error}");
    }
    // A directory belongs to one member.
    drop(Log::open(right.clone(), Table::default()).unwrap());
    let error = Log::open(LogConfig { member: 2, ..right }, Table::default()).err().unwrap();
    assert!(matches!(error, LogError::OtherMember { found: 1, expected: 2, .. }), "{error}");
}
