//! What a store node and its master keep telling each other: I am here, with this memory; and what to free.

use super::lending::Lending;
use super::watch::Watch;
use crate::master::{Link, Look, Master};
use perilune_protocol::rpc::segment::{Mount, Unmount};
use perilune_protocol::rpc::session::{Beat, Heartbeat, HeartbeatReply, Register};
use perilune_protocol::{Fault, FaultCode, Outcome, SegmentDesc, SegmentId};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// One attempt at being heard takes no longer, so that stopping is quick while the master is away.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(2);
/// How long objects in memory that somebody took away are still offered: as long as the master lets a segment drain.
const SPOILED_GRACE_MS: u64 = 24 * 3600 * 1000;
/// How often memory that the master did not take is offered again: who was not registered may be by now.
const OFFER_EVERY: Duration = Duration::from_secs(2);
/// The pause between two attempts while the master is away.
const PAUSE: Duration = Duration::from_millis(500);

/// Who says it.
pub(crate) struct Announcer {
    lending: Arc<Lending>,
    /// A name for people.
    name: String,
    /// The base URL of the REST listener, or empty.
    rest: String,
    /// Held from the moment a [`Register`] or [`Mount`] is put together until it is answered: the master unmounts what a Register does
    /// not name, so none may be on its way when a segment is mounted. Taken on a connection, never while one is waited for.
    turn: Mutex<()>,
    /// Why memory was not taken last, so that it is said once.
    refused: Mutex<String>,
}

impl Announcer {
    pub(crate) fn new(lending: Arc<Lending>, name: String, rest: String) -> Self {
        Self { lending, name, rest, turn: Mutex::new(()), refused: Mutex::default() }
    }

    /// Why memory was not taken last; empty where all was.
    pub(crate) fn refused(&self) -> String {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Mounts segments that are lent.
    pub(crate) fn mount(&self, master: &Master, segments: &[SegmentDesc], deadline: Instant) -> Outcome<()> {
        let ask = |link: &Link, until: Instant, _: Look<'_>| {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(gone) = segments.iter().find(|desc| self.lending.kept(desc.id).is_none()) {
                let told = format!("segment {} was unmounted, or lent under another id, while it was being mounted", gone.id);
                return Ok(Err(FaultCode::WrongState.with(told)));
            }
            self.ask_to_mount(link, segments, until)
        };
        master.call_by(false, deadline, ask).0
    }

    /// The caller has its turn.
    fn ask_to_mount(&self, link: &Link, segments: &[SegmentDesc], deadline: Instant) -> Result<Outcome<()>, Fault> {
        let answer = link.call(&Mount { segments: segments.to_vec() }, deadline)?;
        if answer.is_ok() {
            self.lending.set_announced(|id| segments.iter().any(|desc| desc.id == *id));
        }
        Ok(answer)
    }

    /// Announces the node and its memory on a connection, and mounts what the master does not know.
    pub(crate) fn announce(&self, link: &Link, deadline: Instant) -> Outcome<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let segments = self.lending.descs();
        let question = Register { node: self.lending.node(), name: self.name.clone(), rest: self.rest.clone(), segments };
        let registered = link.call(&question, deadline)??;
        if registered.objects_returned > 0 {
            info!(objects = registered.objects_returned, "objects became readable again");
        }
        let known: HashSet<SegmentId> =
            question.segments.iter().map(|desc| desc.id).filter(|id| !registered.unknown.contains(id)).collect();
        self.lending.set_announced(|id| known.contains(id));
        let (mut left, mut forgotten) = (Vec::new(), Vec::new());
        for kept in registered.unknown.iter().filter_map(|id| self.lending.kept(*id)) {
            if kept.leaving {
                left.push(kept.id);
            } else if !kept.unannounced {
                forgotten.push(kept.id);
            }
        }
        self.lending.aside(left, Lending::free);
        // Announced as new segments by a later beat: somebody may still be about to write under the old ids.
        self.lending.aside(forgotten, Lending::renew);
        let is_new = |id| registered.unknown.contains(&id) && self.lending.kept(id).is_some_and(|kept| kept.unannounced && !kept.leaving);
        // What was unmounted meanwhile is not mounted again.
        let segments: Vec<SegmentDesc> = self.lending.descs().into_iter().filter(|desc| is_new(desc.id)).collect();
        if segments.is_empty() {
            return Ok(());
        }
        let why = self.ask_to_mount(link, &segments, deadline)?.err().map_or_else(String::new, |fault| fault.to_string());
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if !why.is_empty() && *refused != why {
            warn!("the master does not take the memory of this node: {why}");
        }
        *refused = why;
        Ok(())
    }
}

