//! Three masters in one process, over real connections: one serves, the others send to it, and nothing acknowledged is forgotten.

use super::*;
use perilune_master::log::Member;
use perilune_protocol::{Extent, FaultCode, ObjectKey, Tso, WriterId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};
use uuid::Uuid;

/// An object that was acknowledged: its version, and where it lies.
type Known = (Tso, Vec<(SegmentId, Vec<Extent>)>);

pub(super) struct Group {
    ip: Ipv4Addr,
    cluster: Uuid,
    dirs: Vec<tempfile::TempDir>,
    pub(super) masters: Vec<Option<Master>>,
    node: SegmentDesc,
    objects: BTreeMap<String, Known>,
    removed: BTreeSet<String>,
}

impl Group {
    pub(super) fn start() -> Self {
        // An address of its own for each group, so that ports can be told before anyone listens on them.
        static GROUPS: AtomicU8 = AtomicU8::new(1);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, high.max(1), low, GROUPS.fetch_add(1, Ordering::Relaxed));
        let node = memory();
        let dirs = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let (objects, removed) = (BTreeMap::new(), BTreeSet::new());
        let mut group = Self { ip, cluster: Uuid::new_v4(), dirs, masters: vec![None, None, None], node, objects, removed };
        (0..3).for_each(|nth| group.up(nth));
        group
    }

    fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }

    fn serves(&self, nth: usize) -> SocketAddr {
        self.at(10_000 + nth as u16)
    }

    pub(super) fn up(&mut self, nth: usize) {
        let peer = |n: u16| Member {
            id: u64::from(n) + 1,
            address: self.at(20_000 + n).to_string(),
            service: self.at(10_000 + n).to_string(),
            ..Member::default()
        };
        let port = u16::try_from(nth).unwrap();
        let config = MasterConfig {
            rpc: self.at(10_000 + port),
            http: vec![self.at(30_000 + port)],
            member: nth as u64 + 1,
            peers: (0..3).map(peer).collect(),
            peer_listen: Some(self.at(20_000 + port)),
            cluster: Some(self.cluster),
            ..config(self.dirs[nth].path())
        };
        self.masters[nth] = Some(Master::start(config).unwrap_or_else(|e| panic!("master {}: {e}", nth + 1)));
    }

    /// The master that serves, once one does, with a connection on which the node has registered.
    fn leader(&self) -> (usize, Peer) {
        wait::wait("a master that leads", || {
            (0..3).filter(|nth| self.masters[*nth].is_some()).find_map(|nth| Some((nth, self.enter(nth)?)))
        })
    }

    /// `None` where this master does not lead.
    fn enter(&self, nth: usize) -> Option<Peer> {
        let mut peer = Peer::reach(self.serves(nth)).ok()?;
        peer.ask(&session::Hello { agent: "test".into(), tenant: String::new() })?.ok()?;
        let segments = vec![self.node.clone()];
        let registered = peer.ask(&session::Register { node: self.node.node, name: "n".into(), rest: String::new(), segments })?.ok()?;
        assert!(self.objects.is_empty() || registered.unknown.is_empty(), "a master that forgot a segment has it dropped");
        peer.ask(&segment::Mount { segments: vec![self.node.clone()] })?.ok()?;
        Some(peer)
    }

    /// The master that serves, and serves what it should: whoever loses the lead before it told all of it is asked for nothing more.
    pub(super) fn checked(&self) -> (usize, Peer) {
        wait::wait("a leader that tells what it knows", || {
            let (nth, mut peer) = self.leader();
            self.check(&mut peer).then_some((nth, peer))
        })
    }

    /// Notes what was acknowledged. What the master may or may not have done before it lost the lead is forgotten here.
    pub(super) fn put(&mut self, peer: &mut Peer, key: &str, size: u64) {
        let config = PutConfig { upsert: true, ..PutConfig::default() };
        let start = object::PutStart { puts: vec![(key.into(), size)], config, writer: WriterId::random() };
        let Some(Ok(mut grants)) = peer.ask(&start) else { return };
        let Ok(grant) = grants.remove(0) else { return };
        self.forget(key);
        if let Some(Ok(ended)) = peer.ask(&object::PutEnd { puts: vec![(key.into(), grant.version, 7)] })
            && ended[0].is_ok()
        {
            let places = grant.replicas.iter().map(|r| (r.segment, r.extents.clone())).collect();
            self.objects.insert(key.into(), (grant.version, places));
        }
    }

    fn remove(&mut self, peer: &mut Peer, key: &str) {
        self.forget(key);
        if let Some(Ok(outcomes)) = peer.ask(&object::Remove { keys: vec![key.into()], force: true }) {
            outcomes[0].as_ref().unwrap();
            self.removed.insert(key.into());
        }
    }

    fn forget(&mut self, key: &str) {
        self.objects.remove(key);
        self.removed.remove(key);
    }

    /// Everything acknowledged is there, where it was put; nothing overlaps; what was removed is gone. False when the lead was lost meanwhile.
    fn check(&self, peer: &mut Peer) -> bool {
        let keys: Vec<ObjectKey> = self.objects.keys().map(|k| k.as_str().into()).collect();
        let Some(Ok(places)) = peer.ask(&object::Locate { keys }) else { return false };
        let mut taken: HashMap<SegmentId, Vec<Extent>> = HashMap::new();
        for (place, (key, (version, at))) in places.into_iter().zip(&self.objects) {
            let place = place.unwrap_or_else(|fault| panic!("{key} was acknowledged: {fault}"));
            let found: Vec<_> = place.replicas.into_iter().map(|r| (r.segment, r.extents)).collect();
            assert_eq!((place.version, place.checksum, &found), (*version, 7, at), "{key}");
            for (segment, extents) in found {
                taken.entry(segment).or_default().extend(extents);
            }
        }
        for extents in taken.values_mut() {
            extents.sort_by_key(|e| e.offset);
            for pair in extents.windows(2) {
                assert!(pair[0].offset + pair[0].len <= pair[1].offset, "two objects share space: {pair:?}");
            }
        }
        let keys = self.removed.iter().map(|k| k.as_str().into()).collect();
        let Some(Ok(found)) = peer.ask(&object::Exists { keys }) else { return false };
        assert!(found.iter().all(|there| !there), "what was removed is gone");
        true
    }
}

