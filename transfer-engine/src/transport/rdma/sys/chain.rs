//! Work requests that go out together.

use super::types::{Local, Verb, WorkRequest};
use crate::memory::copy;
use crate::request::{Held, LocalSlice};
use rdma_mummy_sys as ib;
use std::ptr::null_mut;

/// Work requests that go out with one doorbell.
///
/// Only numbers until it is posted: the pointers between its parts are set at that moment, as the vectors move while they grow.
#[derive(Default)]
pub(crate) struct Chain {
    requests: Vec<ib::ibv_send_wr>,
    /// The local sides of all requests, one after the other.
    sges: Vec<ib::ibv_sge>,
    /// The bytes of inline writes; the `addr` of their sges is a place in here.
    pub(in crate::transport::rdma) inline: Vec<u8>,
    /// Where the last request with bytes begins in the peer's memory, and under which key.
    target: Option<(u64, u32)>,
}

// SAFETY: the pointers inside a chain are set and followed within `QueuePair::post`; at other times they are only numbers.
unsafe impl Send for Chain {}

impl Chain {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Forgets everything, keeps the room.
    pub(crate) fn clear(&mut self) {
        self.requests.clear();
        self.sges.clear();
        self.inline.clear();
        self.target = None;
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Address and key of the first byte of the peer that the last request with bytes touches, if there is one.
    pub(crate) fn target(&self) -> Option<(u64, u32)> {
        self.target
    }

    /// Has the success of the last request reported, which stands for all before it.
    pub(crate) fn signal_last(&mut self) {
        if let Some(last) = self.requests.last_mut() {
            last.send_flags |= ib::ibv_send_flags::IBV_SEND_SIGNALED.0;
        }
    }

    /// Adds a request whose local bytes the device reads or writes later, by their keys.
    pub(crate) fn push(&mut self, request: WorkRequest, local: &[Local]) {
        for &Local { base, len, key } in local {
            self.sges.push(ib::ibv_sge { addr: base, length: len, lkey: key });
        }
        self.add(request, local.len(), ib::ibv_send_flags(0));
    }

    /// Adds a write of the inline bytes from `from` on, at most as many as the queue pair takes.
    fn inlined(&mut self, request: WorkRequest, from: usize) {
        debug_assert!(request.op != Verb::Read, "only writes carry bytes");
        let length = (self.inline.len() - from) as u32;
        self.sges.push(ib::ibv_sge { addr: from as u64, length, lkey: 0 });
        self.add(request, 1, ib::ibv_send_flags::IBV_SEND_INLINE);
    }

    /// Adds a write of these bytes, which are copied now.
    pub(crate) fn push_inline<'a>(&mut self, request: WorkRequest, local: impl Iterator<Item = Held<'a>>) {
        let from = self.inline.len();
        for LocalSlice { base, len } in local.map(Held::slice) {
            let at = self.inline.len();
            self.inline.resize(at + len as usize, 0);
            // SAFETY: they are held; the target is ours, and as long.
            unsafe { copy(base, self.inline[at..].as_mut_ptr().expose_provenance() as u64, len) };
        }
        self.inlined(request, from);
    }

    fn add(&mut self, request: WorkRequest, sges: usize, flags: ib::ibv_send_flags) {
        let WorkRequest { id, op, remote, key, signaled } = request;
        self.target = (sges > 0).then_some((remote, key)).or(self.target);
        let (opcode, immediate) = match op {
            Verb::Read => (ib::ibv_wr_opcode::IBV_WR_RDMA_READ, 0),
            Verb::Write => (ib::ibv_wr_opcode::IBV_WR_RDMA_WRITE, 0),
            Verb::WriteImmediate(number) => (ib::ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM, number),
        };
        let signal = if signaled { ib::ibv_send_flags::IBV_SEND_SIGNALED } else { ib::ibv_send_flags(0) };
        self.requests.push(ib::ibv_send_wr {
            wr_id: id,
            next: null_mut(),
            sg_list: null_mut(),
            num_sge: sges as i32,
            opcode,
            send_flags: (flags | signal).0,
            imm_data_invalidated_rkey_union: ib::imm_data_invalidated_rkey_union_t { imm_data: immediate.to_be() },
            wr: ib::wr_t { rdma: ib::rdma_t { remote_addr: remote, rkey: key } },
            qp_type: ib::qp_type_t { xrc: ib::xrc_t { remote_srqn: 0 } },
            bind_mw_tso_union: ib::bind_mw_tso_union_t { tso: ib::tso_t { hdr: null_mut(), hdr_sz: 0, mss: 0 } },
        });
    }

    /// Sets the pointers and returns the first request: from here on nothing may be pushed before it is posted.
    pub(super) fn link(&mut self) -> *mut ib::ibv_send_wr {
        let (sges, inline) = (self.sges.as_mut_ptr(), self.inline.as_ptr().expose_provenance() as u64);
        let first = self.requests.as_mut_ptr();
        let (mut at, last) = (0, self.requests.len().saturating_sub(1));
        for (place, request) in self.requests.iter_mut().enumerate() {
            if request.send_flags & ib::ibv_send_flags::IBV_SEND_INLINE.0 != 0 {
                self.sges[at].addr += inline;
            }
            request.sg_list = sges.wrapping_add(at);
            request.next = if place == last { null_mut() } else { first.wrapping_add(place + 1) };
            at += request.num_sge as usize;
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_linked_as_it_stands() {
        let mut chain = Chain::new();
        for round in 0..2_u64 {
            assert_eq!(chain.len(), 0);
            for id in 0..40 {
                let request = WorkRequest { id, op: Verb::Write, remote: 7, key: 9, signaled: false };
                if id % 2 == 0 {
                    chain.push(request, &[Local { base: 100 + id, len: 5, key: 1 }, Local { base: 200 + id, len: 6, key: 2 }]);
                } else {
                    let from = chain.inline.len();
                    chain.inline.extend([id as u8; 3]);
                    chain.inlined(request, from);
                }
            }
            chain.signal_last();
            let first = chain.link();
            assert_eq!((chain.len(), first), (40, chain.requests.as_mut_ptr()), "round {round}");
            let mut at = 0;
            for (id, request) in chain.requests.iter().enumerate() {
                let next = if id == 39 { null_mut() } else { first.wrapping_add(id + 1) };
                assert_eq!((request.wr_id, request.next), (id as u64, next));
                let sge = &chain.sges[at];
                assert!(std::ptr::eq(request.sg_list, sge));
                if id % 2 == 0 {
                    assert_eq!((request.num_sge, sge.addr, sge.length, sge.lkey, request.send_flags), (2, 100 + id as u64, 5, 1, 0));
                } else {
                    let place = (sge.addr - chain.inline.as_ptr().expose_provenance() as u64) as usize;
                    assert_eq!(chain.inline[place..place + sge.length as usize], [id as u8; 3]);
                    assert_eq!(request.send_flags, if id == 39 { 8 | 2 } else { 8 });
                }
                at += request.num_sge as usize;
            }
            chain.clear();
        }
    }
}
