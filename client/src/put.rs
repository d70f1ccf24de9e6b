//! Ask for room, move the bytes, say it is done; or give the room back.

use crate::batch::{self, Limits, PLACES_PER_QUESTION};
use crate::get::{Failures, RETURNING_PAUSE, RUN_BYTES};
use crate::store::{Core, Put};
use perilune_protocol::object::VALUE_BYTES_MAX;
use perilune_protocol::rpc::object::{PutEnd, PutGrant, PutRevoke, PutStart};
use perilune_protocol::{Fault, FaultCode, ObjectKey, Outcome, PutConfig, WriterId, checksum};
use perilune_transfer_engine::Job;
use std::collections::HashSet;
use std::ops::Range;
use std::time::{Duration, Instant};

/// A put is begun anew when its grant was lost (the master restarted) or its segment was (a node died).
const ATTEMPTS: u32 = 3;
/// Giving room back may take so long even when the deadline of the put has passed.
const REVOKE: Duration = Duration::from_secs(1);

/// One value being put.
pub(crate) struct Write<'a> {
    key: &'a ObjectKey,
    value: &'a [u8],
    /// What the last attempt met; worth another one.
    last: Option<Fault>,
    /// Attempts that got room and lost it.
    failed: u32,
    outcome: Option<Outcome<Put>>,
}

impl<'a> Write<'a> {
    pub(crate) fn new(key: &'a ObjectKey, value: &'a [u8]) -> Self {
        let outcome = check(key, value).err().map(Err);
        Self { key, value, last: None, failed: 0, outcome }
    }

    fn is_pending(&self) -> bool {
        self.outcome.is_none() && self.failed < ATTEMPTS
    }

    fn fail_attempt(&mut self, fault: Fault) {
        self.last = Some(fault);
        self.failed += 1;
    }

    pub(crate) fn finish(self) -> Outcome<Put> {
        let last = self.last;
        self.outcome
            .unwrap_or_else(|| Err(last.unwrap_or_else(|| FaultCode::Timeout.with(format!("no time was left to put {}", self.key)))))
    }
}

fn check(key: &ObjectKey, value: &[u8]) -> Outcome<()> {
    key.check()?;
    match value.len() as u64 {
        0 => Err(FaultCode::InvalidParams.with(format!("the value of {key} is empty: a value has at least one byte"))),
        n if n > VALUE_BYTES_MAX => {
            Err(FaultCode::InvalidParams.with(format!("the value of {key} has {n} bytes, the limit is {VALUE_BYTES_MAX}")))
        }
        _ => Ok(()),
    }
}

