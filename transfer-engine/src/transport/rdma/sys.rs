//! The unsafe calls of verbs on devices, memory and completions, one function for each; those on queue pairs are in `queue/sys.rs`.
//!
//! An object owns by `Arc` what it was made from, so nothing is destroyed before what depends on it. Raw pointers stay in here.
//! The device touches memory only through the keys of memory regions, whose makers promised that it stays valid. So posting is safe code.

mod live;
pub(super) mod types;

pub(crate) use super::queue::Chain;
#[cfg(test)]
pub(crate) use live::Live;
pub(crate) use live::{Counts, counts, live};
pub(crate) use types::{Access, Capacity, Completed, Limits, Local, Path, Port, Refused, Status, Verb, WorkRequest};

use crate::memory::{Memory, Region};
pub(super) use live::{COUNTERS, Kind, add};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rdma_mummy_sys as ib;
use std::ffi::CStr;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// A verbs object that exists as long as the owner of this pointer.
pub(super) struct Raw<T>(NonNull<T>);

// SAFETY: verbs objects belong to no thread.
unsafe impl<T> Send for Raw<T> {}
// SAFETY: libibverbs is thread-safe: any of its functions may be called on the same object by several threads at one time.
unsafe impl<T> Sync for Raw<T> {}

impl<T> Raw<T> {
    /// Counts what was just made; `null` tells that it was not.
    pub(super) fn made(kind: Kind, pointer: *mut T) -> io::Result<Self> {
        let pointer = NonNull::new(pointer).ok_or_else(io::Error::last_os_error)?;
        kind.made();
        Ok(Self(pointer))
    }

    pub(super) fn get(&self) -> *mut T {
        self.0.as_ptr()
    }
}

