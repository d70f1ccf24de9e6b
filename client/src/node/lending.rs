//! The memory this node lends: from an object in `/dev/shm` to an exported segment, and back. Knows no master.

use super::lender::Lender;
use super::memory::{Reopened, is_ours, memory_fault, prefix, remove_orphans, reopen, unlink};
use super::record::{Kept, Record};
use nix::sys::statvfs::statvfs;
use perilune_protocol::{ByteSize, FaultCode, NodeId, Outcome, Protocol, SegmentDesc, SegmentId};
use perilune_transfer_engine::Memory;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use tracing::{info, warn};

/// Sizes and offsets of segments are multiples of this.
pub(crate) const PAGE: u64 = 4096;

/// What is lent, and the record of it. The lock is held while the record is written, and never while a master is asked or a segment is
/// exported or withdrawn: registering memory for RDMA takes its time, and a peer that was stopped in the middle of a copy can hold a
/// withdrawal up for seconds.
pub(crate) struct Lending {
    dir: PathBuf,
    lender: Lender,
    max_registration: u64,
    held: Mutex<Held>,
    /// There are segments that no master was told of. Set and taken by whoever comes; the lock on `held` guards the segments, so relaxed.
    news: AtomicBool,
}

struct Held {
    record: Record,
    /// One for each segment of the record, in the same order.
    lent: Vec<Lent>,
    /// Everything was withdrawn for good: the record belongs to the next run.
    closed: bool,
}

struct Lent {
    desc: SegmentDesc,
    /// Mapped as long as the segment is lent.
    memory: Arc<Memory>,
    /// Being withdrawn: not announced any more, but its bytes may still move.
    ending: bool,
}

/// How a segment was asked for.
pub(crate) struct Wish<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) location: &'a str,
}

/// A segment that is being made: not yet lent, not yet in the record.
type Made = (Kept, Arc<Memory>);

/// How it is exported: [`Lender::export`] or [`Lender::export_again`].
type Export = fn(&Lender, &Kept, &Arc<Memory>, NodeId) -> Outcome<SegmentDesc>;

impl Lending {
    /// Lends again what the record names and still exists.
    pub(crate) fn recover(dir: PathBuf, lender: Lender, max_registration: u64, record: Record) -> Outcome<Self> {
        let node = record.node;
        let kept = record.segments.clone();
        let held = Mutex::new(Held { record: Record { segments: Vec::new(), ..record }, lent: Vec::new(), closed: false });
        let lending = Self { dir, lender, max_registration, held, news: AtomicBool::new(false) };
        let mut intact = Vec::new();
        for kept in kept {
            match reopen(&kept)? {
                Reopened::Intact(memory) => intact.push((kept, memory)),
                Reopened::Gone(why) => warn!(segment = %kept.id, object = %kept.object, "the memory of a segment is gone: {why}"),
            }
        }
        if !intact.is_empty() {
            info!(segments = intact.len(), "found the segments of the last run again");
        }
        let found = intact.iter().map(|(kept, _)| kept.object.clone()).collect();
        lending.lend(intact, Lender::export_again)?;
        remove_orphans(node, &found);
        Ok(lending)
    }

    /// Makes objects for `size` bytes, rounded up to pages, and lends them; answers what was lent.
    pub(crate) fn allocate(&self, size: u64, wish: &Wish<'_>) -> Outcome<Vec<SegmentDesc>> {
        let size =
            size.checked_next_multiple_of(PAGE).ok_or_else(|| FaultCode::InvalidParams.with(format!("{size} bytes are too many")))?;
        self.check_space(size)?;
        let node = self.lock().record.node;
        let mut made: Vec<Made> = Vec::new();
        for (_, size) in parts(size, self.max_registration) {
            let id = SegmentId::random();
            let object = format!("{}{id}", prefix(node));
            let memory = match Memory::create(&object, size) {
                Ok(memory) => memory,
                Err(error) => {
                    discard(&made);
                    return Err(memory_fault(&error));
                }
            };
            made.push((keep(id, object, 0, size, true, wish, &memory), memory));
        }
        let undo: Vec<Made> = made.clone();
        self.lend(made, Lender::export).inspect_err(|_| discard(&undo))
    }

