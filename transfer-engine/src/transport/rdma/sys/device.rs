//! Devices, and the protection domains that keys count in.

use super::live::Kind;
use super::types::{self, Limits, Port};
use super::{Raw, check, explain};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rdma_mummy_sys as ib;
use std::ffi::CStr;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// What rdma_rxe says as its vendor; nobody's number.
const SOFT_ROCE: u32 = 0xff_ffff;

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
    soft_roce: bool,
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
        let mut context = Self { raw, name: name.to_owned(), limits: Limits::default(), iwarp, soft_roce: false };
        (context.limits, context.soft_roce) = context.query()?;
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

    /// Whether it is soft-RoCE, software of the kernel.
    pub(crate) fn is_soft_roce(&self) -> bool {
        self.soft_roce
    }

    fn query(&self) -> io::Result<(Limits, bool)> {
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
        let limits = Limits {
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
        };
        Ok((limits, device.vendor_id == SOFT_ROCE))
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
