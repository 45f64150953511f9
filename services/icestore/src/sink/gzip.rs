//! A gzip file that grows without a compressor of its own.
//!
//! Lines are collected in a plain tail. A full tail becomes a finished deflate block, ended by a sync
//! flush so that blocks can follow each other, as in pigz; so all files of a lane share one compressor,
//! where one each would cost 368 KiB. At the end the blocks are one gzip member.
//!
//! Tails are an eighth of the file, within 8 and 128 KiB: a small file takes little memory, because most
//! of it is compressed already, and a large one gets the blocks that compress best.

use std::io;
use std::ops::RangeInclusive;

use bytes::Bytes;
use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress, Status};

/// Least and most plain bytes that make a block.
const BLOCK_BYTES: RangeInclusive<usize> = 8 * 1024..=128 * 1024;
/// Share of a file that is a block, within the above.
const BLOCK_SHARE: usize = 8;
/// RFC 1952: magic, deflate, no flags, no time, no extra flags, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// Check sum and length.
const TRAILER_BYTES: usize = 8;

/// What all files of a lane share.
#[derive(Debug)]
pub struct Compressor {
    compress: Compress,
    /// The block that was compressed last, so that files grow by what it takes and no more.
    block: Vec<u8>,
}

impl Compressor {
    /// A compressor of a level from 1 (fast) to 9 (small).
    #[must_use]
    pub fn new(level: u32) -> Self {
        Self { compress: Compress::new(Compression::new(level), false), block: Vec::new() }
    }

    /// Compresses `plain` on its own.
    fn compress(&mut self, plain: &[u8], flush: FlushCompress) -> io::Result<&[u8]> {
        let Self { compress, block } = self;
        compress.reset();
        block.clear();
        loop {
            let read = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
            // Room for most blocks at once; the loop takes care of the others.
            block.reserve((plain.len() - read) / 2 + 64);
            let status = compress.compress_vec(&plain[read..], block, flush)?;
            let is_read = compress.total_in() == plain.len() as u64;
            let is_flushed = status == Status::StreamEnd || block.len() < block.capacity();
            let is_done = match flush {
                FlushCompress::Finish => status == Status::StreamEnd,
                _ => is_read && is_flushed,
            };
            if is_done {
                return Ok(block);
            }
        }
    }
}

/// Appends to what may be one of thousands: its room grows by an eighth and not to the double.
fn append(vec: &mut Vec<u8>, bytes: &[u8]) {
    if vec.capacity() - vec.len() < bytes.len() {
        vec.reserve_exact(bytes.len().max(vec.len() / 8));
    }
    vec.extend_from_slice(bytes);
}

/// A file that grows.
#[derive(Debug)]
pub(super) struct Growing {
    /// The header and all finished blocks.
    blocks: Vec<u8>,
    tail: Vec<u8>,
    check: Hasher,
    plain_bytes: u64,
}

impl Default for Growing {
    fn default() -> Self {
        Self { blocks: HEADER.to_vec(), tail: Vec::new(), check: Hasher::new(), plain_bytes: 0 }
    }
}

impl Growing {
    /// Appends a line.
    pub(super) fn write(&mut self, line: &[u8], compressor: &mut Compressor) -> io::Result<()> {
        if !self.tail.is_empty() && self.tail.len() + line.len() > self.block_bytes() {
            append(&mut self.blocks, compressor.compress(&self.tail, FlushCompress::Sync)?);
            self.tail = Vec::new();
        }
        append(&mut self.tail, line);
        self.check.update(line);
        self.plain_bytes += line.len() as u64;
        Ok(())
    }

    /// Plain bytes that make the next block.
    fn block_bytes(&self) -> usize {
        let share = usize::try_from(self.plain_bytes).unwrap_or(usize::MAX) / BLOCK_SHARE;
        share.clamp(*BLOCK_BYTES.start(), *BLOCK_BYTES.end())
    }

    /// Bytes in memory.
    pub(super) fn memory(&self) -> usize {
        self.blocks.capacity() + self.tail.capacity()
    }

