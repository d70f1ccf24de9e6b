//! What this member must remember beside the entries: raft's hard state, where the log starts, what is surely on disk.
//! One such record is written with every append, so each piece of the log says how much before it had been synced.

use super::entry::crc;

const MAGIC: [u8; 8] = *b"PRLNSTAT";
const VERSION: u32 = 1;
const FIELDS: usize = 8;
/// Magic, version, eight fields, crc-32c of all before it; little-endian.
pub(super) const RECORD_BYTES: usize = 8 + 4 + FIELDS * 8 + 4;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) term: u64,
    pub(super) vote: u64,
    pub(super) commit: u64,
    /// First and last index of the entries written together with this record; `first` is 0 when there were none.
    pub(super) first: u64,
    /// The last index in the log once this was written.
    pub(super) last: u64,
    /// Entries up to this index had been synced before this record was written.
    pub(super) synced: u64,
    /// The entry before the first one in the log: index and term.
    pub(super) cut_index: u64,
    pub(super) cut_term: u64,
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(RECORD_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for field in [self.term, self.vote, self.commit, self.first, self.last, self.synced, self.cut_index, self.cut_term] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        let sum = crc(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Total: any bytes give a record or say what is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or("the state record is cut short")?;
        let (version, _) = rest.split_first_chunk::<4>().ok_or("the state record is cut short")?;
        if *magic != MAGIC {
            return Err("the state record does not begin with its magic".into());
        }
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(format!("state record version {version}, this version reads {VERSION}"));
        }
        if bytes.len() != RECORD_BYTES || crc(&bytes[..RECORD_BYTES - 4]).to_le_bytes() != bytes[RECORD_BYTES - 4..] {
            return Err("the checksum of the state record does not match".into());
        }
        let mut fields = bytes[12..RECORD_BYTES - 4].as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b));
        let mut next = || fields.next().unwrap_or_default();
        Ok(Self {
            term: next(),
            vote: next(),
            commit: next(),
            first: next(),
            last: next(),
            synced: next(),
            cut_index: next(),
            cut_term: next(),
        })
    }
}

/// Every whole record in a stretch of raw bytes, in order, with where it begins.
fn scan(bytes: &[u8]) -> impl Iterator<Item = (usize, Record)> + '_ {
    let starts = bytes.windows(RECORD_BYTES).enumerate().filter(|(_, w)| w.starts_with(&MAGIC));
    starts.filter_map(|(at, w)| Record::decode(w).ok().map(|r| (at, r)))
}

/// The log ends in bytes that cannot be read: `tail` begins with the write that is broken. Says so when that write was once safely on
/// disk: then this is damage, not a torn write.
///
/// A write is torn when the machine stops in the middle of it; nothing after it was synced, because the next sync comes after the next
/// write. So when a whole record stands behind the hole and says that what lies in the hole had been synced, the disk lost it later.
pub(super) fn damage_in(tail: &[u8]) -> Option<String> {
    // The broken write's own record may be whole, and says nothing about itself. raft-engine begins a write with its length, shifted by
    // a byte, big-endian. Where that is lost, the first record is taken for the broken write's own, which errs toward torn.
    let length = tail.first_chunk::<8>().map(|b| u64::from_be_bytes(*b) >> 8).filter(|l| (1..tail.len() as u64).contains(l));
    let records: Vec<(usize, Record)> = scan(tail).filter(|(_, r)| r.first > 0).collect();
    let (at, first) = records.first()?;
    let is_own = length.is_none_or(|l| (*at as u64) < l);
    let lost = if is_own { first.first } else { first.first - 1 };
    let synced = records.iter().map(|(_, r)| r.synced).max()?;
    (synced >= lost).then(|| format!("the entry {lost} cannot be read, though entries up to {synced} had been synced"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(first: u64, synced: u64) -> Record {
        Record { term: 3, vote: 1, commit: 9, first, last: first, synced, cut_index: 4, cut_term: 2 }
    }

    #[test]
    fn a_record_survives_and_any_change_to_it_is_noticed() {
        let bytes = record(10, 8).encode();
        assert_eq!(Record::decode(&bytes).unwrap(), record(10, 8));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&damaged).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(Record::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_torn_write_is_told_from_damage() {
        let write = |record: Record| {
            let body = record.encode();
            [&((8 + body.len() as u64) << 8).to_be_bytes()[..], &body].concat()
        };
        let torn = [&b"half a write"[..], &[0; 500]].concat();
        assert_eq!(damage_in(&torn), None);
        // Torn before its record was.
        assert_eq!(damage_in(&write(record(10, 9))), None);
        // Lost in a power cut before any sync: entry 10 is gone, 11 happened to reach the disk.
        let unsynced = [write(record(10, 9)), write(record(11, 9))].concat();
        assert_eq!(damage_in(&unsynced), None);
        let mut damaged = [write(record(10, 9)), write(record(11, 10))].concat();
        assert!(damage_in(&damaged).unwrap().contains("entry 10 "));
        damaged[30] ^= 1;
        assert!(damage_in(&damaged).unwrap().contains("entry 10 "));
        // With its length lost too, the next sync after it tells.
        damaged.splice(..8, [0; 8]);
        assert_eq!(damage_in(&damaged), None);
        damaged.extend(write(record(12, 11)));
        assert!(damage_in(&damaged).unwrap().contains("entry 11 "));
    }
}
