//! The master's side of background jobs, with nodes that do as a test says: what is ordered, and what becomes of each answer.

use super::*;
use perilune_protocol::rpc::job::{JobState, ListJobs, SwitchJob};
use perilune_protocol::rpc::work::{BeginRun, TakeWork, WorkDone, WorkOrder, WorkOutcome};
use perilune_protocol::{FaultCode, RunId};

fn hurried(dir: &Path) -> Master {
    Master::start(in_a_hurry(dir)).unwrap()
}

fn in_a_hurry(dir: &Path) -> MasterConfig {
    MasterConfig {
        lease: Duration::from_millis(100),
        heartbeat: Duration::from_millis(50),
        suspect_after: Duration::from_millis(300),
        lost_after: Duration::from_millis(700),
        put_discard: Duration::from_secs(2),
        put_release: Duration::from_secs(5),
        ..config(dir)
    }
}

/// A node that a test plays: heartbeats on one connection, work on another.
struct Node {
    desc: SegmentDesc,
    peer: Peer,
    work: Peer,
}

impl Node {
    fn up(master: &Master) -> Self {
        let mut peer = Peer::hello(master);
        let desc = peer.lend();
        Self { desc, peer, work: Peer::hello(master) }
    }

    fn beat(&mut self) {
        assert!(!self.peer.call(&session::Heartbeat { node: self.desc.node }).unwrap().register);
    }

    fn ask(&mut self, done: Vec<WorkDone>) -> Vec<WorkOrder> {
        self.beat();
        self.work.call(&TakeWork { node: self.desc.node, done, room: 8, wait_ms: 20 }).unwrap()
    }

    /// The next order.
    fn order(&mut self, others: &mut [&mut Self]) -> WorkOrder {
        let mut found = None;
        until("an order", || {
            others.iter_mut().for_each(|node| node.beat());
            found = self.ask(vec![]).into_iter().next();
            found.is_some()
        });
        found.unwrap()
    }

    fn say(&mut self, id: u64, outcome: WorkOutcome) {
        assert_eq!(self.ask(vec![WorkDone { id, outcome }]), vec![]);
    }
}

fn job(peer: &mut Peer, name: &str) -> JobState {
    let mut found = None;
    until("the job is listed", || {
        found = peer.call(&ListJobs {}).unwrap().into_iter().find(|job| job.job == name);
        found.is_some()
    });
    found.unwrap()
}

fn put_wanting_two(peer: &mut Peer, key: &str) -> PutGrant {
    let config = PutConfig { replicas: 2, best_effort: true, ..PutConfig::default() };
    let grant =
        peer.call(&object::PutStart { puts: vec![(key.into(), 10_000)], config, writer: WriterId::random() }).unwrap().remove(0).unwrap();
    peer.call(&object::PutEnd { puts: vec![(key.into(), grant.version, 7)] }).unwrap().remove(0).unwrap();
    grant
}

fn used(peer: &mut Peer, desc: &SegmentDesc) -> u64 {
    peer.call(&segment::ListSegments {}).unwrap().iter().find(|s| s.desc.id == desc.id).unwrap().used
}

fn copies(peer: &mut Peer, key: &str) -> Vec<SegmentId> {
    let place = peer.call(&object::Locate { keys: vec![key.into()] }).unwrap().remove(0).unwrap();
    place.replicas.iter().map(|r| r.segment).collect()
}

