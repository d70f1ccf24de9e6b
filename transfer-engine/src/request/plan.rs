//! Request in, pieces out: each small enough for one frame. Pure: no clock, no socket, no thread.

use crate::fault::{Failure, TransferErrorKind};
use crate::request::LocalSlice;
use perilune_protocol::Extent;
use smallvec::SmallVec;

/// The most extents, and the most local slices, of one piece.
pub(crate) const PARTS_MAX: usize = 4096;
/// The most bytes of one piece, so that a huge request does not block a connection for long.
pub(crate) const BYTES_MAX: u64 = 16 << 20;

/// The most extents of a request.
pub(crate) const REQUEST_PARTS_MAX: usize = 1 << 20;

/// Most pieces have one extent and one local slice, and no memory of their own for them.
pub(crate) type Parts<T> = SmallVec<[T; 1]>;

/// What one frame moves: as many bytes in `extents` as in `local`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) extents: Parts<Extent>,
    pub(crate) local: Parts<LocalSlice>,
    pub(crate) bytes: u64,
}

/// Cuts a request into pieces, in order. Empty extents and slices count for nothing; a request of no bytes has no piece.
pub(crate) fn cut(extents: &[Extent], local: &[LocalSlice], mut take: impl FnMut(Piece)) -> Result<(), Failure> {
    // Most requests are one piece as they stand.
    if let ([extent], [slice]) = (extents, local)
        && (1..=BYTES_MAX).contains(&extent.len)
        && extent.len == slice.len
    {
        take(Piece { extents: Parts::from_buf([*extent]), local: Parts::from_buf([*slice]), bytes: extent.len });
        return Ok(());
    }
    let wanted = sum(extents.iter().map(|extent| extent.len));
    let given = sum(local.iter().map(|slice| slice.len));
    let (Some(bytes), true) = (wanted, wanted == given) else {
        let say = |n: Option<u64>| n.map_or_else(|| "more than 2^64".to_owned(), |n| n.to_string());
        let cause = format!("the extents have {} bytes, the local buffers {}", say(wanted), say(given));
        return Err(Failure::new(TransferErrorKind::BadRequest, cause));
    };
    let (extents, local) = (extents.iter().copied().filter(|extent| extent.len > 0), local.iter().copied().filter(|slice| slice.len > 0));
    if bytes > BYTES_MAX || extents.clone().count() > PARTS_MAX || local.clone().count() > PARTS_MAX {
        cut_large(extents, local, take);
    } else if bytes > 0 {
        take(Piece { extents: extents.collect(), local: local.collect(), bytes });
    }
    Ok(())
}

/// What a notice is on its way: one piece without bytes.
pub(crate) fn notice(extents: &[Extent], local: &[LocalSlice]) -> Result<Piece, Failure> {
    if extents.is_empty() && local.is_empty() {
        return Ok(Piece::default());
    }
    Err(Failure::new(TransferErrorKind::BadRequest, "a notice carries a number and no bytes: it has neither extents nor local buffers"))
}

fn cut_large(extents: impl Iterator<Item = Extent>, local: impl Iterator<Item = LocalSlice>, mut take: impl FnMut(Piece)) {
    let mut piece = Piece::default();
    let (mut extents, mut local) = (extents.peekable(), local.peekable());
    while let (Some(extent), Some(slice)) = (extents.peek_mut(), local.peek_mut()) {
        // The longest run that ends neither extent, slice nor piece.
        let run = extent.len.min(slice.len).min(BYTES_MAX - piece.bytes);
        push_extent(&mut piece.extents, Extent { offset: extent.offset, len: run });
        push_slice(&mut piece.local, LocalSlice { base: slice.base, len: run });
        piece.bytes += run;
        (extent.offset, extent.len) = (extent.offset.wrapping_add(run), extent.len - run);
        (slice.base, slice.len) = (slice.base.wrapping_add(run), slice.len - run);
        extents.next_if(|extent| extent.len == 0);
        local.next_if(|slice| slice.len == 0);
        if piece.bytes == BYTES_MAX || piece.extents.len() == PARTS_MAX || piece.local.len() == PARTS_MAX {
            take(std::mem::take(&mut piece));
        }
    }
    if piece.bytes > 0 {
        take(piece);
    }
}

fn push_extent(extents: &mut Parts<Extent>, next: Extent) {
    match extents.last_mut() {
        Some(last) if last.end() == Some(next.offset) => last.len += next.len,
        _ => extents.push(next),
    }
}

fn push_slice(slices: &mut Parts<LocalSlice>, next: LocalSlice) {
    match slices.last_mut() {
        Some(last) if last.base.checked_add(last.len) == Some(next.base) => last.len += next.len,
        _ => slices.push(next),
    }
}

fn sum(mut lens: impl Iterator<Item = u64>) -> Option<u64> {
    lens.try_fold(0u64, u64::checked_add)
}

/// The pieces of a request, for tests of those who get them.
#[cfg(test)]
pub(crate) fn pieces_of(extents: &[Extent], local: &[LocalSlice]) -> Result<Vec<Piece>, Failure> {
    let mut pieces = Vec::new();
    cut(extents, local, |piece| pieces.push(piece)).map(|()| pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(extents: &[Extent], local: &[LocalSlice]) -> Vec<(u64, u64)> {
        let remote = extents.iter().flat_map(|e| e.offset..e.offset + e.len);
        remote.zip(local.iter().flat_map(|s| s.base..s.base + s.len)).collect()
    }

    #[test]
    fn pieces_together_move_the_same_bytes() {
        let extents: Vec<_> = (0..9000).map(|i| Extent { offset: i * 10, len: 1 + i % 7 }).collect();
        let total: u64 = extents.iter().map(|e| e.len).sum();
        let local = vec![LocalSlice { base: 1 << 30, len: total - 5 }, LocalSlice { base: 7, len: 0 }, LocalSlice { base: 1000, len: 5 }];
        let whole = bytes_of(&extents, &[local[0], local[2]]);
        let pieces = pieces_of(&extents, &local).unwrap();
        assert!(pieces.len() >= 3);
        let parts: Vec<_> = pieces.iter().flat_map(|p| bytes_of(&p.extents, &p.local)).collect();
        assert_eq!(parts, whole);
        assert!(pieces.iter().all(|p| p.extents.len() <= PARTS_MAX && p.local.len() <= PARTS_MAX));
    }

    #[test]
    fn a_huge_range_is_cut_by_bytes_and_an_empty_one_vanishes() {
        let len = 2 * BYTES_MAX + 3;
        let pieces = pieces_of(&[Extent { offset: 5, len }], &[LocalSlice { base: 9, len }]).unwrap();
        assert_eq!(pieces.iter().map(|p| p.bytes).collect::<Vec<_>>(), [BYTES_MAX, BYTES_MAX, 3]);
        assert_eq!(pieces[2].extents[..], [Extent { offset: 5 + 2 * BYTES_MAX, len: 3 }]);
        assert!(pieces_of(&[Extent { offset: 5, len: 0 }], &[]).unwrap().is_empty());
    }

    #[test]
    fn lengths_that_disagree_are_refused() {
        for (extent, slice) in [(3, 5), (0, 2), (u64::MAX, 5)] {
            let refused =
                pieces_of(&[Extent { offset: 0, len: extent }, Extent { offset: 0, len: 1 }], &[LocalSlice { base: 1, len: slice }]);
            assert_eq!(refused.unwrap_err().kind, TransferErrorKind::BadRequest, "{extent} {slice}");
        }
    }
}
