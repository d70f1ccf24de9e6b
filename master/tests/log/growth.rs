//! A group changes: members come, catch up, vote, lead, and go.

use crate::cluster::{Cluster, member};
use crate::wait::wait;
use perilune_master::log::{Change, LogConfig, Member, Members, Role, Seat};
use perilune_protocol::FaultCode;

fn seats(members: &Members) -> Vec<(u64, Seat)> {
    members.iter().map(|(m, seat)| (m.id, seat)).collect()
}

/// Keeps asking while the answer is that it cannot be just now.
fn change(cluster: &Cluster, change: &Change) -> Members {
    wait(&format!("{change:?}"), || match cluster.log(cluster.leader()).change(change.clone()).wait() {
        Ok(members) => Some(members),
        Err(fault) => {
            // A new leader has not heard all of those who are there.
            assert!(matches!(fault.code, FaultCode::WrongState | FaultCode::Forbidden), "{fault}");
            None
        }
    })
}

#[test]
fn one_member_becomes_three_and_two_again() {
    let mut cluster = Cluster::start(1, LogConfig { snapshot_entries: 40, ..LogConfig::default() });
    cluster.put(100);
    assert!(cluster.log(1).holds_lease());
    for id in [2, 3] {
        let new = member(&cluster.net, id);
        let members = change(&cluster, &Change::AddLearner(new.clone()));
        assert!(seats(&members).contains(&(id, Seat::Learner)));
        assert_eq!(Members::decode(&members.encode()).unwrap(), members, "it can be carried to the new member");
        let fault = cluster.log(1).change(Change::Promote(id)).wait().unwrap_err();
        assert!(fault.message.contains("lacks"), "{fault}");
        cluster.join(id, members);
        cluster.put(20);
        let members = change(&cluster, &Change::Promote(id));
        assert!(seats(&members).contains(&(id, Seat::Voter)) && !members.is_changing());
        assert_eq!(members.get(id), Some(&new));
    }
    cluster.check();
    cluster.first = (*cluster.log(1).members()).clone();
    // The first one may go now.
    cluster.log(1).transfer(2).wait().unwrap();
    wait("member 2 leads", || (cluster.standing(2).role == Role::Leader).then_some(()));
    let members = change(&cluster, &Change::Remove(1));
    assert_eq!(seats(&members), [(2, Seat::Voter), (3, Seat::Voter)]);
    cluster.down(1);
    cluster.put(20);
    let again = Change::AddLearner(member(&cluster.net, 1));
    let fault = cluster.log(cluster.leader()).change(again).wait().unwrap_err();
    assert!(fault.code == FaultCode::InvalidParams && fault.message.contains("was used"), "{fault}");
    // All of it is in the log.
    for id in [2, 3] {
        cluster.down(id);
    }
    for id in [2, 3] {
        cluster.up(id);
        assert_eq!(seats(&cluster.log(id).members()), [(2, Seat::Voter), (3, Seat::Voter)]);
    }
    cluster.check();
}

#[test]
fn a_new_member_reads_the_log_from_its_first_entry() {
    // Without a snapshot anywhere: changes of the group are in the log it replays.
    let mut cluster = Cluster::start(3, LogConfig { snapshot_entries: 0, ..LogConfig::default() });
    cluster.put(30);
    let five = Change::AddLearner(member(&cluster.net, 5));
    change(&cluster, &five);
    change(&cluster, &Change::Remove(5));
    let members = change(&cluster, &Change::AddLearner(member(&cluster.net, 4)));
    cluster.join(4, members);
    cluster.put(30);
    let voters = change(&cluster, &Change::Promote(4));
    assert_eq!(voters.voters(), [1, 2, 3, 4]);
    cluster.check();
    wait("the new member knows the group", || (*cluster.log(4).members() == voters).then_some(()));
    cluster.down(4);
    cluster.up(4);
    cluster.check();
    assert_eq!(*cluster.log(4).members(), voters);
}