#[test]
fn a_copy_is_published_only_when_its_node_says_that_it_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let master = hurried(dir.path());
    let mut peer = Peer::hello(&master);
    let mut source = Node::up(&master);
    let grant = put_wanting_two(&mut peer, "k");
    let mut target = Node::up(&master);
    peer.call(&SwitchJob { job: "shard_repair".into(), on: true }).unwrap();
    let order = target.order(&mut [&mut source]);
    let from = order.source.as_ref().unwrap();
    assert_eq!(
        (from.segment.id, &from.segment.capability, &from.extents),
        (source.desc.id, &source.desc.capability, &grant.replicas[0].extents)
    );
    assert_eq!((order.place.segment, order.size, order.checksum), (target.desc.id, 10_000, 7));
    assert!(order.limit_ms <= 2000, "as long as a new leader waits for those who may write");
    assert_eq!(copies(&mut peer, "k"), [source.desc.id], "nothing is visible before");

    // Wrong bytes, from the only source there is: not published, its room is free again, and it is tried anew.
    target.say(order.id, WorkOutcome::Wrong { found: 9 });
    until("the room is free again", || used(&mut peer, &target.desc) == 0);
    let again = target.order(&mut [&mut source]);
    assert_ne!(again.id, order.id);
    let told = job(&mut peer, "shard_repair");
    assert!(told.last_error.contains("no copy has the right bytes") && told.counts.failed == 1, "{told:?}");
    // An answer to what was given up changes nothing.
    target.say(order.id, WorkOutcome::Right);
    assert_eq!(copies(&mut peer, "k"), [source.desc.id]);

    target.say(again.id, WorkOutcome::Right);
    until("it is published", || copies(&mut peer, "k").len() == 2);
    assert_eq!(job(&mut peer, "shard_repair").counts.copied, 1);
    assert_eq!(used(&mut peer, &target.desc), used(&mut peer, &source.desc));

    // How far the job is is kept for the next leader, and is no setting of an operator's.
    until("it is kept", || master.engine().setting("job.shard_repair").is_some());
    let listed = ureq::get(format!("http://{}/config/list", master.http_addrs()[0])).call().unwrap().body_mut().read_to_string().unwrap();
    assert!(listed.contains("shard_repair") && !listed.contains("job."), "{listed}");
}

#[test]
fn a_node_that_dies_in_the_middle_of_a_copy_is_replaced_and_its_room_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let master = hurried(dir.path());
    let mut peer = Peer::hello(&master);
    let mut source = Node::up(&master);
    put_wanting_two(&mut peer, "k");
    let mut dying = Node::up(&master);
    peer.call(&SwitchJob { job: "shard_repair".into(), on: true }).unwrap();
    let order = dying.order(&mut [&mut source]);
    let Node { desc: dead, peer: heart, work } = dying;
    drop((heart, work));
    let mut next = Node::up(&master);
    let second = next.order(&mut [&mut source]);
    assert_eq!((second.place.segment, second.checksum), (next.desc.id, order.checksum));
    assert!(used(&mut peer, &dead) > 0, "who may still write there is not written over");
    next.say(second.id, WorkOutcome::Right);
    until("it is published", || {
        source.beat();
        next.beat();
        copies(&mut peer, "k").len() == 2
    });
    until("what the dead node may have written to is free in the end", || {
        source.beat();
        next.beat();
        used(&mut peer, &dead) == 0
    });
}

#[test]
fn what_a_node_took_before_it_was_killed_is_ordered_anew_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let master = Master::start(MasterConfig { put_discard: hour, put_release: hour, ..in_a_hurry(dir.path()) }).unwrap();
    let mut peer = Peer::hello(&master);
    let mut source = Node::up(&master);
    put_wanting_two(&mut peer, "k");
    let mut target = Node::up(&master);
    let begin = |node: &mut Node, run| node.work.call(&BeginRun { node: node.desc.node, run }).unwrap();
    let (first, second) = (RunId::random(), RunId::random());
    begin(&mut target, first);
    assert_eq!(target.work.call(&BeginRun { node: target.desc.node, run: second }).unwrap_err().code, FaultCode::WrongState);
    peer.call(&SwitchJob { job: "shard_repair".into(), on: true }).unwrap();
    let order = target.order(&mut [&mut source]);
    target.work = Peer::hello(&master);
    begin(&mut target, second);
    let again = target.order(&mut [&mut source]);
    assert_eq!((again.place.segment, again.checksum), (order.place.segment, order.checksum));
    assert_ne!(again.place.extents, order.place.extents, "what the first may have written to is left alone");
    target.say(order.id, WorkOutcome::Right);
    target.say(again.id, WorkOutcome::Right);
    until("it is published", || copies(&mut peer, "k").len() == 2);
}