    /// Lends a stretch of an object that somebody else made; its contents are kept.
    pub(crate) fn adopt(&self, name: &str, offset: u64, size: u64, wish: &Wish<'_>) -> Outcome<Vec<SegmentDesc>> {
        if is_ours(name) {
            return Err(FaultCode::InvalidParams.with(format!("/dev/shm/{name} belongs to a store node: mount an object of your own")));
        }
        if size < PAGE {
            return Err(FaultCode::InvalidParams.with(format!("{size} bytes are too few for a segment: lend at least {PAGE}")));
        }
        if offset.checked_add(size).is_none() {
            return Err(FaultCode::InvalidParams.with(format!("offset {offset} and size {size} are too large")));
        }
        // Opened whole first, so that a stretch that is too short or unreadable is refused before anything is lent.
        drop(Memory::open(name, offset, size).map_err(|e| memory_fault(&e))?);
        let mut made: Vec<Made> = Vec::new();
        for (start, size) in parts(size, self.max_registration) {
            let memory = Memory::open(name, offset + start, size).map_err(|e| memory_fault(&e))?;
            made.push((keep(SegmentId::random(), name.to_owned(), offset + start, size, false, wish, &memory), memory));
        }
        self.lend(made, Lender::export)
    }

    /// Takes segments back: after this no byte of them moves. Objects that this node made are removed. May take seconds.
    pub(crate) fn free(&self, ids: &[SegmentId]) {
        let ending = self.withdraw(ids);
        let mut held = self.lock();
        if ending.is_empty() || held.closed {
            return;
        }
        let mut freed = Vec::new();
        for id in ending {
            if let Some(at) = held.record.segments.iter().position(|kept| kept.id == id) {
                held.lent.remove(at);
                freed.push(held.record.segments.remove(at));
            }
        }
        if let Err(fault) = held.record.save(&self.dir) {
            // The next start finds the object gone and drops the segment then.
            warn!("a segment was unmounted, but the record could not be written: {fault}");
        }
        drop(held);
        for kept in freed {
            info!(segment = %kept.id, object = %kept.object, "unmounted");
            if kept.owned {
                unlink(&kept.object);
            }
        }
    }

    /// Lends the memory of segments anew, under other ids: the master forgot them, and with them who may still read or write there.
    /// May take seconds.
    pub(crate) fn renew(&self, ids: &[SegmentId]) {
        let ending = self.withdraw(ids);
        let (node, forgotten) = self.kept_with_memory(&ending);
        let renewed: Vec<(SegmentId, Kept, Outcome<SegmentDesc>)> = forgotten
            .into_iter()
            .map(|(kept, memory)| {
                let anew = Kept { id: SegmentId::random(), unannounced: true, ..kept.clone() };
                let exported = self.lender.export_again(&anew, &memory, node);
                (kept.id, anew, exported)
            })
            .collect();
        let mut held = self.lock();
        if renewed.is_empty() || held.closed {
            drop(held);
            renewed.iter().for_each(|(_, anew, _)| self.lender.withdraw(anew.id));
            return;
        }
        let mut left = Vec::new();
        for (old, anew, exported) in renewed {
            let Some(at) = held.record.segments.iter().position(|kept| kept.id == old) else { continue };
            match exported {
                Ok(desc) => held.lent[at] = Lent { desc, memory: Arc::clone(&held.lent[at].memory), ending: false },
                Err(fault) => warn!(segment = %old, "cannot be lent anew before the next start: {fault}"),
            }
            let kept = &mut held.record.segments[at];
            (kept.id, kept.unannounced) = (anew.id, true);
            info!(segment = %old, anew = %kept.id, "the master does not know this segment: its memory is lent as a new one");
            if kept.leaving {
                left.push(kept.id);
            }
        }
        if let Err(fault) = held.record.save(&self.dir) {
            // The next start announces the old ids and learns again that they are unknown.
            warn!("segments were lent anew, but the record could not be written: {fault}");
        }
        drop(held);
        self.free(&left);
        self.set_news(true);
    }

    fn kept_with_memory(&self, ids: &[SegmentId]) -> (NodeId, Vec<Made>) {
        let held = self.lock();
        let both = held.record.segments.iter().zip(&held.lent);
        let wanted = both.filter(|(kept, _)| ids.contains(&kept.id));
        (held.record.node, wanted.map(|(kept, lent)| (kept.clone(), Arc::clone(&lent.memory))).collect())
    }

    /// Says whether there are segments to announce.
    pub(crate) fn set_news(&self, news: bool) -> bool {
        self.news.swap(news, Ordering::Relaxed)
    }

