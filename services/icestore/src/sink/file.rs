//! A growing file, in the format of the settings.

use std::io;

use bytes::Bytes;

use super::{gzip, parquet, zstd};
use crate::format::Format;

/// State that all files of a lane share. A compressor is created for the first block.
pub struct Compressor {
    level: u32,
    gzip: Option<gzip::GzipCompressor>,
    zstd: Option<zstd::ZstdCompressor>,
}

impl Compressor {
    /// Creates a compressor with a level from 1 (fast) to 9 (small).
    pub(super) fn new(level: u32) -> Self {
        Self { level, gzip: None, zstd: None }
    }

    fn gzip(&mut self) -> &mut gzip::GzipCompressor {
        self.gzip.get_or_insert_with(|| gzip::GzipCompressor::new(self.level))
    }

    fn zstd(&mut self) -> io::Result<&mut zstd::ZstdCompressor> {
        match &mut self.zstd {
            Some(compressor) => Ok(compressor),
            none => Ok(none.insert(zstd::ZstdCompressor::new(self.level)?)),
        }
    }
}

/// A growing file.
#[derive(Debug)]
pub(super) enum File {
    Gzip(gzip::GzipFile),
    Zstd(zstd::ZstdFile),
    /// The file becomes Parquet when it is closed.
    Parquet(zstd::ZstdFile),
}

impl File {
    pub(super) fn new(format: Format) -> Self {
        match format {
            Format::JsonlGz => Self::Gzip(gzip::GzipFile::default()),
            Format::JsonlZst => Self::Zstd(zstd::ZstdFile::default()),
            Format::Parquet => Self::Parquet(zstd::ZstdFile::default()),
        }
    }

    /// Appends a line.
    pub(super) fn write(&mut self, line: &[u8], compressor: &mut Compressor) -> io::Result<()> {
        match self {
            Self::Gzip(file) => file.write(line, compressor.gzip()),
            Self::Zstd(file) | Self::Parquet(file) => file.write(line, compressor.zstd()?),
        }
    }

    /// Returns true if the file must end before another line with this many bytes.
    pub(super) fn is_full_for(&self, bytes: usize) -> bool {
        match self {
            Self::Gzip(_) | Self::Zstd(_) => false,
            Self::Parquet(file) => {
                let before = file.plain_bytes();
                before > 0 && before.saturating_add(bytes as u64) > parquet::MAX_PLAIN_BYTES
            }
        }
    }

    /// Returns the bytes in memory. They are also enough for the file after its end.
    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Gzip(file) => file.memory(),
            Self::Zstd(file) => file.memory(),
            Self::Parquet(file) => file.memory() + parquet::FOOTER_BYTES,
        }
    }

    /// Ends the file.
    pub(super) fn finish(self, compressor: &mut Compressor) -> io::Result<Ended> {
        match self {
            Self::Gzip(file) => Ok(Ended::Whole(file.finish(compressor.gzip()))),
            Self::Zstd(file) => file.finish(compressor.zstd()?).map(Ended::Whole),
            Self::Parquet(file) => Ok(Ended::Lines { file, level: compressor.level }),
        }
    }
}

/// Closed file.
#[derive(Debug)]
pub(super) enum Ended {
    /// Content of the object.
    Whole(Bytes),
    /// Lines that become Parquet.
    Lines { file: zstd::ZstdFile, level: u32 },
}

impl Ended {
    /// Makes the content of the object.
    pub(super) fn content(&self) -> io::Result<Bytes> {
        match self {
            Self::Whole(content) => Ok(content.clone()),
            Self::Lines { file, level } => parquet::of_lines(file, *level),
        }
    }
}
