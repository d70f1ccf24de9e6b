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
pub(super) fn scan(bytes: &[u8]) -> impl Iterator<Item = (usize, Record)> + '_ {
    let starts = bytes.windows(RECORD_BYTES).enumerate().filter(|(_, w)| w.starts_with(&MAGIC));
    starts.filter_map(|(at, w)| Record::decode(w).ok().map(|r| (at, r)))
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
}