#[test]
fn changes_that_would_hurt_are_refused_and_change_nothing() {
    let mut cluster = Cluster::start(3, LogConfig::default());
    cluster.put(5);
    let leader = cluster.leader();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let before = cluster.log(leader).members();
    for (wrong, code) in [
        (Change::AddLearner(Member { id: 2, address: "127.0.0.1:1".into(), ..Member::default() }), FaultCode::InvalidParams),
        (Change::Promote(9), FaultCode::InvalidParams),
        (Change::Remove(9), FaultCode::InvalidParams),
        (Change::Remove(leader), FaultCode::WrongState),
    ] {
        let fault = cluster.log(leader).change(wrong.clone()).wait().unwrap_err();
        assert_eq!(fault.code, code, "{wrong:?}: {fault}");
    }
    let fault = cluster.log(others[0]).change(Change::Remove(others[1])).wait().unwrap_err();
    assert!(fault.message.contains("does not lead"), "{fault}");
    assert!(cluster.log(leader).transfer(9).wait().unwrap_err().message.contains("no voter"));
    // With one gone, the other must not be removed: only the leader would be left of two.
    cluster.down(others[0]);
    wait("the silence is noticed", || {
        let progress = cluster.log(leader).progress().wait().unwrap();
        progress.members.iter().any(|p| p.member.id == others[0] && !p.active).then_some(())
    });
    let fault = cluster.log(leader).change(Change::Remove(others[1])).wait().unwrap_err();
    assert!(fault.message.contains("no majority"), "{fault}");
    assert_eq!(cluster.log(leader).members(), before);
    // The silent one may go.
    let members = change(&cluster, &Change::Remove(others[0]));
    assert_eq!(members.voters().len(), 2);
    cluster.put(10);
    cluster.check();
}

#[test]
fn the_lead_is_handed_over_and_the_lease_with_it() {
    let mut cluster = Cluster::start(3, LogConfig::default());
    for _ in 0..4 {
        cluster.put(10);
        let old = cluster.leader();
        let new = old % 3 + 1;
        cluster.log(old).transfer(new).wait().unwrap();
        assert!(!cluster.log(old).holds_lease(), "it was given away");
        wait("the new leader", || (cluster.standing(new).role == Role::Leader).then_some(()));
    }
    let old = cluster.leader();
    cluster.log(old).hand_over().wait().unwrap();
    assert_ne!(cluster.leader_but(old), old);
    let (leader, gone) = (cluster.leader(), cluster.leader() % 3 + 1);
    cluster.down(gone);
    let fault = cluster.log(leader).transfer(gone).wait().unwrap_err();
    assert!(fault.message.contains("did not take the lead"), "{fault}");
    cluster.put(10);
    cluster.check();
}

#[test]
fn a_member_moves_to_another_address() {
    let mut cluster = Cluster::start(3, LogConfig::default());
    cluster.put(5);
    let moved = (1..=3).find(|id| *id != cluster.leader()).unwrap();
    let to = Member { service: "elsewhere".into(), ..member(&cluster.net, moved) };
    change(&cluster, &Change::Move(to.clone()));
    cluster.put(10);
    cluster.check();
    for id in 1..=3 {
        assert_eq!(cluster.log(id).members().get(moved), Some(&to));
    }
}

#[test]
fn a_member_that_lost_its_directory_gets_it_all_again_or_is_replaced() {
    let mut cluster = Cluster::start(3, LogConfig::default());
    cluster.put(20);
    let lost = (1..=3).find(|id| *id != cluster.leader()).unwrap();
    cluster.down(lost);
    cluster.dirs.remove(&lost);
    cluster.up(lost);
    cluster.check();
    change(&cluster, &Change::Remove(lost));
    cluster.down(lost);
    let members = change(&cluster, &Change::AddLearner(member(&cluster.net, 4)));
    cluster.join(4, members);
    change(&cluster, &Change::Promote(4));
    cluster.check();
}

#[test]
fn who_is_left_of_a_group_begins_again_alone() {
    let mut cluster = Cluster::start(3, LogConfig { snapshot_entries: 0, ..LogConfig::default() });
    cluster.put(3);
    let leader = cluster.leader();
    for id in (1..=3).filter(|id| *id != leader) {
        change(&cluster, &Change::Remove(id));
        cluster.down(id);
    }
    cluster.put(3);
    cluster.down(leader);
    cluster.up(leader);
    cluster.check();
}
