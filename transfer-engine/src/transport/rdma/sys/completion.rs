//! Completion queues, and the channels that tell of them.

use super::live::{COUNTERS, Kind, add};
use super::types::{self, Completed, Limits, Status};
use super::{Context, Raw, check, explain};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rdma_mummy_sys as ib;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::null_mut;
use std::sync::Arc;

/// Where completion queues report that something came.
pub(crate) struct Channel {
    raw: Raw<ib::ibv_comp_channel>,
    _context: Arc<Context>,
}

impl Channel {
    pub(crate) fn new(context: &Arc<Context>) -> io::Result<Arc<Self>> {
        // SAFETY: the context is open.
        let raw = Raw::made(Kind::Channel, unsafe { ib::ibv_create_comp_channel(context.raw.get()) })
            .map_err(|e| explain(&e, format!("{}: no completion channel: {e}", context.name)))?;
        let channel = Self { raw, _context: Arc::clone(context) };
        fcntl(&channel, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Arc::new(channel))
    }

    /// Takes and acknowledges all events that wait, and says how many.
    pub(crate) fn take(&self) -> u32 {
        let mut taken = 0;
        loop {
            let (mut queue, mut context) = (null_mut(), null_mut());
            // SAFETY: the channel exists and does not block, the answers are ours.
            if unsafe { ib::ibv_get_cq_event(self.raw.get(), &mut queue, &mut context) } != 0 {
                return taken;
            }
            // SAFETY: the queue cannot be destroyed before the event that names it is acknowledged, once.
            unsafe { ib::ibv_ack_cq_events(queue, 1) };
            add(&COUNTERS.events, 1);
            taken += 1;
        }
    }
}

impl AsFd for Channel {
    /// Readable when an armed completion queue has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the channel, which is borrowed.
        unsafe { BorrowedFd::borrow_raw((*self.raw.get()).fd) }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: no completion queue uses it: those own it.
        Kind::Channel.destroyed(unsafe { ib::ibv_destroy_comp_channel(self.raw.get()) });
    }
}

/// Where work requests come back.
pub(crate) struct CompletionQueue {
    pub(super) raw: Raw<ib::ibv_cq>,
    depth: u32,
    _channel: Option<Arc<Channel>>,
    context: Arc<Context>,
}

impl CompletionQueue {
    /// As many completions are taken by one call.
    pub(crate) const BATCH: usize = 32;

    /// Room for at least `depth` completions. One that finds no room is lost, and its queue pair with it.
    pub(crate) fn new(context: &Arc<Context>, depth: u32, channel: Option<&Arc<Channel>>) -> io::Result<Arc<Self>> {
        let events = channel.map_or(null_mut(), |channel| channel.raw.get());
        let entries = i32::try_from(depth).unwrap_or(i32::MAX);
        // SAFETY: context and channel exist, and are owned by the queue from here on.
        let made = unsafe { ib::ibv_create_cq(context.raw.get(), entries, null_mut(), events, 0) };
        let raw = Raw::made(Kind::CompletionQueue, made).map_err(|e| {
            let Limits { max_cq, max_cqe, .. } = context.limits();
            let most = format!("it has at most {max_cq} in all, of at most {max_cqe} entries");
            explain(&e, format!("{} gives no completion queue of {depth} entries ({most}): {e}", context.name))
        })?;
        // SAFETY: it was just made.
        let depth = u32::try_from(unsafe { (*raw.get()).cqe }).unwrap_or(depth);
        Ok(Arc::new(Self { raw, depth, _channel: channel.cloned(), context: Arc::clone(context) }))
    }

    /// How many completions it has room for.
    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    /// Takes at most [`Self::BATCH`] completions, and says how many. Each is taken once, also with several callers.
    pub(crate) fn poll(&self, into: &mut Vec<Completed>) -> usize {
        let mut taken = [const { MaybeUninit::<ib::ibv_wc>::uninit() }; Self::BATCH];
        // SAFETY: the queue exists, and there is room for as many.
        let count = unsafe { ib::ibv_poll_cq(self.raw.get(), Self::BATCH as i32, taken.as_mut_ptr().cast()) };
        let Ok(count) = usize::try_from(count) else {
            tracing::error!("RDMA: a completion queue of {} is broken: {}", self.context.name, io::Error::from_raw_os_error(-count));
            return 0;
        };
        if count == 0 {
            return 0;
        }
        for taken in &taken[..count] {
            // Field by field: what a device leaves out stays uninitialized, and zeroing it all would cost each poll that finds nothing.
            let wc = taken.as_ptr();
            // SAFETY: these three are filled in every completion (ibv_poll_cq(3)).
            let (id, status, queue_pair) = unsafe { ((*wc).wr_id, (*wc).status, (*wc).qp_num) };
            let status = types::status(status);
            // Some devices put the flag on the sender's completion too.
            // SAFETY: the opcode is filled in every success.
            let with = status == Status::Success && unsafe { (*wc).opcode } == ib::ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM;
            // SAFETY: and the number in every receive that came with one.
            let number = || u32::from_be(unsafe { (*wc).imm_data_invalidated_rkey_union.imm_data });
            into.push(Completed { id, status, immediate: with.then(number), queue_pair });
        }
        add(&COUNTERS.completions, count);
        count
    }

    /// Has the next completion reported to the channel. One that came before is not: poll once more after this.
    pub(crate) fn arm(&self) -> io::Result<()> {
        add(&COUNTERS.arms, 1);
        // SAFETY: the queue exists.
        check(unsafe { ib::ibv_req_notify_cq(self.raw.get(), 0) })
    }

    /// Has completions reported when there are `count`, or `period_us` microseconds after the first. False where the device cannot.
    pub(crate) fn moderate(&self, count: u16, period_us: u16) -> bool {
        let mut wanted = ib::ibv_modify_cq_attr {
            attr_mask: ib::ibv_cq_attr_mask::IBV_CQ_ATTR_MODERATE.0,
            moderate: ib::ibv_moderate_cq { cq_count: count, cq_period: period_us },
        };
        // SAFETY: the queue exists.
        unsafe { ib::ibv_modify_cq(self.raw.get(), &mut wanted) == 0 }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: no queue pair uses it: those own it. Waits until its events are acknowledged.
        Kind::CompletionQueue.destroyed(unsafe { ib::ibv_destroy_cq(self.raw.get()) });
    }
}
