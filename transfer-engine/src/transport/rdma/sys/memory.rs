//! Memory that devices may touch.

use super::live::Kind;
use super::types::{self, Access};
use super::{Domain, Raw, check, explain};
use crate::memory::{Memory, Region};
use rdma_mummy_sys as ib;
use std::io;
use std::mem::zeroed;
use std::sync::Arc;

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
            Access::Local if domain.context.is_iwarp() => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdma::RdmaSettings;
    use crate::transport::rdma::device::Devices;

    #[test]
    #[ignore = "needs an RDMA device: scripts/rxe-vm"]
    fn the_limit_of_locked_memory_is_named_with_the_way_to_raise_it() {
        let devices = Devices::new(RdmaSettings::default()).unwrap();
        let domain = &devices.get().unwrap()[0].domain;
        let memory = Memory::anonymous(1 << 20).unwrap();
        let error = std::thread::scope(|scope| {
            let refused = || {
                let limit = libc::rlimit { rlim_cur: 64 << 10, rlim_max: libc::RLIM_INFINITY };
                // SAFETY: the limit is ours. It counts for the whole process, but not for threads that may lock all memory.
                let _ = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
                // SAFETY: by itself, unlike the function of the C library, the call takes privileges from this thread only.
                let code = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
                assert_eq!(code, 0, "only root can give its privileges away");
                MemoryRegion::of_memory(domain, &memory, 0, 1 << 20, Access::Local).map(|_| ()).unwrap_err()
            };
            scope.spawn(refused).join().unwrap()
        });
        for part in [
            "cannot register 1048576 bytes",
            "65536 bytes",
            "RLIMIT_MEMLOCK",
            "ulimit -l unlimited",
            "LimitMEMLOCK=infinity",
            "CAP_IPC_LOCK",
        ] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
