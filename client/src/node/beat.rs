//! What a store node and its master keep telling each other: I am here, with this memory; and what to free.

use super::lending::Lending;
use crate::master::{Link, Master};
use perilune_protocol::rpc::segment::Mount;
use perilune_protocol::rpc::session::{Heartbeat, Register};
use perilune_protocol::{FaultCode, Outcome, SegmentDesc, SegmentId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// One attempt at being heard takes no longer, so that stopping is quick while the master is away.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(2);
/// The pause between two attempts while the master is away.
const PAUSE: Duration = Duration::from_millis(500);

/// Who says it.
pub(crate) struct Announcer {
    pub(crate) lending: Arc<Lending>,
    /// A name for people.
    pub(crate) name: String,
    /// The base URL of the REST listener, or empty.
    pub(crate) rest: String,
}

impl Announcer {
    /// Announces the node and its memory on a connection, and mounts what the master does not know.
    pub(crate) fn announce(&self, link: &Link, deadline: Instant) -> Outcome<()> {
        let segments = self.lending.descs();
        let question = Register { node: self.lending.node(), name: self.name.clone(), rest: self.rest.clone(), segments };
        let registered = link.call(&question, deadline)??;
        if registered.objects_returned > 0 {
            info!(objects = registered.objects_returned, "objects became readable again");
        }
        let is_leaving = |id: &SegmentId| self.lending.kept(*id).is_some_and(|kept| kept.leaving);
        let (left, anew): (Vec<SegmentId>, Vec<SegmentId>) = registered.unknown.into_iter().partition(is_leaving);
        self.lending.free(&left);
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
pub(crate) fn run(master: &Master, lending: &Lending, heard: &AtomicBool, stop: &Receiver<()>) {
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

fn beat(master: &Master, lending: &Lending) -> Outcome<()> {
    let deadline = Instant::now() + ATTEMPT;
    let reply = master.call(&Heartbeat { node: lending.node() }, deadline)?;
    if reply.register {
        master.greet_again(deadline)?;
    }
    lending.free(&reply.release);
    Ok(())
}
