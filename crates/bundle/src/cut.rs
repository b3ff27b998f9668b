//! Cutting a file into frames where its content says so.
//!
//! Only multiples of 4 KiB are places to cut, so blocks are judged one by one: a block whose own
//! hash is below a threshold is a frame's last. What is inserted or removed therefore changes the
//! frame it is in, and seldom the next. Below the average length the threshold is low, above it
//! high, which keeps lengths near the average (the idea is FastCDC's). Runs of zeros are frames of
//! their own: holes.

use crate::table::{FRAME_BYTES_MAX, ZERO_BYTES_MAX};
use crate::{BLOCK_BYTES, Result};

/// A run of zeros inside data becomes a frame of its own from this length on.
const ZERO_RUN_BYTES_MIN: u64 = 64 << 10;

/// What becomes a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Data(Vec<u8>),
    Zero(u64),
}

/// Cuts one file, whose blocks it is given in order.
pub(crate) struct Cutter<'s> {
    min: usize,
    average: usize,
    max: usize,
    /// Offsets in the file where a frame must begin, ascending.
    seams: &'s [u64],
    at: u64,
    data: Vec<u8>,
    /// Zeros that follow `data` and are not part of anything yet.
    zeros: u64,
}

impl<'s> Cutter<'s> {
    pub(crate) fn new(average_bytes: u32, seams: &'s [u64]) -> Self {
        let block = BLOCK_BYTES as u32;
        let average = average_bytes.clamp(4 * block, FRAME_BYTES_MAX) / block * block;
        Cutter {
            min: (average / 4) as usize,
            average: average as usize,
            max: average.saturating_mul(4).min(FRAME_BYTES_MAX) as usize,
            seams,
            at: 0,
            data: Vec::new(),
            zeros: 0,
        }
    }

    /// Takes the next block; only the file's last one may be shorter than [`BLOCK_BYTES`].
    pub(crate) fn block(
        &mut self,
        block: &[u8],
        emit: &mut impl FnMut(Cut) -> Result<()>,
    ) -> Result<()> {
        while let Some((&seam, rest)) = self.seams.split_first()
            && seam <= self.at
        {
            self.seams = rest;
            if self.at > 0 {
                self.finish(emit)?;
            }
        }
        self.at += block.len() as u64;
        if is_zero(block) {
            self.zeros += block.len() as u64;
            return Ok(());
        }
        self.settle_zeros(block.len(), emit)?;
        self.data.extend_from_slice(block);
        let length = self.data.len();
        if length >= self.max || (length >= self.min && hash(block) <= self.threshold(length)) {
            self.emit_data(emit)?;
        }
        Ok(())
    }

    /// Ends the last frame.
    pub(crate) fn finish(&mut self, emit: &mut impl FnMut(Cut) -> Result<()>) -> Result<()> {
        let is_short = self.zeros < ZERO_RUN_BYTES_MIN;
        if is_short && !self.data.is_empty() && self.data.len() as u64 + self.zeros <= self.max() {
            self.data.resize(self.data.len() + self.zeros as usize, 0);
            self.zeros = 0;
        }
        self.emit_data(emit)?;
        self.emit_zeros(emit)
    }

    /// Decides what the zeros before a block of `next` bytes belong to.
    fn settle_zeros(
        &mut self,
        next: usize,
        emit: &mut impl FnMut(Cut) -> Result<()>,
    ) -> Result<()> {
        let length = self.data.len() as u64 + self.zeros + next as u64;
        if self.data.is_empty() || self.zeros >= ZERO_RUN_BYTES_MIN || length > self.max() {
            self.emit_data(emit)?;
            return self.emit_zeros(emit);
        }
        self.data.resize(self.data.len() + self.zeros as usize, 0);
        self.zeros = 0;
        Ok(())
    }

    fn emit_data(&mut self, emit: &mut impl FnMut(Cut) -> Result<()>) -> Result<()> {
        if self.data.is_empty() {
            return Ok(());
        }
        emit(Cut::Data(std::mem::take(&mut self.data)))
    }

    fn emit_zeros(&mut self, emit: &mut impl FnMut(Cut) -> Result<()>) -> Result<()> {
        while self.zeros > 0 {
            let bytes = self.zeros.min(u64::from(ZERO_BYTES_MAX));
            self.zeros -= bytes;
            emit(Cut::Zero(bytes))?;
        }
        Ok(())
    }

    /// Takes a used buffer for the next frame, where it has none.
    pub(crate) fn reuse(&mut self, spare: &mut Vec<Vec<u8>>) {
        if self.data.capacity() == 0
            && let Some(mut buffer) = spare.pop()
        {
            buffer.clear();
            self.data = buffer;
        }
    }

    fn max(&self) -> u64 {
        self.max as u64
    }

    /// Hashes up to this end a frame of `length` bytes.
    fn threshold(&self, length: usize) -> u64 {
        let blocks = (self.average / BLOCK_BYTES as usize) as u64;
        if length < self.average { u64::MAX / 4 / blocks * 3 } else { u64::MAX / blocks * 4 }
    }
}

/// Most blocks differ from zero in their first bytes, so look there before the rest.
fn is_zero(block: &[u8]) -> bool {
    let head = block.len().min(16);
    block[..head].iter().all(|&b| b == 0) && block.iter().all(|&b| b == 0)
}

