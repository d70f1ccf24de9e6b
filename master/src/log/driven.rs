//! Drivers driven by hand: every tick and every letter is called for, so that a test meets what a running group meets rarely.

use super::background::{Background, Finished, Job};
use super::change::Change;
use super::directory::{Directory, snapshots};
use super::disk::System;
use super::driver::Driver;
use super::install::REFUSED;
use super::machine::{Machine, SnapshotWriter};
use super::members::tests::member;
use super::members::{Member, Members};
use super::peers::{Peers, Post};
use super::snapshot::SnapshotId;
use super::status::Board;
use super::{Durability, LogConfig};
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use uuid::Uuid;

struct Nothing;

impl Machine for Nothing {
    type Output = ();

    fn apply(&mut self, _: u64, _: &[u8]) {}

    fn snapshot(&self) -> SnapshotWriter {
        Box::new(|_| Ok(()))
    }

    fn restore(&mut self, _: &mut dyn io::Read) -> io::Result<()> {
        Ok(())
    }
}

struct Idle;

impl Background for Idle {
    fn give(&mut self, _: Job) {}

    fn finished(&mut self) -> Option<Finished> {
        None
    }

    fn wait(&mut self) {}

    fn appended(&self) {}
}

#[derive(Clone, Default)]
struct Letters(Arc<Mutex<Vec<Message>>>);

impl Peers for Letters {
    fn members(&mut self, _: &[Member]) {}

    fn send(&mut self, message: Message) -> bool {
        self.0.lock().unwrap().push(message);
        true
    }

    fn send_snapshot(&mut self, _: Message, _: SnapshotId) -> bool {
        true
    }
}

/// A member.
struct Hand {
    driver: Driver<Nothing>,
    letters: Letters,
    now: Duration,
    dir: TempDir,
}

impl Hand {
    /// One of the two that the group begins with, which wants so much room.
    fn new(id: u64, reserve: u64) -> Self {
        let (dir, cluster) = (tempfile::tempdir().unwrap(), Some(Uuid::from_u128(7)));
        let config = LogConfig {
            dir: dir.path().join("log"),
            member: id,
            members: Members::begin(vec![member(1), member(2)]).unwrap(),
            cluster,
            listen: Some(Arc::new(TcpListener::bind(("127.0.0.1", 0)).unwrap())),
            durability: Durability::Leader,
            reserve,
            seed: id,
            ..LogConfig::default()
        };
        let directory = Directory::open(Arc::new(System), &config.dir, cluster).unwrap();
        let letters = Letters::default();
        let peers = Box::new(letters.clone());
        let driver = Driver::open(config, directory, Nothing, peers, Arc::<Board>::default(), |_| Ok(Box::new(Idle))).unwrap();
        Self { driver, letters, now: Duration::ZERO, dir }
    }

    fn tick(&mut self) {
        self.now += self.driver.config.tick();
        self.driver.tick(self.now);
        self.turn();
    }

    fn turn(&mut self) {
        self.driver.turn(self.now);
        assert_eq!(self.driver.poison, None);
    }

    fn hear(&mut self, message: Message) {
        self.driver.post(Post::Message(Box::new(message)));
        self.turn();
    }

    fn take_letters(&self) -> Vec<Message> {
        std::mem::take(&mut self.letters.0.lock().unwrap())
    }

    fn role(&self) -> StateRole {
        self.driver.node.raft.state
    }

    fn election(&self) -> usize {
        self.driver.config.ticks().1.1
    }

