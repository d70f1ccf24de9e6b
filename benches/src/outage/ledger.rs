//! What was acknowledged. Each object has one writer at a time, so what a reader may see is known exactly: at least the version that was
//! acknowledged before it asked, at most the last that was tried before it got its answer.

use crate::payload::Payload;
use crate::random::mix;
use perilune_protocol::ObjectKey;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a value that say which it is: object and version.
const HEAD: usize = 16;

pub(super) struct Ledger {
    objects: Vec<Object>,
    payload: Payload,
}

#[derive(Default)]
struct Object {
    /// The last version that a writer began to put. Relaxed would do for itself; `acked` of the same object is read and written around it.
    tried: AtomicU64,
    acked: AtomicU64,
    /// Held by its writer.
    writing: Mutex<()>,
}

/// What a value turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    /// The sentence says how.
    Wrong(&'static str),
}

impl Ledger {
    pub(super) fn new(objects: usize, size: usize, seed: u64) -> Self {
        Self { objects: (0..objects).map(|_| Object::default()).collect(), payload: Payload::new(seed, size - HEAD) }
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn key(at: usize) -> ObjectKey {
        ObjectKey::from(format!("outage/{at:08}").as_str())
    }

    /// Has `put` store the next version of an object; counts it as acknowledged when it says so.
    pub(super) fn write<E>(&self, at: usize, put: impl FnOnce(&ObjectKey, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let object = &self.objects[at];
        let _one = object.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let version = object.tried.fetch_add(1, Ordering::SeqCst) + 1;
        put(&Self::key(at), &self.value(at, version))?;
        object.acked.store(version, Ordering::SeqCst);
        Ok(())
    }

    /// To be asked before a read: the oldest version it may see.
    pub(super) fn acked(&self, at: usize) -> u64 {
        self.objects[at].acked.load(Ordering::SeqCst)
    }

    /// Judges what was read, `oldest` being [`Ledger::acked`] of before.
    pub(super) fn judge(&self, at: usize, oldest: u64, value: &[u8]) -> Verdict {
        let newest = self.objects[at].tried.load(Ordering::SeqCst);
        let Some((head, body)) = value.split_at_checked(HEAD) else { return Verdict::Wrong("it is too short") };
        let word = |n: usize| head[n * 8..][..8].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let (id, version) = (word(0), word(1));
        if id != at as u64 {
            return Verdict::Wrong("it is another object's");
        }
        if self.payload.first_wrong(Self::block(at, version), body).is_some() {
            return Verdict::Wrong("its bytes are damaged");
        }
        if version < oldest {
            return Verdict::Wrong("it is older than what was acknowledged before it was asked for");
        }
        if version > newest { Verdict::Wrong("nobody put it yet") } else { Verdict::Right }
    }

    fn value(&self, at: usize, version: u64) -> Vec<u8> {
        let mut value = vec![0; HEAD + self.payload.size()];
        value[..8].copy_from_slice(&(at as u64).to_le_bytes());
        value[8..HEAD].copy_from_slice(&version.to_le_bytes());
        self.payload.fill(Self::block(at, version), &mut value[HEAD..]);
        value
    }

    fn block(at: usize, version: u64) -> u64 {
        mix(at as u64 ^ mix(version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_read_is_right() {
        let ledger = Ledger::new(2, 64, 1);
        let mut first = Vec::new();
        let stored = ledger.write(0, |_, value| {
            first.extend_from_slice(value);
            Ok::<_, ()>(())
        });
        stored.unwrap();
        assert_eq!(ledger.judge(0, ledger.acked(0), &first), Verdict::Right);
        let before = ledger.acked(0);
        let mut second = Vec::new();
        let lost = ledger.write(0, |_, value| {
            second.extend_from_slice(value);
            Err("the answer was lost")
        });
        assert!(lost.is_err());
        for value in [&first, &second] {
            assert_eq!(ledger.judge(0, ledger.acked(0), value), Verdict::Right, "nobody knows whether the second was stored");
        }
        ledger.write(0, |_, _| Ok::<_, ()>(())).unwrap();
        assert_eq!(ledger.judge(0, before, &first), Verdict::Right, "asked for before the third was acknowledged");
        assert!(matches!(ledger.judge(0, ledger.acked(0), &first), Verdict::Wrong(why) if why.contains("older")));
        assert!(matches!(ledger.judge(1, 0, &first), Verdict::Wrong(why) if why.contains("another")));
        second[40] ^= 1;
        assert!(matches!(ledger.judge(0, 0, &second), Verdict::Wrong(why) if why.contains("damaged")));
        assert!(matches!(ledger.judge(0, 0, &ledger.value(0, 9)), Verdict::Wrong(why) if why.contains("yet")));
        assert!(matches!(ledger.judge(0, 0, &first[..9]), Verdict::Wrong(_)));
    }
}
