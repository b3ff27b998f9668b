//! Which frames one request asks for.

use std::collections::VecDeque;
use std::ops::Range;

use bundle::{Digest, Frame, Outline};

/// A request is for at most so many bytes, unless one frame is longer.
const SPAN_BYTES_MAX: u64 = 1 << 20;
/// Bytes between two missing frames that are rather fetched than asked around: what holes and tar
/// headers take. A request of its own costs about as much.
const GAP_BYTES_MAX: u64 = 4 << 10;

/// A frame to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lot {
    /// Its number in the outline.
    pub(super) index: usize,
    /// Where in the packed file it begins.
    pub(super) at: u64,
    /// Its packed length.
    pub(super) bytes: u64,
    /// Of its packed bytes.
    pub(super) packed: Digest,
}

/// Frames that lie near each other, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) lots: Vec<Lot>,
}

impl Span {
    /// From the first byte of its first frame to the last of its last.
    pub(super) fn range(lots: &[Lot]) -> Range<u64> {
        let start = lots.first().map_or(0, |lot| lot.at);
        start..lots.last().map_or(0, |lot| lot.at + lot.bytes)
    }

    /// Bytes of its frames, without what lies between.
    pub(super) fn frame_bytes(&self) -> u64 {
        self.lots.iter().map(|lot| lot.bytes).sum()
    }
}

/// The frames `missing`, by their numbers in ascending order, as requests; as a single one where
/// `parts` can not be had.
pub(super) fn spans(outline: &Outline, missing: &[usize], parts: bool) -> VecDeque<Span> {
    let mut spans: VecDeque<Span> = VecDeque::new();
    for &index in missing {
        let piece = &outline.pieces()[index];
        let Frame::Data { packed, packed_bytes, .. } = piece.frame else { continue };
        let lot = Lot { index, at: piece.packed_at, bytes: u64::from(packed_bytes), packed };
        if let Some(last) = spans.back_mut()
            && (!parts || joins(Span::range(&last.lots), &lot))
        {
            last.lots.push(lot);
        } else {
            spans.push_back(Span { lots: vec![lot] });
        }
    }
    spans
}

fn joins(range: Range<u64>, lot: &Lot) -> bool {
    lot.at - range.end <= GAP_BYTES_MAX && lot.at + lot.bytes - range.start <= SPAN_BYTES_MAX
}
