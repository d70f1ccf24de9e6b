//! Three masters in one process, over real connections: one serves, the others send to it, and nothing acknowledged is forgotten.

use super::*;
use perilune_master::log::Member;
use perilune_protocol::{Extent, FaultCode, ObjectKey, Tso, WriterId};
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;
use uuid::Uuid;

/// An object that was acknowledged: its version, and where it lies.
type Known = (Tso, Vec<(SegmentId, Vec<Extent>)>);

struct Group {
    ip: Ipv4Addr,
    cluster: Uuid,
    dirs: Vec<tempfile::TempDir>,
    masters: Vec<Option<Master>>,
    node: SegmentDesc,
    objects: BTreeMap<String, Known>,
    removed: Vec<String>,
}

impl Group {
    fn start() -> Self {
        // An address of its own for each group, so that ports can be told before anyone listens on them.
        static GROUPS: AtomicU8 = AtomicU8::new(1);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, high.max(1), low, GROUPS.fetch_add(1, Ordering::Relaxed));
        let node = memory();
        let dirs = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let (objects, removed) = (BTreeMap::new(), Vec::new());
        let mut group = Self { ip, cluster: Uuid::new_v4(), dirs, masters: vec![None, None, None], node, objects, removed };
        (0..3).for_each(|nth| group.up(nth));
        group
    }

    fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }

    fn up(&mut self, nth: usize) {
        let peer = |n: u16| Member {
            id: u64::from(n) + 1,
            address: self.at(20_000 + n).to_string(),
            service: self.at(10_000 + n).to_string(),
            ..Member::default()
        };
        let port = u16::try_from(nth).unwrap();
        let config = MasterConfig {
            data_dir: self.dirs[nth].path().into(),
            rpc: self.at(10_000 + port),
            http: vec![self.at(30_000 + port)],
            member: nth as u64 + 1,
            peers: (0..3).map(peer).collect(),
            peer_listen: Some(self.at(20_000 + port)),
            cluster: Some(self.cluster),
            ..MasterConfig::default()
        };
        self.masters[nth] = Some(Master::start(config).unwrap_or_else(|e| panic!("master {}: {e}", nth + 1)));
    }

    /// The master that serves, once one does, with a connection on which the node has registered.
    fn leader(&self) -> (usize, Peer) {
        let hello = session::Hello { agent: "test".into(), tenant: String::new() };
        let register = session::Register { node: self.node.node, name: "n".into(), rest: String::new(), segments: vec![self.node.clone()] };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            for (nth, _) in self.masters.iter().enumerate().filter(|(_, m)| m.is_some()) {
                let Ok(mut peer) = Peer::reach(self.at(10_000 + nth as u16)) else { continue };
                let Some(Ok(_)) = peer.ask(&hello) else { continue };
                let Some(Ok(registered)) = peer.ask(&register) else { continue };
                assert!(self.objects.is_empty() || registered.unknown.is_empty(), "a master that forgot a segment has it dropped");
                let Some(Ok(())) = peer.ask(&segment::Mount { segments: vec![self.node.clone()] }) else { continue };
                return (nth, peer);
            }
            assert!(Instant::now() < deadline, "nobody leads");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Notes what was acknowledged. False when the master stopped answering.
    fn put(&mut self, peer: &mut Peer, key: &str, size: u64) -> bool {
        let config = PutConfig { upsert: true, ..PutConfig::default() };
        let Some(Ok(mut grants)) = peer.ask(&object::PutStart { puts: vec![(key.into(), size)], config, writer: WriterId::random() })
        else {
            return false;
        };
        let Ok(grant) = grants.remove(0) else { return false };
        let Some(Ok(mut ended)) = peer.ask(&object::PutEnd { puts: vec![(key.into(), grant.version, 7)] }) else { return false };
        if ended.remove(0).is_ok() {
            let places = grant.replicas.iter().map(|r| (r.segment, r.extents.clone())).collect();
            self.objects.insert(key.into(), (grant.version, places));
        }
        true
    }

    /// Everything acknowledged is there, where it was put; nothing overlaps; what was removed is gone.
    fn check(&self, peer: &mut Peer) {
        let keys: Vec<ObjectKey> = self.objects.keys().map(|k| k.as_str().into()).collect();
        let places = peer.call(&object::Locate { keys }).unwrap();
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
        assert!(peer.call(&object::Exists { keys }).unwrap().iter().all(|there| !there), "what was removed is gone");
    }
}

#[test]
fn another_master_serves_all_that_was_acknowledged_when_the_leader_stops() {
    let mut group = Group::start();
    for round in 0..3 {
        let (nth, mut peer) = group.leader();
        group.check(&mut peer);
        for n in 0..50 {
            let acknowledged = group.put(&mut peer, &format!("r{round}/k{n}"), 5000);
            assert!(acknowledged || round > 0, "nothing happened yet that could cost the first leader its lead");
        }
        group.masters[nth].take().unwrap().stop();
        assert!(peer.ask(&object::Exists { keys: vec!["r0/k0".into()] }).is_none(), "a master that stopped answers nobody");

        let (next, mut peer) = group.leader();
        assert_ne!(next, nth);
        group.check(&mut peer);
        group.up(nth);
        // Whoever does not lead says who does, and answers nothing else.
        let mut old = Peer::reach(group.at(10_000 + nth as u16)).unwrap();
        let hello = session::Hello { agent: "test".into(), tenant: String::new() };
        let serves = group.at(10_000 + next as u16).to_string();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let fault = old.call(&hello).unwrap_err();
            assert_eq!(fault.code, FaultCode::NotLeader);
            if fault.message.contains(&serves) {
                break;
            }
            assert!(Instant::now() < deadline, "{fault}");
        }
        let fault = old.call(&object::Exists { keys: vec!["r0/k0".into()] }).unwrap_err();
        assert_eq!(fault.code, FaultCode::NotLeader);
    }
}

#[test]
fn the_lead_goes_around_and_whoever_leads_again_knows_what_the_others_did() {
    let mut group = Group::start();
    let mut led = [0; 3];
    for round in 0..9 {
        let (nth, mut peer) = group.leader();
        led[nth] += 1;
        group.check(&mut peer);
        // New keys, new versions of old ones, and removals, so that space changes hands.
        for n in 0..30 {
            let size = 5000 + 977 * ((round * 7 + n) % 50);
            group.put(&mut peer, &format!("k{}", (round * 11 + n) % 60), size);
        }
        let gone: Vec<String> = group.objects.keys().skip(3).take(5).cloned().collect();
        for key in gone {
            if let Some(Ok(outcomes)) = peer.ask(&object::Remove { keys: vec![key.as_str().into()], force: true }) {
                outcomes[0].as_ref().unwrap();
                group.objects.remove(&key);
                group.removed.push(key);
            }
        }
        group.removed.retain(|key| !group.objects.contains_key(key));
        group.check(&mut peer);
        let handed = group.masters[nth].as_ref().unwrap().hand_over();
        let refused = peer.ask(&object::Exists { keys: vec!["k0".into()] });
        let shown = format!("{handed:?} {refused:?}");
        assert!(
            refused.is_none_or(|r| r.is_err_and(|fault| fault.code == FaultCode::NotLeader)),
            "who gave the lead away answers nobody: {shown}"
        );
    }
    assert!(led.iter().any(|times| *times > 1), "{led:?}: nine reigns of three masters");
}