#[test]
fn another_master_serves_all_that_was_acknowledged_when_the_leader_stops() {
    let mut group = Group::start();
    for round in 0..3 {
        let (nth, mut peer) = group.checked();
        for n in 0..50 {
            group.put(&mut peer, &format!("r{round}/k{n}"), 5000);
        }
        group.masters[nth].take().unwrap().stop();
        assert!(peer.ask(&object::Exists { keys: vec!["r0/k0".into()] }).is_none(), "a master that stopped answers nobody");

        group.checked();
        group.up(nth);
        wait::wait("a master that does not lead says who does, and answers nothing else", || {
            let (leader, _) = group.leader();
            let mut other = Peer::reach(group.serves((leader + 1) % 3)).ok()?;
            let hello = session::Hello { agent: "test".into(), tenant: String::new() };
            // An answer without a fault, or with another: it has just begun to lead.
            let fault = other.ask(&hello)?.err()?;
            let refused = other.ask(&object::Exists { keys: vec!["r0/k0".into()] })?.err()?;
            let told = fault.message.contains(&group.serves(leader).to_string());
            (told && [fault.code, refused.code] == [FaultCode::NotLeader; 2]).then_some(())
        });
    }
    assert!(!group.objects.is_empty());
}

#[test]
fn the_lead_goes_around_and_whoever_leads_again_knows_what_the_others_did() {
    let mut group = Group::start();
    let (mut led, mut given) = ([0; 3], 0);
    for round in 0..9 {
        let (nth, mut peer) = group.checked();
        led[nth] += 1;
        // New keys, new versions of old ones, and removals, so that space changes hands.
        for n in 0..30 {
            let size = 5000 + 977 * ((round * 7 + n) % 50);
            group.put(&mut peer, &format!("k{}", (round * 11 + n) % 60), size);
        }
        let gone: Vec<String> = group.objects.keys().skip(3).take(5).cloned().collect();
        gone.iter().for_each(|key| group.remove(&mut peer, key));
        let (nth, mut peer) = group.checked();
        let handed = group.masters[nth].as_ref().unwrap().hand_over();
        let refused = peer.ask(&object::Exists { keys: vec!["k0".into()] });
        let shown = format!("{handed:?} {refused:?}");
        if handed.is_err_and(|fault| fault.code == FaultCode::Timeout) {
            // The other was too slow to take it, as on a busy disk: it may be led on here.
            continue;
        }
        given += 1;
        assert!(
            refused.is_none_or(|r| r.is_err_and(|fault| fault.code == FaultCode::NotLeader)),
            "who gave the lead away answers nobody: {shown}"
        );
    }
    assert!(given > 0, "nobody took the lead, nine times");
    assert!(!group.objects.is_empty() && !group.removed.is_empty());
    assert!(led.iter().any(|times| *times > 1), "{led:?}: nine reigns of three masters");
}