#[test]
fn what_was_removed_while_it_was_copied_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let master = hurried(dir.path());
    let mut peer = Peer::hello(&master);
    let mut source = Node::up(&master);
    put_wanting_two(&mut peer, "k");
    let mut target = Node::up(&master);
    peer.call(&SwitchJob { job: "shard_repair".into(), on: true }).unwrap();
    let order = target.order(&mut [&mut source]);
    peer.call(&object::Remove { keys: vec!["k".into()], force: true }).unwrap().remove(0).unwrap();
    target.say(order.id, WorkOutcome::Right);
    until("all is free", || used(&mut peer, &target.desc) + used(&mut peer, &source.desc) == 0);
    assert_eq!(peer.call(&object::Exists { keys: vec!["k".into()] }), Ok(vec![false]));
    assert_eq!(job(&mut peer, "shard_repair").counts.copied, 0);
}

#[test]
fn a_segment_does_not_go_while_another_job_is_at_what_is_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let master = hurried(dir.path());
    let mut peer = Peer::hello(&master);
    let mut leaving = Node::up(&master);
    put_wanting_two(&mut peer, "k");
    let mut other = Node::up(&master);
    peer.call(&SwitchJob { job: "vol_inspect".into(), on: true }).unwrap();
    let look = leaving.order(&mut [&mut other]);
    assert!(look.source.is_none(), "it is compared: {look:?}");
    peer.call(&SwitchJob { job: "disk_drop".into(), on: true }).unwrap();
    peer.call(&segment::Unmount { segments: vec![leaving.desc.id], grace_ms: 60_000 }).unwrap();
    until("what is being compared counts as being there", || {
        leaving.beat();
        other.beat();
        let listed = peer.call(&segment::ListSegments {}).unwrap();
        assert!(listed.iter().any(|s| s.desc.id == leaving.desc.id), "it went with the object");
        job(&mut peer, "disk_drop").segments.iter().any(|s| s.left == 1)
    });
    leaving.ask(vec![WorkDone { id: look.id, outcome: WorkOutcome::Right }]);
    let order = other.order(&mut [&mut leaving]);
    other.say(order.id, WorkOutcome::Right);
    until("it is empty and goes", || {
        other.beat();
        !peer.call(&segment::ListSegments {}).unwrap().iter().any(|s| s.desc.id == leaving.desc.id)
    });
    assert_eq!(copies(&mut peer, "k"), [other.desc.id]);
}

#[test]
fn a_damaged_copy_goes_and_the_object_waits_for_one_that_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let master = hurried(dir.path());
    let mut peer = Peer::hello(&master);
    let (mut near, mut away) = (Node::up(&master), Node::up(&master));
    near.beat();
    away.beat();
    put_wanting_two(&mut peer, "k");
    assert_eq!(copies(&mut peer, "k").len(), 2);
    until("the other node is away", || {
        near.beat();
        copies(&mut peer, "k") == [near.desc.id]
    });
    peer.call(&SwitchJob { job: "vol_inspect".into(), on: true }).unwrap();
    let look = near.order(&mut []);
    near.ask(vec![WorkDone { id: look.id, outcome: WorkOutcome::Wrong { found: 9 } }]);
    until("the damaged copy goes", || {
        near.beat();
        let counts = job(&mut peer, "vol_inspect").counts;
        assert_eq!(counts.removed, 0, "the object was removed");
        counts.dropped == 1
    });
    away.peer.register(&away.desc, true);
    until("it is there again", || {
        near.beat();
        away.beat();
        peer.call(&object::Exists { keys: vec!["k".into()] }) == Ok(vec![true])
    });
    assert_eq!(copies(&mut peer, "k"), [away.desc.id]);
}

#[test]
fn a_switch_that_does_not_exist_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let master = hurried(dir.path());
    let mut peer = Peer::hello(&master);
    let fault = peer.call(&SwitchJob { job: "everything".into(), on: true }).unwrap_err();
    assert!(fault.message.contains("there is no job `everything`"), "{fault}");
    until("all jobs are listed", || peer.call(&ListJobs {}).unwrap().len() == 6);
}