/// A hash of a block's bytes: four lanes, so that a processor works on all at once. It decides
/// nothing but where to cut, so it need not resist anybody.
fn hash(block: &[u8]) -> u64 {
    const LANES: usize = 4;
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut lanes = [1u64, 2, 3, 4];
    let (words, tail) = block.as_chunks::<8>();
    let (groups, rest) = words.as_chunks::<LANES>();
    for group in groups {
        for (lane, word) in lanes.iter_mut().zip(group) {
            *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(ODD).rotate_left(29);
        }
    }
    let rest = rest.iter().map(|word| u64::from_le_bytes(*word));
    let all = lanes.into_iter().chain(rest).chain(tail.iter().map(|&byte| u64::from(byte)));
    all.fold(block.len() as u64, |hash, word| {
        let hash = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^ hash >> 33
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AVERAGE: u32 = 64 << 10;

    fn noise(bytes: usize, mut state: u64) -> Vec<u8> {
        let word = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let mut noise: Vec<u8> = std::iter::repeat_with(word).flatten().take(bytes + 8).collect();
        noise.truncate(bytes);
        noise
    }

    fn cut(content: &[u8], seams: &[u64]) -> Vec<Cut> {
        let mut cuts = Vec::new();
        let mut cutter = Cutter::new(AVERAGE, seams);
        let mut emit = |cut| {
            cuts.push(cut);
            Ok(())
        };
        for block in content.chunks(BLOCK_BYTES as usize) {
            cutter.block(block, &mut emit).unwrap();
        }
        cutter.finish(&mut emit).unwrap();
        cuts
    }

    fn lengths(cuts: &[Cut]) -> Vec<u64> {
        let length = |cut: &Cut| match cut {
            Cut::Data(data) => data.len() as u64,
            Cut::Zero(bytes) => *bytes,
        };
        cuts.iter().map(length).collect()
    }

    #[test]
    fn lengths_keep_to_their_limits_and_near_their_average() {
        let content = noise(40 << 20, 7);
        let cuts = cut(&content, &[]);
        let joined: Vec<u8> = cuts
            .iter()
            .flat_map(|cut| match cut {
                Cut::Data(data) => data.clone(),
                Cut::Zero(_) => panic!("noise has no holes"),
            })
            .collect();
        assert!(joined == content);
        let (last, others) = cuts.split_last().unwrap();
        assert!(matches!(last, Cut::Data(_)));
        let (min, max) = (u64::from(AVERAGE) / 4, u64::from(AVERAGE) * 4);
        assert!(lengths(others).iter().all(|n| n % BLOCK_BYTES == 0 && (min..=max).contains(n)));
        let mean = content.len() / cuts.len();
        assert!((48 << 10..80 << 10).contains(&mean), "{mean}");
    }

    #[test]
    fn what_is_inserted_changes_few_frames() {
        let old = noise(20 << 20, 3);
        let mut new = old.clone();
        // Four files of one to nine blocks among the others.
        for (i, at) in [1 << 20, 7 << 20, 8 << 20, 15 << 20].into_iter().enumerate() {
            let file = noise((1 + 2 * i) * BLOCK_BYTES as usize, 99 + i as u64);
            new.splice(at..at, file);
        }
        let known: std::collections::HashSet<Vec<u8>> =
            cut(&old, &[]).into_iter().filter_map(data).collect();
        let cuts: Vec<_> = cut(&new, &[]).into_iter().filter_map(data).collect();
        let fresh = cuts.iter().filter(|cut| !known.contains(*cut)).count();
        assert!((4..=20).contains(&fresh), "{fresh} of {} frames are new", cuts.len());
    }

    fn data(cut: Cut) -> Option<Vec<u8>> {
        match cut {
            Cut::Data(data) => Some(data),
            Cut::Zero(_) => None,
        }
    }

    #[test]
    fn holes_and_seams_end_frames() {
        let block = BLOCK_BYTES as usize;
        let mut content = vec![0; 100 * block];
        content[50 * block] = 1;
        content[52 * block] = 1;
        let blocks = |cuts: &[Cut]| -> Vec<(bool, u64)> {
            let is_zero = cuts.iter().map(|cut| matches!(cut, Cut::Zero(_)));
            is_zero.zip(lengths(cuts).into_iter().map(|n| n / BLOCK_BYTES)).collect()
        };
        // The hole of one block inside is too short for a frame.
        assert_eq!(blocks(&cut(&content, &[])), [(true, 50), (false, 3), (true, 47)]);
        let seams = [0, 10 * BLOCK_BYTES, 51 * BLOCK_BYTES, 52 * BLOCK_BYTES, 60 * BLOCK_BYTES];
        assert_eq!(
            blocks(&cut(&content, &seams)),
            [(true, 10), (true, 40), (false, 1), (true, 1), (false, 8), (true, 40)]
        );
        assert_eq!(cut(&[], &[]), []);
        assert_eq!(cut(&[0, 0, 1], &[]), [Cut::Data(vec![0, 0, 1])]);
        assert_eq!(cut(&[0, 0, 0], &[]), [Cut::Zero(3)]);
    }
}