    /// Remembers that a master has mounted segments: if it ever calls one of them unknown, its id is used up.
    pub(crate) fn set_announced(&self, is_mounted: impl Fn(&SegmentId) -> bool) {
        let mut held = self.lock();
        let mut changed = false;
        for kept in held.record.segments.iter_mut().filter(|kept| kept.unannounced && is_mounted(&kept.id)) {
            kept.unannounced = false;
            changed = true;
        }
        if changed
            && !held.closed
            && let Err(fault) = held.record.save(&self.dir)
        {
            warn!("segments were mounted, but the record could not be written: {fault}");
        }
    }

    /// Does what may take seconds on a thread of its own.
    pub(crate) fn aside(self: &Arc<Self>, ids: Vec<SegmentId>, work: fn(&Self, &[SegmentId])) {
        if ids.is_empty() {
            return;
        }
        let (lending, there) = (Arc::clone(self), ids.clone());
        if let Err(e) = thread::Builder::new().name("withdraw".into()).spawn(move || work(&lending, &there)) {
            warn!("no thread to withdraw segments on, so heartbeats wait for it: {e}");
            work(self, &ids);
        }
    }

    /// Withdraws those of `ids` that nobody is withdrawing yet, and answers which these were.
    fn withdraw(&self, ids: &[SegmentId]) -> Vec<SegmentId> {
        let mut ending = Vec::new();
        for lent in self.lock().lent.iter_mut().filter(|lent| !lent.ending && ids.contains(&lent.desc.id)) {
            lent.ending = true;
            ending.push(lent.desc.id);
        }
        for id in &ending {
            self.lender.withdraw(*id);
        }
        ending
    }

    /// Lends memory that no master is told of, and that has nothing in it after a restart.
    pub(crate) fn pass(&self, size: u64) -> Outcome<SegmentDesc> {
        let memory = Memory::anonymous(size).map_err(|e| memory_fault(&e))?;
        self.lender.export_unnamed(&memory, self.node())
    }

    /// Stops serving everything; the objects and the record stay.
    pub(crate) fn withdraw_all(&self) {
        let mut held = self.lock();
        held.closed = true;
        let ids: Vec<SegmentId> = held.lent.iter().map(|lent| lent.desc.id).collect();
        drop(held);
        self.withdraw(&ids);
    }

    /// Remembers that segments are leaving, or not any more.
    pub(crate) fn set_leaving(&self, ids: &[SegmentId], leaving: bool) -> Outcome<()> {
        let mut held = self.lock();
        for kept in held.record.segments.iter_mut().filter(|kept| ids.contains(&kept.id)) {
            kept.leaving = leaving;
        }
        held.record.save(&self.dir)
    }

    /// What is lent, as peers must know it.
    pub(crate) fn descs(&self) -> Vec<SegmentDesc> {
        self.lock().lent.iter().filter(|lent| !lent.ending).map(|lent| lent.desc.clone()).collect()
    }

    /// The same of one segment.
    pub(crate) fn desc(&self, id: SegmentId) -> Option<SegmentDesc> {
        self.lock().lent.iter().find(|lent| lent.desc.id == id && !lent.ending).map(|lent| lent.desc.clone())
    }

    /// The memory of one segment. It stays mapped as long as somebody has it, also where it is not lent any more.
    pub(crate) fn memory(&self, id: SegmentId) -> Option<Arc<Memory>> {
        self.lock().lent.iter().find(|lent| lent.desc.id == id && !lent.ending).map(|lent| Arc::clone(&lent.memory))
    }

    /// The records of all segments.
    pub(crate) fn all_kept(&self) -> Vec<Kept> {
        self.lock().record.segments.clone()
    }

    /// The record of one segment.
    pub(crate) fn kept(&self, id: SegmentId) -> Option<Kept> {
        self.lock().record.segments.iter().find(|kept| kept.id == id).cloned()
    }

    /// Transfers of peers that have begun and not ended.
    pub(crate) fn serves_now(&self) -> u64 {
        self.lender.engine.serves_now()
    }

