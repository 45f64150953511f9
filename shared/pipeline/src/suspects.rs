//! Records on disk which message each lane works on. A message that ends the process again and
//! again is found that way and becomes a dead letter.
//!
//! A panic is caught. But a process cannot catch running out of memory, a stack overflow or a kill.
//! Its messages are redelivered, and the same message ends the next process too. Counting
//! deliveries does not help: Pub/Sub counts them only for subscriptions with a dead-letter policy,
//! and MQTT never does.
//!
//! So each lane writes the fingerprint of a message into its part of a small file before it
//! processes the message. The next process reads the file. A message that was recorded alone at
//! [`MAX_CRASHES`] process ends in a row is not processed any more. It becomes a dead letter
//! instead. If another lane worked on the same message at each of these ends, that message becomes
//! a dead letter too. A replay brings it back.
//!
//! A batch that is closed or written is recorded with all of its messages. None of them becomes a
//! dead letter for that, but they are isolated step by step. After the first process end they are
//! in smaller batches, and after the second each is alone. So the bad message is soon alone, and
//! the others are written.
//!
//! Example: a batch of 900 messages crashes the process. The next process writes these messages in
//! batches of 30 (the square root), and crashes on one of them. The third process writes the 30
//! messages of that batch one by one.
//!
//! Recording is one system call into the page cache. The record survives the process, but not the
//! machine. Memory that other tasks allocate because of a message is not recorded.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::reasons::CRASHED;
use crate::{Error, Event, Limits, Recovery};

mod noted;
#[cfg(test)]
mod tests;

pub(crate) use noted::{Note, Noted, during};

/// Number of unclean process ends in a row after which a message becomes a dead letter. A single
/// end may have other reasons.
pub const MAX_CRASHES: u32 = 3;

/// Maximum number of messages in a batch while a crash file is used.
pub(crate) const MAX_BATCH: usize = 10_000;

/// Line that ends the record of a lane.
const NOTHING: &str = "0000000000000000\n";
/// Maximum number of messages that stay excluded at the same time.
const MAX_ASIDE: usize = 1000;

/// Bytes of the line of a message: 16 hexadecimal digits and the line end.
const LINE: usize = 17;
/// Maximum size of a crash file that is read. It is more than 256 lanes with the largest batches
/// need.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Messages that were being processed when earlier processes ended, and the current work of each
/// lane.
///
/// The file has one line for each suspect. Then follows a line with the number of lines of each
/// lane, and then the lines of the lanes. The record of a lane ends at its first line of zeros.
#[derive(Debug)]
pub(crate) struct Suspects {
    file: File,
    /// Process ends of each suspect, by fingerprint.
    suspects: HashMap<u64, EndCounts>,
    /// Maximum size of a batch with messages that were in a crashed batch once.
    company: u32,
    /// Position in the file where the lines of the first lane begin.
    start: usize,
    lines: usize,
    lanes: Vec<LaneWork>,
    began: Instant,
    is_over: AtomicBool,
}

/// Number of unclean process ends in a row at which a message was being processed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct EndCounts {
    alone: u32,
    in_a_batch: u32,
}

impl EndCounts {
    fn is_aside(self) -> bool {
        self.alone >= MAX_CRASHES
    }
}

#[derive(Debug, Default)]
struct LaneWork {
    /// Current record in the file.
    noted: AtomicU64,
    /// Time when the lane began to compute: milliseconds since the start, plus 1. It is 0 while the
    /// lane does not compute.
    since: AtomicU64,
}

/// A message or a batch in the form in which it is recorded.
#[derive(Debug, Clone)]
pub(crate) struct AtWork {
    id: u64,
    lines: String,
}

impl AtWork {
    pub(crate) fn new(fingerprints: impl IntoIterator<Item = u64>) -> Self {
        let (mut lines, mut count, mut first) = (String::new(), 0, 0);
        for fingerprint in fingerprints {
            first = if count == 0 { fingerprint } else { first };
            count += 1;
            // Writing to a string cannot fail.
            let _infallible = writeln!(lines, "{fingerprint:016x}");
        }
        let id = if count == 1 { first } else { hash(|hasher| hasher.write(lines.as_bytes())) };
        lines.push_str(NOTHING);
        Self { id, lines }
    }
}

