//! A gzip file that grows without its own compressor.
//!
//! A full tail becomes a finished deflate block. A sync flush ends the block, so that other blocks
//! can follow it, as in pigz. A compressor for each file would take 368 KiB. At the end, all blocks
//! form one gzip member.

use std::io;

use bytes::Bytes;
use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress, Status};

use super::growing::{self, Growing};

/// Header of RFC 1952: magic, deflate, no flags, no time, no extra flags, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// Bytes of the checksum and the length at the end.
const TRAILER_BYTES: usize = 8;

/// State that all files of a lane share.
#[derive(Debug)]
pub(super) struct GzipCompressor {
    compress: Compress,
    /// The block that was compressed last. Files copy it, so they grow by its size and no more.
    block: Vec<u8>,
}

impl GzipCompressor {
    /// Creates a compressor with a level from 1 (fast) to 9 (small).
    pub(super) fn new(level: u32) -> Self {
        Self { compress: Compress::new(Compression::new(level), false), block: Vec::new() }
    }

    /// Compresses `plain` independently of other data.
    fn compress(&mut self, plain: &[u8], flush: FlushCompress) -> io::Result<&[u8]> {
        let Self { compress, block } = self;
        compress.reset();
        block.clear();
        loop {
            let read = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
            // This is enough room for most blocks. The loop handles the others.
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

impl growing::Compress for GzipCompressor {
    fn block(&mut self, plain: &[u8]) -> io::Result<&[u8]> {
        self.compress(plain, FlushCompress::Sync)
    }
}

/// A growing file.
#[derive(Debug)]
pub(super) struct GzipFile {
    growing: Growing,
    check: Hasher,
}

impl Default for GzipFile {
    fn default() -> Self {
        Self { growing: Growing::with_header(&HEADER), check: Hasher::new() }
    }
}

impl GzipFile {
    /// Appends a line.
    pub(super) fn write(&mut self, line: &[u8], compressor: &mut GzipCompressor) -> io::Result<()> {
        self.growing.write(line, compressor)?;
        self.check.update(line);
        Ok(())
    }

    /// Returns the bytes in memory.
    pub(super) fn memory(&self) -> usize {
        self.growing.memory()
    }

    /// Ends the file, and returns all of it.
    pub(super) fn finish(self, compressor: &mut GzipCompressor) -> Bytes {
        let plain_bytes = self.growing.plain_bytes();
        let Growing { mut blocks, tail, .. } = self.growing;
        match compressor.compress(&tail, FlushCompress::Finish) {
            Ok(last) => {
                blocks.reserve_exact(last.len() + TRAILER_BYTES);
                blocks.extend_from_slice(last);
            }
            // Compressing into memory cannot fail. If it still does, nothing may be lost: stored
            // blocks need no compressor.
            Err(_) => store(&tail, &mut blocks),
        }
        blocks.extend_from_slice(&self.check.finalize().to_le_bytes());
        // RFC 1952: the length is modulo 2^32.
        let length = u32::try_from(plain_bytes & u64::from(u32::MAX)).unwrap_or_default();
        blocks.extend_from_slice(&length.to_le_bytes());
        blocks.into()
    }
}

/// Writes stored blocks of at most 65,535 bytes, the last one marked as final (RFC 1951, 3.2.4).
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

    /// Reads a file as one member with nothing after it.
    fn read(file: &[u8]) -> Vec<u8> {
        let mut decoder = GzDecoder::new(file);
        let mut plain = Vec::new();
        decoder.read_to_end(&mut plain).unwrap();
        assert!(decoder.into_inner().is_empty(), "one member");
        plain
    }

    #[test]
    fn files_that_share_a_compressor_do_not_mix() {
        let mut compressor = GzipCompressor::new(6);
        let (mut one, mut two) = (GzipFile::default(), GzipFile::default());
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
        let mut compressor = GzipCompressor::new(1);
        let mut file = GzipFile::default();
        let mut plain = 0;

        for index in 0..64_u64 {
            let line = format!("{{\"number\":{index},\"value\":{}}}{:900}\n", index * 7_919, "");
            plain += line.len();
            file.write(line.as_bytes(), &mut compressor).unwrap();
        }

        assert!(plain > 55_000, "{plain}");
        assert!(file.memory() < 12_000, "{}", file.memory());
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
            let mut compressor = GzipCompressor::new(level);
            let mut file = GzipFile::default();

            for line in &lines {
                file.write(line, &mut compressor).unwrap();
            }

            prop_assert_eq!(read(&file.finish(&mut compressor)), lines.concat());
        }
    }
}
