//! A zstd file that grows without its own compressor.
//!
//! A full tail becomes frames with checksums. Frames that follow each other form one file (RFC
//! 8878, 3.1). A frame holds no more than the largest tail. So compressing and reading take little
//! memory at any level, even for long lines.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use bytes::Bytes;
use zstd::bulk;
use zstd::zstd_safe::CParameter;

use super::growing::{self, BLOCK_BYTES, Growing};

/// State that all files of a lane share.
pub(super) struct ZstdCompressor {
    compress: bulk::Compressor<'static>,
    /// The frames that were compressed last. Files copy them, so they grow by their size and no
    /// more.
    frames: Vec<u8>,
}

impl ZstdCompressor {
    /// Creates a compressor with a level from 1 (fast) to 9 (small).
    pub(super) fn new(level: u32) -> io::Result<Self> {
        let mut compress = bulk::Compressor::new(level.cast_signed())?;
        compress.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Self { compress, frames: Vec::new() })
    }
}

impl growing::Compress for ZstdCompressor {
    fn block(&mut self, plain: &[u8]) -> io::Result<&[u8]> {
        self.frames.clear();
        let mut rest = plain;
        // An empty file needs a frame, too. Without a frame it would not be valid zstd.
        loop {
            let (part, after) = rest.split_at(rest.len().min(*BLOCK_BYTES.end()));
            self.frames.reserve(zstd::compress_bound(part.len()));
            let end = self.frames.len() as u64;
            let mut room = Cursor::new(&mut self.frames);
            room.set_position(end);
            self.compress.compress_to_buffer(part, &mut room)?;
            if after.is_empty() {
                return Ok(&self.frames);
            }
            rest = after;
        }
    }
}

/// A growing file.
#[derive(Debug, Default)]
pub(super) struct ZstdFile(Growing);

impl ZstdFile {
    /// Appends a line.
    pub(super) fn write(&mut self, line: &[u8], compressor: &mut ZstdCompressor) -> io::Result<()> {
        self.0.write(line, compressor)
    }

    /// Returns the bytes in memory.
    pub(super) fn memory(&self) -> usize {
        self.0.memory()
    }

    /// Returns the bytes of all lines.
    pub(super) fn plain_bytes(&self) -> u64 {
        self.0.plain_bytes()
    }

    /// Reads all lines again.
    pub(super) fn read(&self) -> io::Result<impl BufRead> {
        let blocks: Box<dyn Read + '_> = match &*self.0.blocks {
            [] => Box::new(io::empty()),
            blocks => Box::new(zstd::Decoder::with_buffer(blocks)?),
        };
        Ok(BufReader::new(blocks.chain(&*self.0.tail)))
    }

    /// Ends the file, and returns all of it.
    pub(super) fn finish(self, compressor: &mut ZstdCompressor) -> io::Result<Bytes> {
        let Growing { mut blocks, tail, .. } = self.0;
        let last = growing::Compress::block(compressor, &tail)?;
        blocks.reserve_exact(last.len());
        blocks.extend_from_slice(last);
        Ok(blocks.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zstd::zstd_safe::{find_frame_compressed_size, get_frame_content_size};

    use super::*;

    /// Returns the plain bytes of each frame of a file.
    fn frames(mut file: &[u8]) -> Vec<u64> {
        let mut frames = Vec::new();
        while !file.is_empty() {
            frames.push(get_frame_content_size(file).unwrap().expect("frames tell their size"));
            file = &file[find_frame_compressed_size(file).unwrap()..];
        }
        frames
    }

    #[test]
    fn files_that_share_a_compressor_do_not_mix() {
        let mut compressor = ZstdCompressor::new(6).unwrap();
        let (mut one, mut two) = (ZstdFile::default(), ZstdFile::default());
        let line = |name: &str, index: usize| format!("{name} line {index}\n").into_bytes();

        for index in 0..30_000 {
            one.write(&line("one", index), &mut compressor).unwrap();
            two.write(&line("two", index), &mut compressor).unwrap();
        }
        let one = one.finish(&mut compressor).unwrap();
        let two = two.finish(&mut compressor).unwrap();

        let expected = |name| (0..30_000).flat_map(|index| line(name, index)).collect::<Vec<_>>();
        assert_eq!(zstd::decode_all(&*one).unwrap(), expected("one"));
        assert_eq!(zstd::decode_all(&*two).unwrap(), expected("two"));
        assert!(one.len() < expected("one").len() / 3);
    }

    #[test]
    fn a_small_file_takes_little_more_memory_than_its_compressed_lines() {
        let mut compressor = ZstdCompressor::new(1).unwrap();
        let mut file = ZstdFile::default();
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
    fn a_long_line_goes_to_frames_of_the_largest_block() {
        let mut compressor = ZstdCompressor::new(9).unwrap();
        let mut file = ZstdFile::default();
        let line = vec![b'x'; 300 * 1024];

        file.write(&line, &mut compressor).unwrap();
        let file = file.finish(&mut compressor).unwrap();

        assert_eq!(frames(&file), [128 * 1024, 128 * 1024, 44 * 1024]);
        assert_eq!(zstd::decode_all(&*file).unwrap(), line);
    }

    #[test]
    fn a_damaged_byte_is_noticed_by_the_checksum() {
        let mut compressor = ZstdCompressor::new(1).unwrap();
        let mut file = ZstdFile::default();
        // These bytes do not compress, so the frame holds them as they are.
        let line: Vec<u8> = (0..64_u8).map(|index| index.wrapping_mul(167)).collect();
        file.write(&line, &mut compressor).unwrap();
        let mut file = file.finish(&mut compressor).unwrap().to_vec();
        assert_eq!(zstd::decode_all(&*file).unwrap(), line);

        let middle = file.len() / 2;
        file[middle] ^= 1;

        assert!(zstd::decode_all(&*file).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60_000), 0..12),
            level in 1..=9_u32,
        ) {
            let mut compressor = ZstdCompressor::new(level).unwrap();
            let mut file = ZstdFile::default();

            for line in &lines {
                file.write(line, &mut compressor).unwrap();
            }

            let file = file.finish(&mut compressor).unwrap();
            prop_assert_eq!(zstd::decode_all(&*file).unwrap(), lines.concat());
        }
    }
}