/// Beats until told to stop, reconnecting for ever. `heard` tells others whether the last beat was answered; it guards no data, so relaxed.
/// `is_heard` is called after each that was.
pub(crate) fn run(master: &Master, lending: &Arc<Lending>, heard: &AtomicBool, stop: &Receiver<()>, is_heard: impl Fn()) {
    let mut watch = Watch::default();
    let mut offered = Instant::now();
    loop {
        let every = master.welcome().map_or(PAUSE, |welcome| Duration::from_millis(welcome.heartbeat_ms.max(1)));
        let pause = if heard.load(Ordering::Relaxed) { every } else { every.min(PAUSE) };
        if stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        if offered.elapsed() >= OFFER_EVERY {
            offered = Instant::now();
            if lending.all_kept().iter().any(|kept| kept.unannounced && !kept.leaving) {
                lending.set_news(true);
            }
        }
        let before = heard.load(Ordering::Relaxed);
        match beat(master, lending, &mut watch) {
            Ok(()) => {
                heard.store(true, Ordering::Relaxed);
                if !before {
                    info!("the master hears this node");
                }
                is_heard();
            }
            Err(fault) => {
                heard.store(false, Ordering::Relaxed);
                if before {
                    warn!("the master does not hear this node, trying on: {fault}");
                }
            }
        }
    }
}

fn beat(master: &Master, lending: &Arc<Lending>, watch: &mut Watch) -> Outcome<()> {
    let deadline = Instant::now() + ATTEMPT;
    let reply = say_alive(master, lending, deadline)?;
    if lending.set_news(false) || reply.register {
        master.greet_again(deadline).inspect_err(|_| {
            lending.set_news(true);
        })?;
    }
    lending.aside(reply.release, Lending::free);
    let segments = watch.look(&lending.all_kept());
    if !segments.is_empty() {
        let told = master.call(&Unmount { segments: segments.clone(), grace_ms: SPOILED_GRACE_MS }, deadline);
        told.inspect_err(|_| watch.forget(&segments))?;
    }
    Ok(())
}

/// Masters of earlier releases know no [`Beat`], or think that a token does not allow it.
fn say_alive(master: &Master, lending: &Lending, deadline: Instant) -> Outcome<HeartbeatReply> {
    let node = lending.node();
    match master.call(&Beat { node, serves: lending.serves_now() }, deadline) {
        Err(fault) if matches!(fault.code, FaultCode::NotSupported | FaultCode::Forbidden) => master.call(&Heartbeat { node }, deadline),
        reply => reply,
    }
}

#[cfg(test)]
mod tests {
    use crate::master::fake::{self, Peer};
    use crate::{NodeConfig, StoreNode};
    use perilune_protocol::rpc::Call;
    use perilune_protocol::rpc::segment::{Mount, Unmount};
    use perilune_protocol::rpc::session::{Beat, Heartbeat, HeartbeatReply, Register, Registered, Welcome};
    use perilune_protocol::{Fault, FaultCode, SegmentId};
    use std::sync::Mutex;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// Answers what a node asks when nothing happens.
    fn routine(peer: &mut Peer, asked: &fake::Asked, known: &[SegmentId]) {
        match asked.op {
            Beat::OP => peer.answer(asked, Ok(HeartbeatReply { register: false, release: Vec::new() })),
            Register::OP => {
                let segments = asked.read::<Register>().segments;
                let unknown = segments.iter().map(|desc| desc.id).filter(|id| !known.contains(id)).collect();
                peer.answer(asked, Ok(Registered { unknown, objects_returned: 0 }));
            }
            Mount::OP => peer.answer(asked, Ok(())),
            _ => {
                let gone = asked.read::<Unmount>().segments.iter().map(|_| Ok::<(), Fault>(())).collect::<Vec<_>>();
                peer.answer(asked, Ok(gone));
            }
        }
    }