    /// The announcement of a snapshot whose file has arrived, and that file.
    fn announced(&self) -> (Message, PathBuf) {
        let mut message = Message { to: 2, from: 1, term: 1, ..Message::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        let meta = message.mut_snapshot().mut_metadata();
        (meta.index, meta.term) = (9, 1);
        let file = SnapshotId { index: 9, term: 1 }.received(&snapshots(&self.dir.path().join("log")));
        std::fs::write(&file, b"whole").unwrap();
        (message, file)
    }

    /// What it was told about a snapshot that it sent or was sent: the hint of a refusal.
    fn refusals(&self) -> Vec<u64> {
        self.take_letters().iter().filter(|m| m.reject && m.context[..] == *REFUSED).map(|m| m.reject_hint).collect()
    }
}

/// Carries letters until there are none.
fn carry(pair: &mut [Hand; 2]) {
    loop {
        let letters: Vec<Message> = pair.iter().flat_map(Hand::take_letters).collect();
        if letters.is_empty() {
            return;
        }
        for letter in letters.into_iter().filter(|m| m.to <= 2) {
            pair[letter.to as usize - 1].hear(letter);
        }
    }
}

/// Only this one's time passes until it leads.
fn let_lead(pair: &mut [Hand; 2], which: usize) {
    for _ in 0..pair[which].election() * 4 {
        pair[which].tick();
        carry(pair);
        if pair[which].driver.leads().is_some_and(|term| pair[which].driver.ready_term == term) {
            return;
        }
    }
    panic!("member {} does not lead: {:?}", which + 1, pair[which].role());
}

fn pair(reserve: u64) -> [Hand; 2] {
    let mut pair = [Hand::new(1, reserve), Hand::new(2, reserve)];
    let_lead(&mut pair, 0);
    pair
}

/// Member 1 removes member 2, which is left to complete that as the leader. Until then member 2 hears of no commit.
fn removed_while_it_leads(mut pair: [Hand; 2], first: Option<Change>) -> [Hand; 2] {
    for change in first.into_iter().chain([Change::Remove(2)]) {
        let [one, two] = &mut pair;
        one.driver.change(&change, oneshot::channel().0);
        one.turn();
        let last = |hand: &Hand| hand.driver.node.raft.raft_log.last_index();
        let both = last(one) + u64::from(matches!(change, Change::Remove(_)));
        for _ in 0..100 {
            for mut letter in one.take_letters().into_iter().filter(|m| m.to == 2) {
                letter.commit = 0;
                two.hear(letter);
            }
            if last(two) == both && (one.driver.changing.is_none() || one.driver.node.store().members().is_changing()) {
                break;
            }
            two.take_letters().into_iter().for_each(|letter| one.hear(letter));
            one.tick();
        }
        assert_eq!((last(one), last(two)), (both, both), "each step of {change:?} is known to both");
    }
    let [one, two] = &mut pair;
    assert!(one.driver.node.store().members().is_changing(), "the second step is not decided");
    // The answers are lost, until member 1 gives up the lead.
    while one.role() == StateRole::Leader {
        one.tick();
    }
    drop((one.take_letters(), two.take_letters()));
    for _ in 0..two.election() * 4 {
        pair[1].tick();
        carry(&mut pair);
        if pair[1].driver.node.store().members().get(2).is_none() {
            return pair;
        }
    }
    panic!("member 2 was not removed: {:?}", pair[1].driver.node.store().members());
}

#[test]
fn who_is_left_alone_as_a_follower_stands_before_it_sleeps() {
    let [mut one, two] = removed_while_it_leads(pair(0), None);
    assert_eq!(two.role(), StateRole::Follower);
    assert!(one.driver.is_alone() && one.role() == StateRole::Follower && !one.driver.may_sleep());
    for _ in 0..one.election() * 2 {
        one.tick();
    }
    assert!(one.driver.may_sleep());
}

#[test]
fn who_is_removed_while_it_leads_sends_nothing_more_as_a_leader() {
    let learner = Member { id: 4, address: "host4:1".into(), ..Member::default() };
    let pair = removed_while_it_leads(pair(0), Some(Change::AddLearner(learner)));
    assert_eq!(pair[1].role(), StateRole::Follower);
}

#[test]
fn a_snapshot_for_which_there_is_no_room_leaves_nothing_behind_and_the_sender_is_told_why() {
    let mut crowded = Hand::new(2, u64::MAX);
    crowded.turn();
    let (message, file) = crowded.announced();
    crowded.hear(message);
    assert_eq!((crowded.refusals(), file.exists()), (vec![1], false));

    let mut stalled = Hand::new(2, 0);
    let ready = stalled.driver.node.ready();
    stalled.driver.stall(ready, "full".into());
    let (message, file) = stalled.announced();
    stalled.driver.post(Post::Message(Box::new(message)));
    assert_eq!((stalled.refusals(), file.exists()), (vec![1], false), "it is refused although raft is asked nothing");
    stalled.driver.post(Post::SnapshotRefused(1, super::peers::Refusal::NoRoom));
    assert_eq!(stalled.refusals(), [1]);

    let mut roomy = Hand::new(2, 0);
    let (message, file) = roomy.announced();
    std::fs::remove_file(file).unwrap();
    roomy.hear(message);
    assert_eq!(roomy.refusals(), [0], "nothing has arrived");
}

#[test]
fn a_refusal_for_lack_of_room_is_no_damage_and_is_waited_for() {
    let [mut one, _two] = pair(0);
    let mut refusal = Message { to: 1, from: 2, reject: true, context: REFUSED.into(), reject_hint: 1, ..Message::default() };
    refusal.set_msg_type(MessageType::MsgAppendResponse);
    one.driver.post(Post::Message(Box::new(refusal.clone())));
    one.driver.post(Post::SnapshotSent(2, true));
    assert!(!one.driver.node.store().wants_snapshot());
    let wait = one.driver.sent[&2] - one.driver.ticks;
    assert_eq!(wait * one.driver.config.tick().as_millis() as u64, 5000, "also when the rest of it was sent only then");
    refusal.reject_hint = 0;
    one.driver.post(Post::Message(Box::new(refusal)));
    assert!(one.driver.node.store().wants_snapshot() && one.driver.sent.is_empty());
}

#[test]
fn who_lacks_room_offers_the_lead_again_after_a_while() {
    let mut pair = pair(u64::MAX);
    let timeouts = 130 * pair[0].election();
    let mut offers = 0;
    for _ in 0..timeouts {
        pair.iter_mut().for_each(Hand::tick);
        loop {
            let letters: Vec<Message> = pair.iter().flat_map(Hand::take_letters).collect();
            if letters.is_empty() {
                break;
            }
            offers += letters.iter().filter(|m| m.msg_type() == MessageType::MsgTimeoutNow).count();
            letters.into_iter().for_each(|letter| pair[letter.to as usize - 1].hear(letter));
        }
    }
    assert_eq!((pair[0].role(), offers), (StateRole::Leader, 2), "after the first, one every 60 election timeouts");
}
