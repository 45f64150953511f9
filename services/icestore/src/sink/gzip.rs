//! A gzip file that grows without a compressor of its own.
//!
//! Lines are collected in a plain tail. A tail of 128 KiB becomes a finished deflate block, ended by
//! a sync flush so that blocks can follow each other, as in pigz; so all files of a lane share one
//! compressor, where one each would cost 368 KiB. At the end the blocks are one gzip member.

use std::io;

use bytes::Bytes;
use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress, Status};

/// Plain bytes that make a block.
const BLOCK_BYTES: usize = 128 * 1024;
/// RFC 1952: magic, deflate, no flags, no time, no extra flags, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// Check sum and length.
const TRAILER_BYTES: usize = 8;

/// What all files of a lane share.
#[derive(Debug)]
pub struct Compressor(Compress);

impl Compressor {
    /// A compressor of a level from 1 (fast) to 9 (small).
    #[must_use]
    pub fn new(level: u32) -> Self {
        Self(Compress::new(Compression::new(level), false))
    }

    /// Appends `plain`, compressed on its own, to `out`.
    fn append(&mut self, plain: &[u8], out: &mut Vec<u8>, flush: FlushCompress) -> io::Result<()> {
        self.0.reset();
        loop {
            let read = usize::try_from(self.0.total_in()).unwrap_or(usize::MAX);
            // Room for most blocks at once; the loop takes care of the others.
            out.reserve((plain.len() - read) / 2 + 64);
            let status = self.0.compress_vec(&plain[read..], out, flush)?;
            let is_read = self.0.total_in() == plain.len() as u64;
            let is_flushed = status == Status::StreamEnd || out.len() < out.capacity();
            let is_done = match flush {
                FlushCompress::Finish => status == Status::StreamEnd,
                _ => is_read && is_flushed,
            };
            if is_done {
                return Ok(());
            }
        }
    }
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
        if !self.tail.is_empty() && self.tail.len() + line.len() > BLOCK_BYTES {
            compressor.append(&self.tail, &mut self.blocks, FlushCompress::Sync)?;
            self.tail.clear();
        }
        self.tail.extend_from_slice(line);
        self.check.update(line);
        self.plain_bytes += line.len() as u64;
        Ok(())
    }

    /// Bytes in memory.
    pub(super) fn memory(&self) -> usize {
        self.blocks.len() + self.tail.len()
    }

    /// The whole file.
    pub(super) fn finish(mut self, compressor: &mut Compressor) -> Bytes {
        let blocks_end = self.blocks.len();
        let finished = compressor.append(&self.tail, &mut self.blocks, FlushCompress::Finish);
        if finished.is_err() {
            // Compressing into memory has no way to fail; still, nothing may be lost: stored blocks
            // need no compressor.
            self.blocks.truncate(blocks_end);
            store(&self.tail, &mut self.blocks);
        }
        self.blocks.reserve_exact(TRAILER_BYTES);
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