/// Puts every value; each ends with an outcome.
pub(crate) fn write_all(core: &Core, writes: &mut [Write<'_>], config: &PutConfig) {
    if config.replicas == 0 {
        let fault = FaultCode::InvalidParams.with("0 replicas: ask for at least one copy");
        return writes.iter_mut().for_each(|w| w.outcome = Some(Err(fault.clone())));
    }
    let limits = Limits { items: PLACES_PER_QUESTION, weight: RUN_BYTES };
    let pieces = batch::pieces(writes.iter().map(|w| w.value.len() as u64 + batch::weight(w.key)), limits);
    let pieces: Vec<_> = pieces.into_iter().flat_map(|piece| one_of_each(writes, piece)).collect();
    for piece in pieces {
        let deadline = core.deadline();
        let writer = WriterId::random();
        loop {
            let mut pending: Vec<&mut Write<'_>> = writes[piece.clone()].iter_mut().filter(|w| w.is_pending()).collect();
            if pending.is_empty() || Instant::now() >= deadline {
                break;
            }
            attempt(core, &mut pending, config, writer, deadline);
            if pending.iter().any(|w| w.is_pending()) {
                std::thread::sleep(RETURNING_PAUSE.min(deadline.saturating_duration_since(Instant::now())));
            }
        }
    }
}

/// Cuts a piece where a key comes again: another value of the same key is another put, after the first. Asked for together, by one writer,
/// both would be given the same room.
fn one_of_each(writes: &[Write<'_>], piece: Range<usize>) -> Vec<Range<usize>> {
    let (mut pieces, mut start, mut seen) = (Vec::new(), piece.start, HashSet::new());
    for at in piece.clone().filter(|_| piece.len() > 1) {
        if !seen.insert(writes[at].key) {
            pieces.push(start..at);
            start = at;
            seen = HashSet::from([writes[at].key]);
        }
    }
    pieces.push(start..piece.end);
    pieces
}

/// Not [`FaultCode::ObjectExists`], which callers rightly take for "nothing to do".
fn busy(fault: &Fault) -> Fault {
    FaultCode::WrongState.with(format!("{}, and has not been stored within the deadline; it was not replaced: try again", fault.message))
}

fn fail(writes: &mut [&mut Write<'_>], fault: &Fault) {
    for write in writes.iter_mut().filter(|w| w.outcome.is_none()) {
        write.outcome = Some(Err(fault.clone()));
    }
}

fn attempt(core: &Core, writes: &mut [&mut Write<'_>], config: &PutConfig, writer: WriterId, deadline: Instant) {
    let puts = writes.iter().map(|w| (w.key.clone(), w.value.len() as u64)).collect();
    let question = PutStart { puts, config: config.clone(), writer };
    // The master counts from when it gives room, or gives it again, which is later.
    let begun = Instant::now();
    let answers = match core.ask(&question, writes.len(), deadline) {
        Ok(answers) => answers,
        Err(fault) => return fail(writes, &fault),
    };
    let mut grants: Vec<(usize, PutGrant)> = Vec::with_capacity(writes.len());
    for (at, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(grant) => grants.push((at, grant)),
            // An upsert is stored or it failed: it waits for the other put's end, then takes its place.
            Err(fault) if fault.code == FaultCode::ObjectExists && config.upsert => writes[at].last = Some(busy(&fault)),
            Err(fault) if fault.code == FaultCode::ObjectExists => writes[at].outcome = Some(Ok(Put::Existed)),
            Err(fault) => writes[at].outcome = Some(Err(fault)),
        }
    }
    if grants.is_empty() {
        return;
    }
    let put_deadline = core.master.welcome().and_then(|w| begun.checked_add(Duration::from_millis(w.put_deadline_ms)));
    let moved = move_bytes(core, writes, &grants, deadline.min(put_deadline.unwrap_or(deadline)));
    let (mut ends, mut ended, mut revokes, mut revoked, mut failures) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Failures::default());
    for ((at, grant), moved) in grants.iter().zip(moved) {
        let write = &mut writes[*at];
        match moved {
            Ok(()) => {
                ends.push((write.key.clone(), grant.version, checksum(&[write.value])));
                ended.push(*at);
            }
            Err(fault) => {
                failures.note(&fault);
                write.fail_attempt(fault);
                revokes.push((write.key.clone(), grant.version));
                revoked.push(*at);
            }
        }
    }
    failures.tell();
    if !revokes.is_empty() {
        // If this does not arrive, the master discards the puts by itself when their deadline passes.
        let told = core.master.call(&PutRevoke { puts: revokes }, deadline.max(Instant::now() + REVOKE)).unwrap_or_default();
        for (at, answer) in revoked.into_iter().zip(told) {
            // Somebody ended it on purpose.
            if let Err(fault) = answer
                && fault.code == FaultCode::WrongState
            {
                writes[at].outcome = Some(Err(fault));
            }
        }
    }
    if !ends.is_empty() {
        publish(core, writes, ends, &ended, deadline);
    }
}

fn publish(
    core: &Core,
    writes: &mut [&mut Write<'_>],
    ends: Vec<(ObjectKey, perilune_protocol::Tso, u64)>,
    ended: &[usize],
    deadline: Instant,
) {
    let answers = core.ask(&PutEnd { puts: ends }, ended.len(), deadline);
    for (nth, at) in ended.iter().enumerate() {
        let write = &mut writes[*at];
        core.places.forget(write.key);
        let answer = match &answers {
            Ok(answers) => answers[nth].clone(),
            Err(fault) => Err(fault.clone()),
        };
        match answer {
            Ok(()) => write.outcome = Some(Ok(Put::Stored)),
            Err(fault) if fault.code == FaultCode::InvalidWrite => write.fail_attempt(fault),
            Err(fault) => write.outcome = Some(Err(fault)),
        }
    }
}

/// Writes every copy of every granted value: one run for all, one outcome per grant. Not a byte after `deadline`: the room may be
/// somebody else's then.
fn move_bytes(core: &Core, writes: &[&mut Write<'_>], grants: &[(usize, PutGrant)], deadline: Instant) -> Vec<Outcome<()>> {
    let wanted = grants.iter().flat_map(|(_, grant)| grant.replicas.iter().map(|r| r.segment));
    if let Err(fault) = core.segments.learn(wanted, &core.master, &core.engine, deadline) {
        return grants.iter().map(|_| Err(fault.clone())).collect();
    }
    let mut outcomes: Vec<Outcome<()>> = grants.iter().map(|_| Ok(())).collect();
    let (mut jobs, mut owners) = (Vec::new(), Vec::new());
    for (nth, (at, grant)) in grants.iter().enumerate() {
        for replica in &grant.replicas {
            match core.segments.get(replica.segment) {
                Ok(segment) => {
                    jobs.push(Job::write(&segment, replica.extents.clone(), writes[*at].value));
                    owners.push((nth, replica.segment));
                }
                Err(fault) => outcomes[nth] = Err(fault),
            }
        }
    }
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        let fault =
            FaultCode::Timeout.with("the time in which the master keeps the room of this put was over before its bytes could be moved");
        return grants.iter().map(|_| Err(fault.clone())).collect();
    }
    let moved = core.engine.run(&mut jobs, left);
    for ((nth, segment), moved) in owners.into_iter().zip(moved) {
        if let Err(error) = moved {
            core.segments.forget(segment);
            outcomes[nth] = Err(FaultCode::TransferFailed.with(error.to_string()));
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::fake::{self, Asked, Peer};
    use crate::{Store, StoreConfig};
    use perilune_protocol::rpc::Call;
    use perilune_protocol::rpc::segment::Describe;
    use perilune_protocol::rpc::session::Welcome;
    use perilune_protocol::{Capability, Extent, NodeId, Protocol, ReplicaPlace, SegmentDesc, SegmentId, Tso};
    use perilune_transfer_engine::{Engine, Memory};
    use std::sync::{Arc, Mutex};

    fn store(address: String) -> Store {
        Store::new(StoreConfig { masters: vec![address], ..StoreConfig::default() }).unwrap()
    }

    fn put(store: &Store) -> Outcome<Put> {
        store.put(&"k".into(), b"value", &PutConfig::default())
    }

    /// Memory of a peer, and how to reach it.
    fn lend() -> (Engine, Arc<Memory>, SegmentDesc) {
        let engine = Engine::builder().listen_tcp(([127, 0, 0, 1], 0).into()).build().unwrap();
        let memory = Memory::anonymous(4096).unwrap();
        let desc = SegmentDesc {
            id: SegmentId::random(),
            name: "peer".into(),
            node: NodeId::random(),
            base: memory.base(),
            size: memory.len(),
            protocol: Protocol::Tcp,
            location: String::new(),
            endpoints: engine.endpoints(),
            capability: Capability::random(),
        };
        engine.export(desc.id, Arc::clone(&memory), desc.capability).unwrap();
        (engine, memory, desc)
    }

    fn grant(peer: &mut Peer, asked: &Asked, version: u64, segment: SegmentId) {
        let replicas = vec![ReplicaPlace { segment, extents: vec![Extent { offset: 64, len: 5 }] }];
        peer.answer(asked, Ok(vec![Ok::<_, Fault>(PutGrant { version: Tso(version), replicas })]));
    }

    #[test]
    fn a_put_asked_for_again_is_asked_for_by_the_same_writer() {
        let (_engine, _memory, desc) = lend();
        let writers = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&writers);
        let store = store(fake::master(move |mut peer| {
            peer.hello().unwrap();
            while let Some(asked) = peer.ask() {
                match asked.op {
                    PutStart::OP => {
                        seen.lock().unwrap().push(asked.read::<PutStart>().writer);
                        if peer.nth == 0 {
                            return; // granted, perhaps; nobody knows
                        }
                        grant(&mut peer, &asked, 1, desc.id);
                    }
                    Describe::OP => peer.answer(&asked, Ok(vec![Ok::<_, Fault>(desc.clone())])),
                    _ => peer.answer(&asked, Ok(vec![Ok::<(), Fault>(())])),
                }
            }
        }));
        assert_eq!(put(&store), Ok(Put::Stored));
        store.put(&"another".into(), b"value", &PutConfig::default()).unwrap();
        let writers = writers.lock().unwrap();
        assert!(writers.len() == 3 && writers[0] == writers[1] && writers[1] != writers[2], "{writers:?}");
    }

    #[test]
    fn an_upsert_waits_for_another_put_and_never_counts_as_done_meanwhile() {
        let (_engine, memory, desc) = lend();
        let upsert = PutConfig { upsert: true, ..PutConfig::default() };
        let address = fake::master(move |mut peer| {
            peer.hello().unwrap();
            let mut refused = 0;
            while let Some(asked) = peer.ask() {
                match asked.op {
                    // More often than a put is begun anew.
                    PutStart::OP if asked.read::<PutStart>().puts[0].0 == "busy".into() || refused < ATTEMPTS + 2 => {
                        refused += 1;
                        peer.answer(&asked, Ok(vec![Err::<PutGrant, _>(FaultCode::ObjectExists.with("k is being put"))]));
                    }
                    PutStart::OP => grant(&mut peer, &asked, 1, desc.id),
                    Describe::OP => peer.answer(&asked, Ok(vec![Ok::<_, Fault>(desc.clone())])),
                    _ => peer.answer(&asked, Ok(vec![Ok::<(), Fault>(())])),
                }
            }
        });
        let patient = store(address.clone());
        assert_eq!(patient.put(&"k".into(), b"value", &upsert), Ok(Put::Stored));
        let mut bytes = [0; 5];
        assert!(memory.read_at(64, &mut bytes) && bytes == *b"value");
        let config = StoreConfig { masters: vec![address], deadline: Duration::from_millis(150), ..StoreConfig::default() };
        let fault = Store::new(config).unwrap().put(&"busy".into(), b"value", &upsert).unwrap_err();
        assert!(fault.code == FaultCode::WrongState && fault.message.contains("being put"), "{fault}");
    }

    #[test]
    fn a_put_whose_grant_was_lost_begins_anew() {
        let (_engine, memory, desc) = lend();
        let store = store(fake::master(move |mut peer| {
            peer.hello().unwrap();
            let (mut versions, mut ends) = (0, 0);
            while let Some(asked) = peer.ask() {
                match asked.op {
                    PutStart::OP => {
                        versions += 1;
                        grant(&mut peer, &asked, versions, desc.id);
                    }
                    Describe::OP => peer.answer(&asked, Ok(vec![Ok::<_, Fault>(desc.clone())])),
                    _ => {
                        let end = asked.read::<PutEnd>();
                        assert_eq!(end.puts, [("k".into(), Tso(versions), checksum(&[b"value"]))]);
                        ends += 1;
                        let answer = if ends == 1 { Err(FaultCode::InvalidWrite.with("restarted")) } else { Ok(()) };
                        peer.answer(&asked, Ok(vec![answer]));
                    }
                }
            }
        }));
        assert_eq!(put(&store), Ok(Put::Stored));
        let mut bytes = [0; 5];
        assert!(memory.read_at(64, &mut bytes) && bytes == *b"value");
    }

    #[test]
    fn room_that_came_too_late_is_given_back_unwritten() {
        const PUT_DEADLINE: Duration = Duration::from_millis(300);
        let (_engine, memory, desc) = lend();
        let (untouched, seen) = std::sync::mpsc::channel();
        let untouched = Mutex::new(untouched);
        let there = Arc::clone(&memory);
        let store = store(fake::master(move |mut peer| {
            peer.hello_with(Welcome { put_deadline_ms: PUT_DEADLINE.as_millis() as u64, ..fake::welcome() }).unwrap();
            let mut versions = 0;
            while let Some(asked) = peer.ask() {
                match asked.op {
                    PutStart::OP => {
                        versions += 1;
                        if versions == 1 {
                            std::thread::sleep(PUT_DEADLINE);
                        }
                        grant(&mut peer, &asked, versions, desc.id);
                    }
                    Describe::OP => peer.answer(&asked, Ok(vec![Ok::<_, Fault>(desc.clone())])),
                    PutRevoke::OP => {
                        let mut bytes = [1; 5];
                        let unwritten = there.read_at(64, &mut bytes) && bytes == [0; 5];
                        untouched.lock().unwrap().send((asked.read::<PutRevoke>().puts, unwritten)).unwrap();
                        peer.answer(&asked, Ok(vec![Ok::<(), Fault>(())]));
                    }
                    _ => peer.answer(&asked, Ok(vec![Ok::<(), Fault>(())])),
                }
            }
        }));
        assert_eq!(put(&store), Ok(Put::Stored), "the second time, room comes soon enough");
        assert_eq!(seen.try_recv(), Ok((vec![("k".into(), Tso(1))], true)));
    }

    #[test]
    fn a_put_that_cannot_be_written_gives_its_room_back() {
        let (engine, _memory, desc) = lend();
        engine.withdraw(desc.id);
        let revoked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&revoked);
        let store = store(fake::master(move |mut peer| {
            peer.hello().unwrap();
            let mut versions = 0;
            while let Some(asked) = peer.ask() {
                match asked.op {
                    PutStart::OP => {
                        versions += 1;
                        grant(&mut peer, &asked, versions, desc.id);
                    }
                    Describe::OP => peer.answer(&asked, Ok(vec![Ok::<_, Fault>(desc.clone())])),
                    _ => {
                        seen.lock().unwrap().extend(asked.read::<PutRevoke>().puts);
                        peer.answer(&asked, Ok(vec![Ok::<(), Fault>(())]));
                    }
                }
            }
        }));
        let fault = put(&store).unwrap_err();
        assert_eq!(fault.code, FaultCode::TransferFailed, "{fault}");
        assert!(fault.message.contains("write of bytes 64..69"), "{fault}");
        let expected: Vec<(ObjectKey, Tso)> = (1..=3).map(|version| ("k".into(), Tso(version))).collect();
        assert_eq!(*revoked.lock().unwrap(), expected);
    }

    #[test]
    fn a_put_that_somebody_aborted_is_not_begun_anew() {
        for is_moved in [true, false] {
            let (engine, _memory, desc) = lend();
            if !is_moved {
                engine.withdraw(desc.id);
            }
            let store = store(fake::master(move |mut peer| {
                peer.hello().unwrap();
                let mut begun = false;
                while let Some(asked) = peer.ask() {
                    match asked.op {
                        PutStart::OP => {
                            assert!(!std::mem::replace(&mut begun, true), "it begins anew");
                            grant(&mut peer, &asked, 1, desc.id);
                        }
                        Describe::OP => peer.answer(&asked, Ok(vec![Ok::<_, Fault>(desc.clone())])),
                        _ => peer.answer(&asked, Ok(vec![Err::<(), _>(FaultCode::WrongState.with("k: somebody aborted it"))])),
                    }
                }
            }));
            assert_eq!(put(&store).unwrap_err().message, "k: somebody aborted it");
        }
    }
}
