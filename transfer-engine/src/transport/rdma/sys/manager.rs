//! The connection manager: librdmacm.
//!
//! An identifier stands for one connection; librdmacm lets any thread use it, as libibverbs its objects. Its events come by the channel it
//! was made with; each is acknowledged as it is taken, so that nobody who destroys an identifier waits for one.

use super::live::Kind;
use super::{Raw, check, explain};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{SockaddrLike, SockaddrStorage};
use rdma_mummy_sys as ib;
use std::ffi::CStr;
use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{null_mut, slice_from_raw_parts};
use std::sync::Arc;
use std::time::Duration;

/// Where the events of identifiers come.
pub(crate) struct Events(Raw<ib::rdma_event_channel>);

impl Events {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        // SAFETY: takes nothing.
        let made = unsafe { ib::rdma_create_event_channel() };
        let events = Self(Raw::made(Kind::ManagerChannel, made).map_err(|cause| {
            let words = match cause.raw_os_error() {
                Some(libc::EOPNOTSUPP) => "librdmacm.so.1 is not installed: install librdmacm1".to_owned(),
                Some(libc::ENODEV | libc::ENOENT) => format!("{cause}: is the kernel module rdma_ucm loaded?"),
                _ => cause.to_string(),
            };
            explain(&cause, format!("no connection manager: {words}"))
        })?);
        fcntl(&events, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Arc::new(events))
    }

    /// The next event that is there; never waits.
    pub(in crate::transport::rdma) fn next(self: &Arc<Self>) -> io::Result<Option<Event>> {
        let mut event = null_mut();
        // SAFETY: the channel exists and does not block, the answer is ours.
        if let Err(cause) = check(unsafe { ib::rdma_get_cm_event(self.0.get(), &mut event) }) {
            return if cause.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(cause) };
        }
        // SAFETY: it was filled, and is ours until it is acknowledged; so long its identifier exists.
        let (kind, status, number) = unsafe { ((*event).event, (*event).status, (*(*event).id).context as u64) };
        let request = (kind == ib::rdma_cm_event_type::RDMA_CM_EVENT_CONNECT_REQUEST).then(|| {
            // SAFETY: as above. A request brings an identifier that is ours from here on, and this kind of parameters.
            let (id, param) = unsafe { ((*event).id, (*event).param.conn) };
            let words = slice_from_raw_parts(param.private_data.cast::<u8>(), usize::from(param.private_data_len));
            // SAFETY: as many bytes as it says, as long as the event; there may be none.
            let words = if param.private_data.is_null() { Vec::new() } else { unsafe { &*words }.to_vec() };
            let id = Raw::made(Kind::ManagerId, id).map(|raw| Id { raw, _events: Arc::clone(self) });
            id.map(|id| Asked { id, words, answers: param.responder_resources })
        });
        // SAFETY: each event that was taken is acknowledged once.
        check(unsafe { ib::rdma_ack_cm_event(event) })?;
        Ok(Some(Event { number, kind, status, request: request.transpose()? }))
    }
}

impl AsFd for Events {
    /// Readable when there is an event.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the channel, which is borrowed.
        unsafe { BorrowedFd::borrow_raw((*self.0.get()).fd) }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: no identifier uses it: those own it. All its events are acknowledged.
        unsafe { ib::rdma_destroy_event_channel(self.0.get()) };
        Kind::ManagerChannel.destroyed(0);
    }
}

/// What happened.
pub(in crate::transport::rdma) struct Event {
    /// Which identifier it is about, by the number that was given to it.
    pub(in crate::transport::rdma) number: u64,
    pub(in crate::transport::rdma) kind: ib::rdma_cm_event_type::Type,
    /// Why, where something failed: an error number below zero, or a reason of the protocol above it.
    pub(in crate::transport::rdma) status: i32,
    /// Somebody wants a connection.
    pub(in crate::transport::rdma) request: Option<Asked>,
}

/// A connection that is asked for. Refused when it is dropped.
pub(in crate::transport::rdma) struct Asked {
    pub(in crate::transport::rdma) id: Id,
    /// What the asking side said. May be longer, filled up with zeros.
    pub(in crate::transport::rdma) words: Vec<u8>,
    /// Reads that it wants answered at one time.
    pub(in crate::transport::rdma) answers: u8,
}

/// What one side tells the other as they connect.
pub(in crate::transport::rdma) struct Terms<'a> {
    /// The number of its queue pair.
    pub(in crate::transport::rdma) queue_pair: u32,
    /// Reads it answers at one time, and reads it has under way at one time.
    pub(in crate::transport::rdma) answers: u8,
    pub(in crate::transport::rdma) reads: u8,
    /// Bytes for the other side to know it by.
    pub(in crate::transport::rdma) words: &'a [u8],
}

impl Terms<'_> {
    fn param(&self) -> ib::rdma_conn_param {
        ib::rdma_conn_param {
            private_data: self.words.as_ptr().cast(),
            private_data_len: self.words.len() as u8,
            responder_resources: self.answers,
            initiator_depth: self.reads,
            flow_control: 1,
            retry_count: 6,
            rnr_retry_count: 6,
            srq: 0,
            qp_num: self.queue_pair,
        }
    }
}