/// Verbs answer 0, or the number of the error, or -1 and leave it in `errno`.
pub(super) fn check(code: i32) -> io::Result<()> {
    match code {
        0 => Ok(()),
        1.. => Err(io::Error::from_raw_os_error(code)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The error with more words, still of its kind.
pub(super) fn explain(cause: &io::Error, mut words: String) -> io::Error {
    if cause.kind() == io::ErrorKind::WouldBlock {
        words += "; the cgroup of this process may allow it no more verbs objects (rdma.max)";
    }
    io::Error::new(cause.kind(), words)
}

/// The devices that libibverbs knows.
struct List {
    list: *mut *mut ib::ibv_device,
    count: usize,
}

impl List {
    fn new() -> io::Result<Self> {
        let mut count = 0;
        // SAFETY: `count` is ours.
        let list = unsafe { ib::ibv_get_device_list(&mut count) };
        if list.is_null() {
            let cause = io::Error::last_os_error();
            return Err(match cause.raw_os_error() {
                Some(libc::EOPNOTSUPP) => {
                    explain(&cause, "libibverbs.so.1 is not installed: install libibverbs1 and ibverbs-providers".to_owned())
                }
                _ => explain(&cause, format!("libibverbs finds no device: {cause}")),
            });
        }
        Ok(Self { list, count: usize::try_from(count).unwrap_or(0) })
    }

    fn names(&self) -> impl Iterator<Item = (String, *mut ib::ibv_device)> + '_ {
        (0..self.count).map(|index| {
            // SAFETY: the list has `count` entries, and the name of each is a string inside it.
            unsafe {
                let device = *self.list.add(index);
                (CStr::from_ptr(ib::ibv_get_device_name(device)).to_string_lossy().into_owned(), device)
            }
        })
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: our own list; opened devices stay.
        unsafe { ib::ibv_free_device_list(self.list) };
    }
}

/// An opened device.
pub(crate) struct Context {
    pub(super) raw: Raw<ib::ibv_context>,
    pub(super) name: String,
    limits: Limits,
    iwarp: bool,
}

impl Context {
    /// The devices that can be opened. `Unsupported` when libibverbs is not installed.
    pub(crate) fn names() -> io::Result<Vec<String>> {
        Ok(List::new()?.names().map(|(name, _)| name).collect())
    }

    pub(crate) fn open(name: &str) -> io::Result<Arc<Self>> {
        let list = List::new()?;
        let Some((_, device)) = list.names().find(|(known, _)| known == name) else {
            let words = format!("{name}: libibverbs does not know this device: is its provider installed (package ibverbs-providers)?");
            return Err(io::Error::new(io::ErrorKind::NotFound, words));
        };
        // SAFETY: a device of a list that is not freed yet.
        let opened = unsafe { ib::ibv_open_device(device) };
        let raw = Raw::made(Kind::Context, opened).map_err(|e| explain(&e, format!("{name}: cannot be opened: {e}")))?;
        // SAFETY: as above.
        let iwarp = unsafe { (*device).transport_type } == ib::ibv_transport_type::IBV_TRANSPORT_IWARP;
        let mut context = Self { raw, name: name.to_owned(), limits: Limits::default(), iwarp };
        context.limits = context.query_limits()?;
        fcntl(&context, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Arc::new(context))
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether it speaks iWARP, and so connects only by the connection manager.
    pub(crate) fn is_iwarp(&self) -> bool {
        self.iwarp
    }

    fn query_limits(&self) -> io::Result<Limits> {
        // SAFETY: plain numbers, for which zeros are valid.
        let mut extended: ib::ibv_device_attr_ex = unsafe { zeroed() };
        // SAFETY: the context is open; no input is allowed; the answer is ours.
        check(unsafe { ib::ibv_query_device_ex(self.raw.get(), std::ptr::null(), &mut extended) })?;
        let device = &extended.orig_attr;
        let number = |value: i32| u32::try_from(value).unwrap_or(0);
        let byte = |value: i32| u8::try_from(value.clamp(0, 255)).unwrap_or(0);
        let odp = ib::ibv_odp_transport_cap_bits::IBV_ODP_SUPPORT_WRITE.0 | ib::ibv_odp_transport_cap_bits::IBV_ODP_SUPPORT_READ.0;
        let windows = ib::ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW
            | ib::ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2A
            | ib::ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B;
        Ok(Limits {
            max_mr_size: device.max_mr_size,
            max_qp: number(device.max_qp),
            max_qp_wr: number(device.max_qp_wr),
            // Some devices leave the second one empty.
            max_sge: number(if device.max_sge_rd > 0 { device.max_sge.min(device.max_sge_rd) } else { device.max_sge }),
            max_cq: number(device.max_cq),
            max_cqe: number(device.max_cqe),
            max_srq_wr: number(if device.max_srq > 0 { device.max_srq_wr } else { 0 }),
            max_rd_atomic: byte(device.max_qp_rd_atom),
            max_init_rd_atomic: byte(device.max_qp_init_rd_atom),
            odp: extended.odp_caps.per_transport_caps.rc_odp_caps & odp == odp,
            memory_windows: device.device_cap_flags & windows.0 != 0,
        })
    }

    /// The port as it is now.
    pub(crate) fn port(&self, port: u8) -> io::Result<Port> {
        // SAFETY: plain numbers, for which zeros are valid.
        let mut answer: ib::ibv_port_attr = unsafe { zeroed() };
        // SAFETY: the context is open, the answer is ours.
        check(unsafe { ib::ibv_query_port(self.raw.get(), port, &mut answer) })
            .map_err(|e| explain(&e, format!("{}: port {port} cannot be looked at: {e}", self.name)))?;
        Ok(Port {
            active: answer.state == ib::ibv_port_state::IBV_PORT_ACTIVE,
            state: types::state(answer.state),
            mtu: types::bytes_of_mtu(answer.active_mtu),
            lid: answer.lid,
            ethernet: answer.link_layer == ib::IBV_LINK_LAYER_ETHERNET,
            max_message: answer.max_msg_sz,
        })
    }

    /// The next asynchronous event, for people; never waits.
    pub(crate) fn next_event(&self) -> Option<String> {
        let mut event = MaybeUninit::<ib::ibv_async_event>::zeroed();
        // SAFETY: the context is open, the event is ours; its descriptor does not block.
        if unsafe { ib::ibv_get_async_event(self.raw.get(), event.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: it was filled. Its kind is read as a number, as the library may know kinds that the enum does not.
        let (kind, port) = unsafe {
            let event = event.as_ptr();
            ((&raw const (*event).event_type).cast::<u32>().read(), (*event).element.port_num)
        };
        // SAFETY: each event that was taken is acknowledged once.
        unsafe { ib::ibv_ack_async_event(event.as_mut_ptr()) };
        Some(types::event(kind, port))
    }
}

impl AsFd for Context {
    /// Readable when there is an asynchronous event.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the context, which is borrowed.
        unsafe { BorrowedFd::borrow_raw((*self.raw.get()).async_fd) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: nothing made from it is left: all of that owns it.
        Kind::Context.destroyed(unsafe { ib::ibv_close_device(self.raw.get()) });
    }
}

/// A protection domain: keys count only inside theirs.
pub(crate) struct Domain {
    pub(super) raw: Raw<ib::ibv_pd>,
    pub(super) context: Arc<Context>,
}

impl Domain {
    pub(crate) fn new(context: &Arc<Context>) -> io::Result<Arc<Self>> {
        // SAFETY: the context is open.
        let raw = Raw::made(Kind::Domain, unsafe { ib::ibv_alloc_pd(context.raw.get()) })
            .map_err(|e| explain(&e, format!("{}: no protection domain: {e}", context.name)))?;
        Ok(Arc::new(Self { raw, context: Arc::clone(context) }))
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: as for the context.
        Kind::Domain.destroyed(unsafe { ib::ibv_dealloc_pd(self.raw.get()) });
    }
}

/// Memory a device may touch. Its pages are pinned.
pub(crate) struct MemoryRegion {
    /// `None` once it is unregistered.
    raw: Option<Raw<ib::ibv_mr>>,
    lkey: u32,
    rkey: u32,
    /// What keeps it mapped; `None` when somebody outside promised to.
    memory: Option<Arc<Memory>>,
    _domain: Arc<Domain>,
}

impl MemoryRegion {
    /// A part of memory that stays mapped as long as the region.
    pub(crate) fn of_memory(domain: &Arc<Domain>, memory: &Arc<Memory>, offset: u64, len: u64, access: Access) -> io::Result<Self> {
        if len == 0 || offset.checked_add(len).is_none_or(|end| end > memory.len()) {
            let words = format!("{len} bytes from offset {offset} do not lie in memory of {} bytes", memory.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        Self::new(domain, memory.base() + offset, len, access, Some(Arc::clone(memory)))
    }

    /// A buffer of the user, or a part of one: whoever registered it with the engine promised that it stays valid until it is unregistered,
    /// and so until this is dropped.
    pub(crate) fn of_region(domain: &Arc<Domain>, region: Region, access: Access) -> io::Result<Self> {
        Self::new(domain, region.base, region.len, access, None)
    }

    fn new(domain: &Arc<Domain>, base: u64, len: u64, access: Access, memory: Option<Arc<Memory>>) -> io::Result<Self> {
        let flags = match access {
            // To iWARP the answer to a read is a write of the peer.
            Access::Local if domain.context.iwarp => {
                ib::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE | ib::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE
            }
            Access::Local => ib::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE,
            Access::Remote => {
                ib::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE
                    | ib::ibv_access_flags::IBV_ACCESS_REMOTE_READ
                    | ib::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE
            }
        };
        let at = std::ptr::with_exposed_provenance_mut(base as usize);
        // SAFETY: the domain exists; the memory stays valid as long as the region, as the makers above say; the kernel checks that it is mapped.
        let made = unsafe { ib::ibv_reg_mr(domain.raw.get(), at, len as usize, flags.0 as i32) };
        let raw = Raw::made(Kind::Region, made).map_err(|e| refused_memory(&domain.context.name, base, len, &e))?;
        // SAFETY: it was just made.
        let (lkey, rkey) = unsafe { ((*raw.get()).lkey, (*raw.get()).rkey) };
        Ok(Self { raw: Some(raw), lkey, rkey, memory, _domain: Arc::clone(domain) })
    }

    /// For our own work requests.
    pub(crate) fn lkey(&self) -> u32 {
        self.lkey
    }

    /// For those of peers.
    pub(crate) fn rkey(&self) -> u32 {
        self.rkey
    }

    /// Ends it: once it is unregistered the device touches nothing of it. What the device refuses to let go comes back.
    pub(crate) fn deregister(mut self) -> Result<(), (Self, io::Error)> {
        match self.end() {
            Ok(()) => Ok(()),
            Err(cause) => Err((self, cause)),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        if let Some(raw) = &self.raw {
            // SAFETY: it exists; after a success nobody has its pointer.
            check(unsafe { ib::ibv_dereg_mr(raw.get()) })?;
            Kind::Region.destroyed(0);
            self.raw = None;
        }
        Ok(())
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        if let Err(cause) = self.end() {
            Kind::Region.destroyed(cause.raw_os_error().unwrap_or(libc::EIO));
            // The device may still write there: the memory stays mapped for ever.
            std::mem::forget(self.memory.take());
        }
    }
}

/// Says what is in the way, and how to move it where it is the limit of locked memory.
fn refused_memory(device: &str, base: u64, len: u64, cause: &io::Error) -> io::Error {
    let words = format!("{device} cannot register {len} bytes at {base:#x}: {cause}");
    // SAFETY: plain numbers, for which zeros are valid.
    let mut limit: libc::rlimit = unsafe { zeroed() };
    // SAFETY: the answer is ours.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } == 0;
    explain(cause, types::with_memlock(words, cause.raw_os_error(), known.then_some(limit.rlim_cur)))
}

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
            let Limits { max_cq, max_cqe, .. } = context.limits;
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
            // SAFETY: these four are filled in every completion (ibv_poll_cq(3)).
            let (id, status, queue_pair, vendor) = unsafe { ((*wc).wr_id, (*wc).status, (*wc).qp_num, (*wc).vendor_err) };
            let status = types::status(status);
            // Some devices put the flag on the sender's completion too.
            // SAFETY: the opcode is filled in every success.
            let with = status == Status::Success && unsafe { (*wc).opcode } == ib::ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM;
            // SAFETY: and the number in every receive that came with one.
            let number = || u32::from_be(unsafe { (*wc).imm_data_invalidated_rkey_union.imm_data });
            into.push(Completed { id, status, immediate: with.then(number), queue_pair, vendor });
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