    /// The whole file.
    pub(super) fn finish(mut self, compressor: &mut Compressor) -> Bytes {
        match compressor.compress(&self.tail, FlushCompress::Finish) {
            Ok(last) => {
                self.blocks.reserve_exact(last.len() + TRAILER_BYTES);
                self.blocks.extend_from_slice(last);
            }
            // Compressing into memory has no way to fail; still, nothing may be lost: stored blocks
            // need no compressor.
            Err(_) => store(&self.tail, &mut self.blocks),
        }
        self.blocks.extend_from_slice(&self.check.finalize().to_le_bytes());
        // RFC 1952: the length modulo 2^32.
        let length = u32::try_from(self.plain_bytes & u64::from(u32::MAX)).unwrap_or_default();
        self.blocks.extend_from_slice(&length.to_le_bytes());
        self.blocks.into()
    }
}

/// RFC 1951, 3.2.4: stored blocks of at most 65,535 bytes, the last one marked as final.
fn store(plain: &[u8], out: &mut Vec<u8>) {
    const MOST: usize = 65_535;
    let mut chunks = plain.chunks(MOST).peekable();
    if chunks.peek().is_none() {
        out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    }
    while let Some(chunk) = chunks.next() {
        let length = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
        out.push(u8::from(chunks.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(chunk);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    /// Reads a file as one member, and nothing after it.
    fn read(file: &[u8]) -> Vec<u8> {
        let mut decoder = GzDecoder::new(file);
        let mut plain = Vec::new();
        decoder.read_to_end(&mut plain).unwrap();
        assert!(decoder.into_inner().is_empty(), "one member");
        plain
    }

    #[test]
    fn files_that_share_a_compressor_do_not_mix() {
        let mut compressor = Compressor::new(6);
        let (mut one, mut two) = (Growing::default(), Growing::default());
        let line = |name: &str, index: usize| format!("{name} line {index}\n").into_bytes();

        for index in 0..30_000 {
            one.write(&line("one", index), &mut compressor).unwrap();
            two.write(&line("two", index), &mut compressor).unwrap();
        }
        let (one, two) = (one.finish(&mut compressor), two.finish(&mut compressor));

        let expected = |name| (0..30_000).flat_map(|index| line(name, index)).collect::<Vec<_>>();
        assert_eq!(read(&one), expected("one"));
        assert_eq!(read(&two), expected("two"));
        assert!(one.len() < expected("one").len() / 3);
    }

    #[test]
    fn a_small_file_takes_little_more_memory_than_its_compressed_lines() {
        let mut compressor = Compressor::new(1);
        let mut file = Growing::default();
        let (mut plain, mut most_tail) = (0, 0);

        for index in 0..64_u64 {
            let line = format!("{{\"number\":{index},\"value\":{}}}{:900}\n", index * 7_919, "");
            plain += line.len();
            file.write(line.as_bytes(), &mut compressor).unwrap();
            most_tail = most_tail.max(file.tail.capacity());
        }

        assert!(plain > 55_000, "{plain}");
        assert!(most_tail <= BLOCK_BYTES.start() * 9 / 8, "{most_tail}");
        assert!(file.memory() < 12_000, "{}", file.memory());
        assert!(file.block_bytes() == *BLOCK_BYTES.start());
    }

    #[test]
    fn blocks_grow_with_the_file() {
        let mut compressor = Compressor::new(1);
        let mut file = Growing::default();

        for (written, block) in [(1, 8), (80, 10), (1_000, 125), (4_000, 128)] {
            while file.plain_bytes < written * 1024 {
                file.write(&[b'x'; 1024], &mut compressor).unwrap();
            }
            assert_eq!(file.block_bytes(), block * 1024, "after {written} KiB");
        }
    }

    #[test]
    fn stored_blocks_are_a_valid_end() {
        for size in [0, 1, 65_535, 65_536, 200_000] {
            let plain = vec![b'x'; size];
            let mut file = HEADER.to_vec();
            store(&plain, &mut file);
            file.extend_from_slice(&crc32fast::hash(&plain).to_le_bytes());
            file.extend_from_slice(&(size as u32).to_le_bytes());

            assert_eq!(read(&file), plain, "{size}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60_000), 0..12),
            level in 1..=9_u32,
        ) {
            let mut compressor = Compressor::new(level);
            let mut file = Growing::default();

            for line in &lines {
                file.write(line, &mut compressor).unwrap();
            }

            prop_assert_eq!(read(&file.finish(&mut compressor)), lines.concat());
        }
    }
}