/// Kind of work that a lane does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// The lane computes. If it hangs, the message is the only possible reason.
    Compute,
    /// The lane writes. If it hangs, the destination may be the reason.
    Write,
}

impl Suspects {
    /// Reads what the last process left, and starts a new file.
    ///
    /// # Errors
    /// `ResourceBusy` if another process uses the file.
    pub(crate) fn open(path: &Path, limits: &Limits) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(io::Error::from(io::ErrorKind::ResourceBusy));
        }
        let mut text = Vec::new();
        io::Read::by_ref(&mut file).take(MAX_FILE_BYTES).read_to_end(&mut text)?;
        let suspects = after_an_end(&text);
        if !suspects.is_empty() {
            let aside = suspects.values().filter(|ends| ends.is_aside()).count();
            warn!(
                suspects = suspects.len(),
                aside, "messages were at work when the last process ended"
            );
        }
        let mut fresh = String::new();
        for (fingerprint, EndCounts { alone, in_a_batch }) in &suspects {
            // Writing to a string cannot fail.
            let _infallible = writeln!(fresh, "suspect {fingerprint:016x} {alone} {in_a_batch}");
        }
        let most = limits.batch.max_messages.min(limits.max_messages_in_flight);
        let lines = most.min(MAX_BATCH) + 1;
        let _infallible = writeln!(fresh, "lanes of {lines} lines");
        file.set_len(0)?;
        file.write_all_at(fresh.as_bytes(), 0)?;
        let company = suspects.values().filter(|ends| ends.alone == 0 && ends.in_a_batch == 1);
        Ok(Self {
            file,
            company: u32::try_from(company.count().isqrt()).unwrap_or(u32::MAX).max(1),
            suspects,
            start: fresh.len(),
            lines,
            lanes: (0..limits.lane_count()).map(|_| LaneWork::default()).collect(),
            began: Instant::now(),
            is_over: AtomicBool::new(false),
        })
    }

    /// Returns the fingerprint of a message, and the maximum size of a batch with this message.
    ///
    /// # Errors
    /// `Reject` for a message that was being processed at too many process ends in a row.
    pub(crate) fn admit(&self, event: &impl Event) -> Result<(u64, u32), Error> {
        let fingerprint = fingerprint(event);
        let max_batch = match self.suspects.get(&fingerprint) {
            None => u32::MAX,
            Some(ends) if ends.is_aside() => {
                let count = ends.alone;
                let why = format!("it was at work when {count} processes in a row ended uncleanly");
                return Err(Recovery::Reject(CRASHED).because("look into message", why));
            }
            Some(EndCounts { alone: 0, in_a_batch: 1 }) => self.company,
            Some(_) => 1,
        };
        Ok((fingerprint, max_batch))
    }

    /// Records the work that a lane begins or continues.
    pub(crate) fn enter(&self, lane: usize, at_work: &AtWork, work: Work) {
        self.note(lane, at_work.id, &at_work.lines);
        if work == Work::Compute {
            let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.lanes[lane].since.store(elapsed.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Records that a lane has stopped computing for now. The record in the file stays until
    /// another one replaces it, or until [`Suspects::leave`].
    pub(crate) fn pause(&self, lane: usize) {
        self.lanes[lane].since.store(0, Ordering::Relaxed);
    }

    /// Records that a lane has no work.
    pub(crate) fn leave(&self, lane: usize) {
        self.pause(lane);
        self.note(lane, 0, NOTHING);
    }

    /// Clears the file before the process is ended by force.
    ///
    /// A lane that has computed for `hang` or longer keeps its record, because it would hang over
    /// the same message again.
    pub(crate) fn excuse(&self, hang: Duration) {
        self.is_over.store(true, Ordering::SeqCst);
        for (index, lane) in self.lanes.iter().enumerate() {
            let since =
                lane.since.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis);
            let hangs =
                since.is_some_and(|since| self.began.elapsed().saturating_sub(since) >= hang);
            if !hangs {
                self.write(index, NOTHING);
            }
        }
    }

    fn note(&self, lane: usize, id: u64, lines: &str) {
        let is_noted = self.lanes[lane].noted.swap(id, Ordering::Relaxed) == id;
        if is_noted || self.is_over.load(Ordering::SeqCst) {
            return;
        }
        self.write(lane, lines);
        // `excuse` may have run in the meantime.
        if self.is_over.load(Ordering::SeqCst) {
            self.write(lane, NOTHING);
        }
    }

    fn write(&self, lane: usize, lines: &str) {
        let offset = self.start + lane * self.lines * LINE;
        if let Err(error) = self.file.write_all_at(lines.as_bytes(), offset as u64) {
            warn!(%error, "the file of messages at work cannot be written");
        }
    }
}

/// Returns the messages that were being processed when a process ended, each with its number of
/// ends in a row. Lines in any other format are ignored.
fn after_an_end(text: &[u8]) -> HashMap<u64, EndCounts> {
    let Some(Left { suspects: before, lanes }) = read(text) else { return HashMap::new() };
    if lanes.is_empty() {
        return HashMap::new();
    }
    // Excluded messages stay excluded while processes keep crashing. They are no longer processed,
    // so no lane records them.
    let aside = before.iter().filter(|(_, ends)| ends.is_aside()).take(MAX_ASIDE);
    let mut suspects: HashMap<u64, EndCounts> = aside.map(|(key, ends)| (*key, *ends)).collect();
    // Two lanes may work on the same message if it has no id. One process end counts only once, as
    // the more serious kind.
    let is_alone = lanes.iter().filter(|at_work| at_work.len() == 1).flatten();
    let is_alone: HashSet<_> = is_alone.copied().collect();
    for fingerprint in lanes.into_iter().flatten() {
        let EndCounts { mut alone, mut in_a_batch } =
            before.get(&fingerprint).copied().unwrap_or_default();
        let count = if is_alone.contains(&fingerprint) { &mut alone } else { &mut in_a_batch };
        *count = count.saturating_add(1);
        suspects.insert(fingerprint, EndCounts { alone, in_a_batch });
    }
    suspects
}

/// Content of the file that a process left.
struct Left {
    suspects: HashMap<u64, EndCounts>,
    /// Recorded fingerprints of each lane that had work.
    lanes: Vec<Vec<u64>>,
}

fn read(text: &[u8]) -> Option<Left> {
    const LANES: &[u8] = b"lanes of ";
    let at = text.windows(LANES.len()).position(|window| window == LANES)?;
    let (suspects, rest) = text.split_at(at);
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let lines = std::str::from_utf8(&rest[LANES.len()..end]).ok()?.strip_suffix(" lines")?;
    let lane: usize = lines.parse::<usize>().ok()?.checked_mul(LINE).filter(|bytes| *bytes > 0)?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok().filter(|number| *number != 0);
    let suspect = |line: &str| {
        let mut words = line.strip_prefix("suspect ")?.split(' ');
        let fingerprint = hex(words.next()?)?;
        let ends = EndCounts {
            alone: words.next()?.parse().ok()?,
            in_a_batch: words.next()?.parse().ok()?,
        };
        Some((fingerprint, ends))
    };
    let suspects = String::from_utf8_lossy(suspects).lines().filter_map(suspect).collect();
    let noted = |line: &[u8]| hex(std::str::from_utf8(line).ok()?.strip_suffix('\n')?);
    let lanes = rest[end + 1..].chunks(lane);
    let lanes = lanes.map(|lines| lines.chunks(LINE).map_while(noted).collect::<Vec<_>>());
    Some(Left { suspects, lanes: lanes.filter(|noted| !noted.is_empty()).collect() })
}

/// Identifies an event, in the same way in each process. Never 0.
fn fingerprint(event: &impl Event) -> u64 {
    hash(|hasher| match event.id() {
        // The transport has no ids.
        "" => event.hash_content(hasher),
        id => hasher.write(id.as_bytes()),
    })
}

/// Hashes what `write` writes. Never returns 0.
fn hash(write: impl FnOnce(&mut DefaultHasher)) -> u64 {
    let mut hasher = BuildHasherDefault::<DefaultHasher>::new().build_hasher();
    write(&mut hasher);
    hasher.finish().max(1)
}
