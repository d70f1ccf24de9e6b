//! The end of a log that cannot be read: a last write that was torn, or damage with whole writes behind it.

use super::record::{RECORD_BYTES, Record, scan};

/// Raft-engine begins a write with its length shifted by a byte, and with where its footer begins; big-endian, 8 bytes each.
/// Our record lies in the footer, which ends in its crc-32: xor the file's number in files of version 2, plain in version 1, which a file
/// becomes when its header was torn.
const HEADER_BYTES: usize = 16;
const SUM_BYTES: usize = 4;
/// A footer holds one record and a few bytes for each entry.
const FOOTER_BYTES_MAX: usize = 1 << 20;

/// `tail`, of the log file of this number, begins with a write that cannot be read. Says so when a whole one lies behind it.
///
/// A write is torn when the process or the machine stops in the middle of it, and then it is the last: the next one begins only when
/// it is done, and space ahead of it is zero. So with a write behind it, something once handed to the kernel is gone. A power cut can do
/// that too, to writes that no sync had covered; nothing tells that from other damage, so both are told.
pub(super) fn damage_in(tail: &[u8], file: u32) -> Option<String> {
    let records: Vec<(usize, Record)> = scan(tail).collect();
    let (at, first) = records.first()?;
    // The broken write's own record may be whole, and proves nothing.
    let is_later = records.len() > 1 || lies_behind_first(tail, *at) || begins_later(tail, *at, file);
    let (last, synced) = records.iter().fold((first.last, first.synced), |(l, s), (_, r)| (l.max(r.last), s.max(r.synced)));
    is_later
        .then(|| format!("a write cannot be read, though whole ones lie behind it, up to entry {last} ({synced} entries had been synced)"))
}

fn footer_sum(bytes: &[u8]) -> u32 {
    // CRC-32 is at most 32 bits wide; the function answers in 64.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}

/// Length and beginning of the footer, when bytes can be the header of a write.
fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    let (words, _) = bytes.get(..HEADER_BYTES)?.as_chunks::<8>();
    let [length, footer] = [words[0], words[1]].map(u64::from_be_bytes);
    let (length, footer) = (usize::try_from(length >> 8).ok()?, usize::try_from(footer).ok()?);
    (HEADER_BYTES <= footer && footer.checked_add(RECORD_BYTES + SUM_BYTES)? <= length).then_some((length, footer))
}

/// By its own length, the first write ends before the record at `at`.
fn lies_behind_first(tail: &[u8], at: usize) -> bool {
    header(tail).is_some_and(|(length, _)| length <= at)
}

/// The record at `at` belongs to a whole write that begins later than the first.
fn begins_later(tail: &[u8], at: usize, file: u32) -> bool {
    (1..at.saturating_sub(HEADER_BYTES)).any(|begin| {
        let Some((length, footer)) = header(&tail[begin..]) else { return false };
        let (footer, Some(end)) = (begin.saturating_add(footer), begin.checked_add(length)) else { return false };
        let holds = footer <= at && at + RECORD_BYTES + SUM_BYTES <= end && end <= tail.len() && end - footer <= FOOTER_BYTES_MAX;
        holds && {
            let (body, sum) = tail[footer..end].split_at(end - footer - SUM_BYTES);
            [footer_sum(body) ^ file, footer_sum(body)].iter().any(|s| s.to_le_bytes() == *sum)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u32 = 7;

    fn write(index: u64, synced: u64) -> Vec<u8> {
        let record = Record { term: 3, vote: 1, commit: 9, first: index, last: index, synced, cut_index: 4, cut_term: 2 };
        let entries = b"an entry and its sum";
        let footer = [b"items", &record.encode()[..], b"more"].concat();
        let sum = footer_sum(&footer) ^ FILE;
        let begin = HEADER_BYTES + entries.len();
        let length = ((begin + footer.len() + SUM_BYTES) as u64) << 8;
        [&length.to_be_bytes()[..], &(begin as u64).to_be_bytes(), entries, &footer, &sum.to_le_bytes()].concat()
    }

    #[test]
    fn a_torn_last_write_is_no_damage_wherever_it_was_torn() {
        let whole = write(10, 9);
        for cut in 0..whole.len() {
            for fill in [0, 0xa5] {
                let torn = [&whole[..cut], &vec![fill; whole.len() - cut], &[fill; 500]].concat();
                assert_eq!(damage_in(&torn, FILE), None, "cut at {cut}, filled with {fill}");
            }
            assert_eq!(damage_in(&whole[..cut], FILE), None, "cut at {cut}");
        }
        assert_eq!(damage_in(&[0x50; 5000], FILE), None);
    }

    #[test]
    fn a_whole_write_behind_is_damage_whatever_was_damaged() {
        let (first, second) = (write(10, 3), write(11, 3));
        for at in 0..first.len() {
            for len in [1, 2, 20, first.len() - at] {
                for fill in [0, 0xa5, 0xff] {
                    let mut damaged = [&first[..], &second, &[0; 100]].concat();
                    damaged[at..(at + len).min(first.len())].fill(fill);
                    let said = damage_in(&damaged, FILE).unwrap_or_else(|| panic!("{len} bytes at {at} filled with {fill}"));
                    assert!(said.contains("up to entry 11 (3 entries"), "{said}");
                }
            }
        }
        // Behind a first write whose length is known, a record alone is enough.
        let mut damaged = [&first[..], &second].concat();
        damaged[HEADER_BYTES + 20..first.len()].fill(1);
        *damaged.last_mut().unwrap() ^= 1;
        assert!(damage_in(&damaged, FILE).is_some());
    }
}