    fn config(dir: &tempfile::TempDir, master: String) -> NodeConfig {
        NodeConfig { masters: vec![master], data_dir: dir.path().into(), rest: None, ..NodeConfig::default() }
    }

    #[test]
    fn an_id_that_the_master_forgot_is_never_used_again() {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let master = fake::master(move |mut peer| {
            peer.hello_with(Welcome { heartbeat_ms: 20, ..fake::welcome() }).unwrap();
            let (mut known, mut forgets) = (Vec::new(), true);
            while let Some(asked) = peer.ask() {
                match asked.op {
                    Beat::OP if forgets && !known.is_empty() => {
                        (known, forgets) = (Vec::new(), false);
                        peer.answer(&asked, Ok(HeartbeatReply { register: true, release: Vec::new() }));
                        continue;
                    }
                    Mount::OP => {
                        known = asked.read::<Mount>().segments.iter().map(|desc| desc.id).collect();
                        tell.lock().unwrap().send(asked.read::<Mount>().segments).unwrap();
                    }
                    _ => {}
                }
                routine(&mut peer, &asked, &known);
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let node = StoreNode::start(NodeConfig { segment_size: 8192, ..config(&dir, master.clone()) }).unwrap();
        let (first, second) = (told.recv().unwrap(), told.recv().unwrap());
        assert_eq!((first.len(), second.len()), (1, 1));
        assert!(first[0].id != second[0].id && first[0].capability != second[0].capability);
        assert_eq!((first[0].base, first[0].size), (second[0].base, second[0].size), "the memory is kept");
        assert_eq!(node.segments(), second);
        node.stop();
        // The new id is what the next run begins with; this master knows nothing again.
        let node = StoreNode::start(config(&dir, master)).unwrap();
        let third = told.recv().unwrap();
        assert!(third[0].id != first[0].id && third[0].id != second[0].id);
        node.retire().unwrap();
    }

    #[test]
    fn nothing_is_mounted_while_a_register_that_does_not_name_it_is_on_its_way() {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let master = fake::master(move |mut peer| {
            peer.hello().unwrap();
            let mut registers = 0;
            while let Some(asked) = peer.ask() {
                if asked.op == Beat::OP && registers == 1 {
                    peer.answer(&asked, Ok(HeartbeatReply { register: true, release: Vec::new() }));
                    continue;
                }
                registers += usize::from(asked.op == Register::OP);
                if asked.op == Register::OP && registers == 2 {
                    let tell = tell.lock().unwrap();
                    tell.send("registering").unwrap();
                    let overtaken = peer.ask_within(Duration::from_millis(200)).is_some();
                    tell.send(if overtaken { "overtaken" } else { "alone" }).unwrap();
                }
                routine(&mut peer, &asked, &[]);
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let node = StoreNode::start(config(&dir, master)).unwrap();
        assert_eq!(told.recv(), Ok("registering"));
        assert_eq!(node.mount(8192, None, "").unwrap().len(), 1);
        assert_eq!(told.recv(), Ok("alone"));
        node.retire().unwrap();
    }

    #[test]
    fn a_master_that_knows_heartbeats_only_is_told_by_those() {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let master = fake::master(move |mut peer| {
            peer.hello_with(Welcome { heartbeat_ms: 20, ..fake::welcome() }).unwrap();
            while let Some(asked) = peer.ask() {
                if asked.op == Beat::OP {
                    peer.answer(&asked, Err::<HeartbeatReply, _>(FaultCode::NotSupported.with("no call number 6")));
                } else if asked.op == Heartbeat::OP {
                    tell.lock().unwrap().send(asked.read::<Heartbeat>().node).unwrap();
                    peer.answer(&asked, Ok(HeartbeatReply { register: false, release: Vec::new() }));
                } else {
                    routine(&mut peer, &asked, &[]);
                }
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let node = StoreNode::start(config(&dir, master)).unwrap();
        assert_eq!((told.recv().unwrap(), told.recv().unwrap()), (node.id(), node.id()), "again and again");
        node.retire().unwrap();
    }
}
