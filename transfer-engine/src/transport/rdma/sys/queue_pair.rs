//! Queue pairs, and the receives that several of them share.

use super::live::{COUNTERS, Kind, add};
use super::types::{Access, Class, mtu_of_bytes};
use super::{Capacity, Chain, CompletionQueue, Domain, Id, Path, Raw, Refused, check, explain};
use rdma_mummy_sys as ib;
use std::io;
use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::Arc;

/// Receives for several queue pairs of a device. They hold no memory: what arrives is only the number of a `WriteImmediate`.
pub(crate) struct SharedReceiveQueue {
    raw: Raw<ib::ibv_srq>,
    _domain: Arc<Domain>,
}

impl SharedReceiveQueue {
    pub(crate) fn new(domain: &Arc<Domain>, depth: u32) -> io::Result<Arc<Self>> {
        let attr = ib::ibv_srq_attr { max_wr: depth, max_sge: 1, srq_limit: 0 };
        let mut init = ib::ibv_srq_init_attr { srq_context: null_mut(), attr };
        // SAFETY: the domain exists, and is owned by the queue from here on.
        let raw = Raw::made(Kind::SharedQueue, unsafe { ib::ibv_create_srq(domain.raw.get(), &mut init) }).map_err(|e| {
            let most = domain.context.limits().max_srq_wr;
            explain(&e, format!("{} gives no shared receive queue of {depth} (at most {most}): {e}", domain.context.name))
        })?;
        Ok(Arc::new(Self { raw, _domain: Arc::clone(domain) }))
    }

    /// Posts that many receives.
    pub(crate) fn post(&self, count: u32) -> io::Result<()> {
        let empty = ib::ibv_recv_wr { wr_id: 0, next: null_mut(), sg_list: null_mut(), num_sge: 0 };
        let mut receives = vec![empty; count as usize];
        let first = receives.as_mut_ptr();
        let last = receives.len().saturating_sub(1);
        for (place, receive) in receives[..last].iter_mut().enumerate() {
            receive.next = first.wrapping_add(place + 1);
        }
        if count == 0 {
            return Ok(());
        }
        let mut bad = null_mut();
        // SAFETY: the queue exists; the chain is ours and copied by the call.
        check(unsafe { ib::ibv_post_srq_recv(self.raw.get(), first, &mut bad) })
    }
}

impl Drop for SharedReceiveQueue {
    fn drop(&mut self) {
        // SAFETY: no queue pair uses it: those own it.
        Kind::SharedQueue.destroyed(unsafe { ib::ibv_destroy_srq(self.raw.get()) });
    }
}

/// One end of a reliable connection.
pub(crate) struct QueuePair {
    raw: Raw<ib::ibv_qp>,
    number: u32,
    capacity: Capacity,
    _send: Arc<CompletionQueue>,
    _receive: Arc<CompletionQueue>,
    _shared: Option<Arc<SharedReceiveQueue>>,
    domain: Arc<Domain>,
}

