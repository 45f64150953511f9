//! Common part of growing files, for each compression.
//!
//! Lines are collected in a plain tail. A full tail becomes a finished block, so all files of a
//! lane share one compressor.
//!
//! A tail is an eighth of the file, but at least 4 and at most 128 KiB. A small file takes little
//! memory, because most of it is already compressed. A large file gets the blocks that compress
//! best.

use std::io;
use std::ops::RangeInclusive;

/// Minimum and maximum plain bytes of a block.
pub(super) const BLOCK_BYTES: RangeInclusive<usize> = 4 * 1024..=128 * 1024;
/// Divisor of the file's size that gives the size of a block, within these bounds.
const BLOCK_SHARE: usize = 8;

/// Makes finished blocks.
pub(super) trait Compress {
    /// Compresses a tail on its own.
    fn block(&mut self, plain: &[u8]) -> io::Result<&[u8]>;
}

/// Blocks of a file, and its tail.
#[derive(Debug, Default)]
pub(super) struct Growing {
    /// All finished blocks, after the header if the format has one.
    pub(super) blocks: Vec<u8>,
    pub(super) tail: Vec<u8>,
    plain_bytes: u64,
}

impl Growing {
    /// Creates a file that begins with a header.
    pub(super) fn with_header(header: &[u8]) -> Self {
        Self { blocks: header.to_vec(), ..Self::default() }
    }

    /// Appends a line.
    pub(super) fn write(&mut self, line: &[u8], compressor: &mut impl Compress) -> io::Result<()> {
        if !self.tail.is_empty() && self.tail.len() + line.len() > self.block_bytes() {
            append(&mut self.blocks, compressor.block(&self.tail)?);
            self.tail = Vec::new();
        }
        append(&mut self.tail, line);
        self.plain_bytes += line.len() as u64;
        Ok(())
    }

    /// Returns the plain bytes that make the next block.
    fn block_bytes(&self) -> usize {
        let share = usize::try_from(self.plain_bytes).unwrap_or(usize::MAX) / BLOCK_SHARE;
        share.clamp(*BLOCK_BYTES.start(), *BLOCK_BYTES.end())
    }

    /// Returns the bytes of all lines.
    pub(super) fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// Returns the bytes in memory.
    pub(super) fn memory(&self) -> usize {
        self.blocks.capacity() + self.tail.capacity()
    }
}

/// Appends to a buffer that may be one of thousands. So its capacity grows by an eighth, instead of
/// doubling.
pub(super) fn append(vec: &mut Vec<u8>, bytes: &[u8]) {
    if vec.capacity() - vec.len() < bytes.len() {
        vec.reserve_exact(bytes.len().max(vec.len() / 8));
    }
    vec.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Discards blocks.
    struct Nothing;

    impl Compress for Nothing {
        fn block(&mut self, _plain: &[u8]) -> io::Result<&[u8]> {
            Ok(&[])
        }
    }

    #[test]
    fn a_small_file_has_small_tails() {
        let mut file = Growing::default();
        let mut most_tail = 0;

        for _ in 0..30 {
            file.write(&[b'x'; 1000], &mut Nothing).unwrap();
            most_tail = most_tail.max(file.tail.capacity());
        }

        assert!(most_tail <= BLOCK_BYTES.start() * 9 / 8, "{most_tail}");
        assert!(file.block_bytes() == *BLOCK_BYTES.start());
    }

    #[test]
    fn blocks_grow_with_the_file() {
        let mut file = Growing::default();

        for (written, block) in [(1, 4), (80, 10), (1_000, 125), (4_000, 128)] {
            while file.plain_bytes() < written * 1024 {
                file.write(&[b'x'; 1024], &mut Nothing).unwrap();
            }
            assert_eq!(file.block_bytes(), block * 1024, "after {written} KiB");
        }
    }
}
