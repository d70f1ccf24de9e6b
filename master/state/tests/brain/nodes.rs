//! Silence and return of nodes, and segments that leave.

use super::*;
use perilune_protocol::SegmentStatus;
use std::ops::ControlFlow;

fn statuses(leader: &Leader) -> Vec<SegmentStatus> {
    leader.state.segments.table().iter().map(|s| s.status()).collect()
}

#[test]
fn a_silent_node_is_avoided_then_lost_then_back() {
    let (mut leader, nodes) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", 100);
    leader.now = 1 + RULES.silence.suspect_ms;
    leader.judge();
    assert_eq!(statuses(&leader), [SegmentStatus::Suspect]);
    assert!(leader.exists("k"), "the only copy is still offered");
    assert_eq!(code(leader.start("n", 1, &PutConfig::default()).unwrap_err()), -200, "but nothing is placed there");
    leader.now = 1 + RULES.silence.lost_ms;
    leader.judge();
    assert_eq!(statuses(&leader), [SegmentStatus::Lost]);
    assert!(!leader.exists("k"));
    assert_eq!(leader.state.peek(TENANT, &key("k")).unwrap_err().code.number(), -703);
    leader.hear(nodes[0], 5);
    assert!(leader.exists("k"), "its memory is intact, so are its objects");
}

#[test]
fn reads_prefer_the_copy_on_a_node_that_is_heard() {
    let (mut leader, nodes) = Leader::with_nodes(2, 16 * MIB);
    let grant = leader.start("k", 100, &PutConfig { replicas: 2, ..PutConfig::default() }).unwrap();
    leader.end("k", grant.version);
    assert_eq!(leader.state.peek(TENANT, &key("k")).unwrap().replicas.len(), 2);
    leader.state.nodes.disconnected(1);
    leader.judge();
    let table = leader.state.segments.table();
    let suspect = table.iter().find(|s| s.node() == nodes[0]).unwrap().id();
    let replicas = leader.state.peek(TENANT, &key("k")).unwrap().replicas;
    assert!(replicas.len() == 1 && replicas[0].segment != suspect);
}

#[test]
fn a_lost_object_can_be_put_again() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", 100);
    leader.now = 1 + RULES.silence.lost_ms;
    leader.judge();
    leader.node(7, 16 * MIB);
    leader.put("k", 300);
    assert_eq!(leader.state.peek(TENANT, &key("k")).unwrap().size, 300);
}

#[test]
fn a_draining_segment_is_read_but_not_written() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    leader.put("k", 100);
    let segment = leader.segments()[0];
    leader.commit(Effect::Drain { segment, grace_ms: 500 });
    assert_eq!(statuses(&leader), [SegmentStatus::Draining]);
    assert!(leader.exists("k"));
    assert_eq!(code(leader.start("n", 1, &PutConfig::default()).unwrap_err()), -200);
    assert_eq!(leader.state.segments.table().get(segment).unwrap().drain_until(), leader.now + 500);
}

#[test]
fn objects_go_with_their_last_segment() {
    let (mut leader, _) = Leader::with_nodes(2, 16 * MIB);
    let both = leader.start("both", 100, &PutConfig { replicas: 2, ..PutConfig::default() }).unwrap();
    leader.end("both", both.version);
    let one = leader.put("one", 100);
    let segment = one.replicas[0].segment;
    assert_eq!(leader.commit(Effect::Unmount { segment }), Applied::Done);
    assert!(matches!(leader.commit(Effect::Unmount { segment }), Applied::Refused(_)));
    assert!(leader.exists("both") && !leader.exists("one"));
    let mut seen = 0;
    leader.state.for_each(TENANT, &mut |_| {
        seen += 1;
        ControlFlow::Continue(())
    });
    assert_eq!(seen, 1);
}

#[test]
fn a_put_whose_segment_went_is_refused_at_its_end() {
    let (mut leader, _) = Leader::with_nodes(1, 16 * MIB);
    let grant = leader.start("k", 100, &PutConfig::default()).unwrap();
    let segment = grant.replicas[0].segment;
    leader.commit(Effect::Unmount { segment });
    assert!(matches!(leader.end("k", grant.version), Applied::Refused(_)));
    assert!(!leader.exists("k"));
    assert!(leader.state.puts.is_empty());
}