impl QueuePair {
    /// A queue pair in reset. `InvalidInput` when a size is beyond the device.
    pub(crate) fn new(
        domain: &Arc<Domain>,
        send: &Arc<CompletionQueue>,
        receive: &Arc<CompletionQueue>,
        shared: Option<&Arc<SharedReceiveQueue>>,
        capacity: Capacity,
    ) -> io::Result<Self> {
        let Capacity { sends, receives, sges, inline } = capacity;
        let mut init = ib::ibv_qp_init_attr {
            qp_context: null_mut(),
            send_cq: send.raw.get(),
            recv_cq: receive.raw.get(),
            srq: shared.map_or(null_mut(), |shared| shared.raw.get()),
            cap: ib::ibv_qp_cap { max_send_wr: sends, max_recv_wr: receives, max_send_sge: sges, max_recv_sge: 1, max_inline_data: inline },
            qp_type: ib::ibv_qp_type::IBV_QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: all of these exist, and are owned by the queue pair from here on.
        let raw = Raw::made(Kind::QueuePair, unsafe { ib::ibv_create_qp(domain.raw.get(), &mut init) })
            .map_err(|e| explain(&e, e.to_string()))?;
        let cap = init.cap;
        let given = Capacity { sends: cap.max_send_wr, receives: cap.max_recv_wr, sges: cap.max_send_sge, inline: cap.max_inline_data };
        // SAFETY: it was just made.
        let number = unsafe { (*raw.get()).qp_num };
        let (send, receive, shared) = (Arc::clone(send), Arc::clone(receive), shared.cloned());
        Ok(Self { raw, number, capacity: given, _send: send, _receive: receive, _shared: shared, domain: Arc::clone(domain) })
    }

    /// Its number on the device.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Its real sizes.
    pub(crate) fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// From reset to init: receives may be posted. With local access the peer can neither write nor read here, whatever keys it knows.
    pub(crate) fn to_init(&self, port: u8, access: Access) -> io::Result<()> {
        let mut wanted = attributes(ib::ibv_qp_state::IBV_QPS_INIT);
        wanted.port_num = port;
        wanted.qp_access_flags = match access {
            // To iWARP the answer to a read is a write of the peer.
            Access::Local if self.domain.context.is_iwarp() => ib::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0,
            Access::Local => 0,
            Access::Remote => (ib::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE | ib::ibv_access_flags::IBV_ACCESS_REMOTE_READ).0,
        };
        let which = ib::ibv_qp_attr_mask::IBV_QP_STATE
            | ib::ibv_qp_attr_mask::IBV_QP_PKEY_INDEX
            | ib::ibv_qp_attr_mask::IBV_QP_PORT
            | ib::ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS;
        self.modify(wanted, which)
    }

    /// From init to ready to receive: the peer's requests are answered.
    pub(crate) fn to_ready_to_receive(&self, path: &Path) -> io::Result<()> {
        let words = || format!("a path has packets of 256, 512, 1024, 2048 or 4096 bytes, not {}", path.mtu);
        let mut wanted = attributes(ib::ibv_qp_state::IBV_QPS_RTR);
        wanted.path_mtu = mtu_of_bytes(path.mtu).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, words()))?;
        wanted.dest_qp_num = path.number;
        wanted.rq_psn = path.psn;
        wanted.max_dest_rd_atomic = path.reads;
        wanted.min_rnr_timer = RNR_TIMER;
        wanted.ah_attr.port_num = path.port;
        wanted.ah_attr.dlid = path.lid;
        wanted.ah_attr.is_global = u8::from(path.global);
        wanted.ah_attr.grh.dgid = ib::ibv_gid { raw: path.gid };
        wanted.ah_attr.grh.sgid_index = path.gid_index;
        wanted.ah_attr.grh.hop_limit = 64;
        classify(&mut wanted, path.class);
        let which = ib::ibv_qp_attr_mask::IBV_QP_STATE
            | ib::ibv_qp_attr_mask::IBV_QP_AV
            | ib::ibv_qp_attr_mask::IBV_QP_PATH_MTU
            | ib::ibv_qp_attr_mask::IBV_QP_DEST_QPN
            | ib::ibv_qp_attr_mask::IBV_QP_RQ_PSN
            | ib::ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC
            | ib::ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER;
        self.modify(wanted, which)
    }

    /// From ready to receive to ready to send. `psn` is the first packet sequence number, `reads` how many reads may be under way.
    pub(crate) fn to_ready_to_send(&self, psn: u32, reads: u8) -> io::Result<()> {
        let mut wanted = attributes(ib::ibv_qp_state::IBV_QPS_RTS);
        wanted.sq_psn = psn;
        wanted.max_rd_atomic = reads;
        patience(&mut wanted);
        let which = ib::ibv_qp_attr_mask::IBV_QP_STATE
            | ib::ibv_qp_attr_mask::IBV_QP_TIMEOUT
            | ib::ibv_qp_attr_mask::IBV_QP_RETRY_CNT
            | ib::ibv_qp_attr_mask::IBV_QP_RNR_RETRY
            | ib::ibv_qp_attr_mask::IBV_QP_SQ_PSN
            | ib::ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify(wanted, which)
    }

    /// From init to ready to receive, towards the peer that the connection manager heard of.
    pub(crate) fn to_ready_to_receive_by(&self, id: &Id, class: Class) -> io::Result<()> {
        let (mut wanted, which) = id.attributes(ib::ibv_qp_state::IBV_QPS_RTR)?;
        wanted.min_rnr_timer = RNR_TIMER;
        classify(&mut wanted, class);
        self.modify(wanted, which)
    }

    /// From ready to receive to ready to send, as agreed with the peer by the connection manager.
    pub(crate) fn to_ready_to_send_by(&self, id: &Id) -> io::Result<()> {
        let (mut wanted, which) = id.attributes(ib::ibv_qp_state::IBV_QPS_RTS)?;
        // The manager has devices wait half a minute for a peer that is gone.
        patience(&mut wanted);
        self.modify(wanted, which)
    }

    /// From any state to error: all that was posted comes back flushed.
    pub(crate) fn to_error(&self) -> io::Result<()> {
        self.modify(attributes(ib::ibv_qp_state::IBV_QPS_ERR), ib::ibv_qp_attr_mask::IBV_QP_STATE)
    }

    fn modify(&self, mut wanted: ib::ibv_qp_attr, which: ib::ibv_qp_attr_mask) -> io::Result<()> {
        // SAFETY: the queue pair exists.
        check(unsafe { ib::ibv_modify_qp(self.raw.get(), &mut wanted, which.0 as i32) })
    }

    /// Hands all requests of the chain to the device with one doorbell. The chain is empty afterwards, whatever came of it.
    pub(crate) fn post(&self, chain: &mut Chain) -> Result<(), Refused> {
        let count = chain.len();
        if count == 0 {
            return Ok(());
        }
        let first = chain.link();
        let mut bad = null_mut();
        // SAFETY: the queue pair exists; the chain was just linked and is copied by the call, inline bytes too.
        let code = unsafe { ib::ibv_post_send(self.raw.get(), first, &mut bad) };
        add(&COUNTERS.doorbells, 1);
        let posted = match code {
            0 => count,
            // A device that names no request may have all of them.
            _ if bad.is_null() => count,
            _ => (bad as usize - first as usize) / size_of::<ib::ibv_send_wr>(),
        };
        add(&COUNTERS.work_requests, posted);
        chain.clear();
        check(code).map_err(|cause| Refused { posted, cause })
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: it exists, and nobody has its pointer afterwards. When this returns the device touches nothing for it any more.
        let code = unsafe { ib::ibv_destroy_qp(self.raw.get()) };
        Kind::QueuePair.destroyed(code);
        if let Err(cause) = check(code)
            // Then the device was taken away, and touches nothing either.
            && cause.raw_os_error() != Some(libc::EIO)
        {
            tracing::error!("the process ends: a device keeps a queue pair, and may still write to memory that others would get: {cause}");
            std::process::abort();
        }
    }
}

/// 0.64 ms between the tries of a peer that found no receive.
const RNR_TIMER: u8 = 12;

/// 4.096 us * 2^14 = 67 ms without an answer, then six more tries: a peer is given up after half a second. 7 means for ever on rxe.
fn patience(wanted: &mut ib::ibv_qp_attr) {
    wanted.timeout = 14;
    wanted.retry_cnt = 6;
    wanted.rnr_retry = 6;
}

fn classify(wanted: &mut ib::ibv_qp_attr, class: Class) {
    wanted.ah_attr.grh.traffic_class = class.traffic;
    wanted.ah_attr.sl = class.level;
}

fn attributes(state: ib::ibv_qp_state::Type) -> ib::ibv_qp_attr {
    // SAFETY: plain numbers, for which zeros are valid.
    let mut wanted: ib::ibv_qp_attr = unsafe { zeroed() };
    wanted.qp_state = state;
    wanted
}
