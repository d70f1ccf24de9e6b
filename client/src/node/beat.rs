//! What a store node and its master keep telling each other: I am here, with this memory; and what to free.

use super::lending::Lending;
use crate::master::{Link, Master};
use perilune_protocol::rpc::segment::Mount;
use perilune_protocol::rpc::session::{Heartbeat, Register};
use perilune_protocol::{FaultCode, Outcome, SegmentDesc, SegmentId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// One attempt at being heard takes no longer, so that stopping is quick while the master is away.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(2);
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
}

impl Announcer {
    pub(crate) fn new(lending: Arc<Lending>, name: String, rest: String) -> Self {
        Self { lending, name, rest, turn: Mutex::new(()) }
    }

    /// Mounts segments that are lent.
    pub(crate) fn mount(&self, master: &Master, segments: &[SegmentDesc], deadline: Instant) -> Outcome<()> {
        let question = Mount { segments: segments.to_vec() };
        let ask = |link: &Link| {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            link.call(&question, deadline)
        };
        master.call_by(deadline, ask).0
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
        let is_leaving = |id: &SegmentId| self.lending.kept(*id).is_some_and(|kept| kept.leaving);
        let (left, anew): (Vec<SegmentId>, Vec<SegmentId>) = registered.unknown.into_iter().partition(is_leaving);
        self.lending.aside(left, Lending::free);
        // What was unmounted meanwhile is not mounted again.
        let segments: Vec<SegmentDesc> = self.lending.descs().into_iter().filter(|desc| anew.contains(&desc.id)).collect();
        if segments.is_empty() {
            return Ok(());
        }
        match link.call(&Mount { segments }, deadline)? {
            Ok(()) => Ok(()),
            Err(fault) if fault.code == FaultCode::SegmentExists => Ok(()),
            Err(fault) => {
                warn!("the master does not take the memory of this node: {fault}");
                Ok(())
            }
        }
    }
}

/// Beats until told to stop, reconnecting for ever. `heard` tells others whether the last beat was answered; it guards no data, so relaxed.
pub(crate) fn run(master: &Master, lending: &Arc<Lending>, heard: &AtomicBool, stop: &Receiver<()>) {
    loop {
        let every = master.welcome().map_or(PAUSE, |welcome| Duration::from_millis(welcome.heartbeat_ms.max(1)));
        let pause = if heard.load(Ordering::Relaxed) { every } else { every.min(PAUSE) };
        if stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let before = heard.load(Ordering::Relaxed);
        match beat(master, lending) {
            Ok(()) => {
                heard.store(true, Ordering::Relaxed);
                if !before {
                    info!("the master hears this node");
                }
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

fn beat(master: &Master, lending: &Arc<Lending>) -> Outcome<()> {
    let deadline = Instant::now() + ATTEMPT;
    let reply = master.call(&Heartbeat { node: lending.node() }, deadline)?;
    if reply.register {
        master.greet_again(deadline)?;
    }
    lending.aside(reply.release, Lending::free);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::master::fake::{self, Peer};
    use crate::{NodeConfig, StoreNode};
    use perilune_protocol::rpc::Call;
    use perilune_protocol::rpc::segment::{Mount, Unmount};
    use perilune_protocol::rpc::session::{Heartbeat, HeartbeatReply, Register, Registered};
    use perilune_protocol::{Fault, SegmentId};
    use std::sync::Mutex;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// Answers what a node asks when nothing happens.
    fn routine(peer: &mut Peer, asked: &fake::Asked, known: &[SegmentId]) {
        match asked.op {
            Heartbeat::OP => peer.answer(asked, Ok(HeartbeatReply { register: false, release: Vec::new() })),
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
    fn nothing_is_mounted_while_a_register_that_does_not_name_it_is_on_its_way() {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let master = fake::master(move |mut peer| {
            peer.hello().unwrap();
            let mut registers = 0;
            while let Some(asked) = peer.ask() {
                if asked.op == Heartbeat::OP && registers == 1 {
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
}