/// A connection to the manager, or a place where it listens.
pub(crate) struct Id {
    raw: Raw<ib::rdma_cm_id>,
    _events: Arc<Events>,
}

impl Id {
    /// Its events carry the number.
    pub(in crate::transport::rdma) fn new(events: &Arc<Events>, number: u64) -> io::Result<Self> {
        let mut id = null_mut();
        // SAFETY: the channel exists, and is owned by the identifier from here on; the number is only kept; the answer is ours.
        check(unsafe { ib::rdma_create_id(events.0.get(), &mut id, number as *mut _, ib::rdma_port_space::RDMA_PS_TCP) })?;
        Ok(Self { raw: Raw::made(Kind::ManagerId, id)?, _events: Arc::clone(events) })
    }

    /// Has its further events carry that number.
    pub(in crate::transport::rdma) fn count_as(&self, number: u64) {
        // SAFETY: it exists; only whoever takes its events reads this, and that is this thread.
        unsafe { (*self.raw.get()).context = number as *mut _ };
    }

    pub(in crate::transport::rdma) fn bind(&self, at: SocketAddr) -> io::Result<()> {
        let at = SockaddrStorage::from(at);
        // SAFETY: it exists; the address is only read.
        check(unsafe { ib::rdma_bind_addr(self.raw.get(), at.as_ptr().cast_mut()) })
    }

    pub(in crate::transport::rdma) fn listen(&self, backlog: u16) -> io::Result<()> {
        // SAFETY: it exists.
        check(unsafe { ib::rdma_listen(self.raw.get(), i32::from(backlog)) })
    }

    /// Begins to look for the address of the peer. Answered by an event.
    pub(in crate::transport::rdma) fn resolve_address(&self, from: SocketAddr, to: SocketAddr, wait: Duration) -> io::Result<()> {
        let (from, to) = (SockaddrStorage::from(from), SockaddrStorage::from(to));
        // SAFETY: it exists; the addresses are only read.
        check(unsafe { ib::rdma_resolve_addr(self.raw.get(), from.as_ptr().cast_mut(), to.as_ptr().cast_mut(), wait.as_millis() as i32) })
    }

    /// Begins to look for the way there. Answered by an event.
    pub(in crate::transport::rdma) fn resolve_route(&self, wait: Duration) -> io::Result<()> {
        // SAFETY: it exists.
        check(unsafe { ib::rdma_resolve_route(self.raw.get(), wait.as_millis() as i32) })
    }

    /// Asks the peer. Answered by an event.
    pub(in crate::transport::rdma) fn connect(&self, terms: &Terms<'_>) -> io::Result<()> {
        // SAFETY: it exists; the terms are copied by the call.
        check(unsafe { ib::rdma_connect(self.raw.get(), &mut terms.param()) })
    }

    /// Answers the peer that asked.
    pub(in crate::transport::rdma) fn accept(&self, terms: &Terms<'_>) -> io::Result<()> {
        // SAFETY: it exists; the terms are copied by the call.
        check(unsafe { ib::rdma_accept(self.raw.get(), &mut terms.param()) })
    }

    /// Tells the peer that answered that its answer came.
    pub(in crate::transport::rdma) fn establish(&self) -> io::Result<()> {
        // SAFETY: it exists.
        check(unsafe { ib::rdma_establish(self.raw.get()) })
    }

    /// Tells the peer that the connection ends; it may be over already.
    pub(crate) fn disconnect(&self) {
        // SAFETY: it exists.
        unsafe { ib::rdma_disconnect(self.raw.get()) };
    }

    /// What a queue pair needs to enter this state, and which of it counts.
    pub(crate) fn attributes(&self, state: ib::ibv_qp_state::Type) -> io::Result<(ib::ibv_qp_attr, ib::ibv_qp_attr_mask)> {
        // SAFETY: plain numbers, for which zeros are valid.
        let mut wanted: ib::ibv_qp_attr = unsafe { zeroed() };
        wanted.qp_state = state;
        let mut which = 0;
        // SAFETY: it exists, the answers are ours.
        check(unsafe { ib::rdma_init_qp_attr(self.raw.get(), &mut wanted, &mut which) })?;
        Ok((wanted, ib::ibv_qp_attr_mask(which as u32)))
    }

    /// The device that the manager uses for it, once it has an address.
    pub(in crate::transport::rdma) fn device(&self) -> Option<String> {
        // SAFETY: it exists. A context that is there is open as long as it is, and its device has a name.
        unsafe {
            let context = (*self.raw.get()).verbs;
            (!context.is_null()).then(|| CStr::from_ptr(ib::ibv_get_device_name((*context).device)).to_string_lossy().into_owned())
        }
    }

    /// The port it is bound to.
    pub(in crate::transport::rdma) fn port(&self) -> u16 {
        // SAFETY: it exists. Addresses of both families have the port at the same place.
        u16::from_be(unsafe { (*self.raw.get()).route.addr.src_addr_union.src_sin.sin_port })
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: it exists, and nobody has its pointer afterwards: its events are acknowledged as they are taken.
        let code = unsafe { ib::rdma_destroy_id(self.raw.get()) };
        Kind::ManagerId.destroyed(if code == 0 { 0 } else { io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) });
    }
}