    pub(crate) fn node(&self) -> NodeId {
        self.lock().record.node
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_space(&self, size: u64) -> Outcome<()> {
        let Ok(shm) = statvfs("/dev/shm") else { return Ok(()) };
        let capacity = shm.blocks() * shm.fragment_size();
        let available = shm.blocks_available() * shm.fragment_size();
        // Pages are taken when they are first written, so what was lent before counts in full.
        let lent: u64 = self.lock().record.segments.iter().filter(|kept| kept.owned).map(|kept| kept.size).sum();
        let left = available.min(capacity.saturating_sub(lent));
        if size <= left {
            return Ok(());
        }
        if size > capacity {
            let (size, capacity) = (ByteSize(size), ByteSize(capacity));
            return Err(FaultCode::InvalidParams
                .with(format!("{size} can never be lent here: /dev/shm has {capacity} in all; enlarge it or lend less")));
        }
        let (size, left) = (ByteSize(size), ByteSize(left));
        Err(FaultCode::NoSpace.with(format!("{size} cannot be lent: /dev/shm has room for {left} more; enlarge it or lend less")))
    }

    fn lend(&self, made: Vec<Made>, export: Export) -> Outcome<Vec<SegmentDesc>> {
        let node = self.node();
        let mut lent: Vec<Lent> = Vec::with_capacity(made.len());
        let exported = made.iter().try_for_each(|(kept, memory)| {
            lent.push(Lent { desc: export(&self.lender, kept, memory, node)?, memory: Arc::clone(memory), ending: false });
            Ok(())
        });
        let descs: Vec<SegmentDesc> = lent.iter().map(|lent| lent.desc.clone()).collect();
        let kept: Vec<Kept> = made.into_iter().map(|(kept, _)| kept).collect();
        if let Err(fault) = exported.and_then(|()| self.note(&kept, lent)) {
            descs.iter().for_each(|desc| self.lender.withdraw(desc.id));
            return Err(fault);
        }
        Ok(descs)
    }

    /// Writes down what was exported, unless some of the bytes are lent already.
    fn note(&self, made: &[Kept], lent: Vec<Lent>) -> Outcome<()> {
        let mut held = self.lock();
        if let Some((new, old)) = made.iter().find_map(|new| Some((new, held.record.segments.iter().find(|old| overlap(new, old))?))) {
            let told = format!(
                "bytes {}..{} of /dev/shm/{} are mounted already, as segment {}",
                old.offset,
                old.offset + old.size,
                new.object,
                old.id
            );
            return Err(FaultCode::SegmentExists.with(told));
        }
        let mut record = held.record.clone();
        record.segments.extend_from_slice(made);
        record.save(&self.dir)?;
        held.record = record;
        held.lent.extend(lent);
        Ok(())
    }
}

/// Offsets and sizes of the segments that `size` bytes are split into, none larger than `most` and none smaller than a page.
fn parts(size: u64, most: u64) -> Vec<(u64, u64)> {
    let (mut parts, mut at) = (Vec::new(), 0);
    while at < size {
        let left = size - at;
        // A tail that would be less than a page takes one from the part before it.
        let part = if left > most && left - most < PAGE { most - PAGE } else { left.min(most) };
        parts.push((at, part));
        at += part;
    }
    parts
}

fn keep(id: SegmentId, object: String, offset: u64, size: u64, owned: bool, wish: &Wish<'_>, memory: &Memory) -> Kept {
    let identity = memory.identity().clone();
    Kept {
        id,
        object,
        offset,
        size,
        owned,
        leaving: false,
        unannounced: true,
        protocol: wish.protocol,
        location: wish.location.to_owned(),
        identity,
    }
}

fn discard(made: &[Made]) {
    made.iter().for_each(|(kept, _)| unlink(&kept.object));
}

fn overlap(a: &Kept, b: &Kept) -> bool {
    let object = |kept: &Kept| (kept.identity.device, kept.identity.inode);
    object(a) == object(b) && a.offset < b.offset + b.size && b.offset < a.offset + a.size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_whole_once_and_are_never_too_small() {
        for most in [2 * PAGE, 3 * PAGE, 1 << 20] {
            for size in [PAGE, PAGE + 1, most - 1, most, most + 1, 2 * most, 2 * most + PAGE - 1, 2 * most + PAGE, 5 * most + 7] {
                let parts = parts(size, most);
                let mut at = 0;
                for (start, len) in &parts {
                    assert_eq!(*start, at, "{size} by {most}");
                    assert!((PAGE..=most).contains(len) && start % PAGE == 0, "{size} by {most}: {parts:?}");
                    at += len;
                }
                assert_eq!(at, size);
            }
        }
    }
}
