//! Remembers on disk what each lane works on, so that a message that ends the process again and again can
//! be told and put aside.
//!
//! A panic is caught, but a process that runs out of memory, overflows its stack or is killed cannot
//! catch anything. Its messages come again, and the culprit ends the next process too. Pub/Sub counts
//! deliveries only for subscriptions with a dead-letter policy, and MQTT never does. So each lane writes
//! the fingerprint of its message into its part of a small file before it looks into it. A message that
//! stood there alone at [`MAX_CRASHES`] ends in a row is not looked into any more. A message of another lane
//! that was at work at the same three moments is put aside with it; a replay brings it back.
//!
//! A batch that is closed or written is noted with all of its messages. None of them is put aside for
//! that, but they keep to themselves from then on: in smaller batches after the first end, and each alone
//! after the second one. So the culprit stands alone soon, and the others are written.
//!
//! A note is one system call into the page cache: it survives the process, but not the machine. Memory
//! that other tasks take for a message is booked on nothing.

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

use crate::message::attribute;
use crate::{Error, Limits, Message, Recovery};

mod noted;
#[cfg(test)]
mod tests;

pub(crate) use noted::{Note, Noted, during};

/// The reason code of a message that was at work at several unclean ends in a row.
pub const CRASHED: &str = "crashed";

/// Unclean ends in a row after which a message is put aside. One end may have other reasons.
pub const MAX_CRASHES: u32 = 3;

/// Most messages in a batch while they are noted.
pub(crate) const MAX_BATCH: usize = 10_000;

/// A line that ends the notes of a lane.
const NOTHING: &str = "0000000000000000\n";
/// Most messages that are put aside at a time.
const MAX_ASIDE: usize = 1000;

/// Bytes of a message's line: 16 hexadecimal digits and the line's end.
const LINE: usize = 17;
/// More than a file of ours ever has: 256 lanes with the largest batches.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Messages that were at work when earlier processes ended, and what each lane works on.
///
/// The file has a line for each suspect, then one that says how many lines each lane has, then those of the
/// lanes. A lane's notes end at the first line that is zero.
#[derive(Debug)]
pub(crate) struct Suspects {
    file: File,
    /// By fingerprint.
    suspects: HashMap<u64, Ends>,
    /// Most messages in a batch of those that were at work in a batch once.
    company: usize,
    /// Where the lines of the first lane begin.
    start: usize,
    lines: usize,
    lanes: Vec<Lane>,
    began: Instant,
    is_over: AtomicBool,
}

/// Unclean ends in a row with a message at work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ends {
    alone: u32,
    in_a_batch: u32,
}

impl Ends {
    fn is_aside(self) -> bool {
        self.alone >= MAX_CRASHES
    }
}

#[derive(Debug, Default)]
struct Lane {
    /// What stands in the file.
    noted: AtomicU64,
    /// Since when the lane looks into it: milliseconds after the start, and one more; 0 while it does not.
    since: AtomicU64,
}

/// A message or a batch, as it is noted.
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
        let id = if count == 1 { first } else { hash(&[lines.as_bytes()]) };
        lines.push_str(NOTHING);
        Self { id, lines }
    }
}

/// What a lane does with what is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// It computes, so it hangs over nothing but the message.
    Compute,
    /// It writes, so it may hang over the destination.
    Write,
}

impl Suspects {
    /// Reads what the last process left, and begins anew.
    ///
    /// # Errors
    /// `ResourceBusy` when another process uses the file.
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
        for (fingerprint, Ends { alone, in_a_batch }) in &suspects {
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
            company: company.count().isqrt().max(1),
            suspects,
            start: fresh.len(),
            lines,
            lanes: (0..limits.lane_count()).map(|_| Lane::default()).collect(),
            began: Instant::now(),
            is_over: AtomicBool::new(false),
        })
    }

    /// Returns the fingerprint of a message, and most messages of a batch with it.
    ///
    /// # Errors
    /// `Reject` for a message that was at work at too many ends in a row.
    pub(crate) fn admit(&self, message: &Message) -> Result<(u64, usize), Error> {
        let fingerprint = fingerprint(message);
        let max_batch = match self.suspects.get(&fingerprint) {
            None => usize::MAX,
            Some(ends) if ends.is_aside() => {
                let count = ends.alone;
                let why = format!("it was at work when {count} processes in a row ended uncleanly");
                return Err(Recovery::Reject(CRASHED).because("look into message", why));
            }
            Some(Ends { alone: 0, in_a_batch: 1 }) => self.company,
            Some(_) => 1,
        };
        Ok((fingerprint, max_batch))
    }

    /// Notes what a lane begins to work on, or goes on with.
    pub(crate) fn enter(&self, lane: usize, at_work: &AtWork, work: Work) {
        self.note(lane, at_work.id, &at_work.lines);
        if work == Work::Compute {
            let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.lanes[lane].since.store(elapsed.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Notes that a lane is not in the middle of it any more. What was noted stands until something else
    /// does, or [`Suspects::leave`].
    pub(crate) fn pause(&self, lane: usize) {
        self.lanes[lane].since.store(0, Ordering::Relaxed);
    }

    /// Notes that a lane has nothing at work.
    pub(crate) fn leave(&self, lane: usize) {
        self.pause(lane);
        self.note(lane, 0, NOTHING);
    }

    /// Clears the file before the process is ended by force. What a lane has computed over for so long stays
    /// noted: it would hang over it again.
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
        // The process may have begun to end meanwhile.
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

/// The messages that were at work at the end of a process, and at how many ends in a row. Lines that are
/// not ours count for nothing.
fn after_an_end(text: &[u8]) -> HashMap<u64, Ends> {
    let Some(Left { suspects: before, lanes }) = read(text) else { return HashMap::new() };
    if lanes.is_empty() {
        return HashMap::new();
    }
    // While processes go on ending, those that were put aside stay so: they are not at work any more.
    let aside = before.iter().filter(|(_, ends)| ends.is_aside()).take(MAX_ASIDE);
    let mut suspects: HashMap<u64, Ends> = aside.map(|(key, ends)| (*key, *ends)).collect();
    // A message without an id may be at work in two lanes. One end counts once, and the worse.
    let is_alone = lanes.iter().filter(|at_work| at_work.len() == 1).flatten();
    let is_alone: HashSet<_> = is_alone.copied().collect();
    for fingerprint in lanes.into_iter().flatten() {
        let Ends { mut alone, mut in_a_batch } =
            before.get(&fingerprint).copied().unwrap_or_default();
        let count = if is_alone.contains(&fingerprint) { &mut alone } else { &mut in_a_batch };
        *count = count.saturating_add(1);
        suspects.insert(fingerprint, Ends { alone, in_a_batch });
    }
    suspects
}

/// What a process leaves.
struct Left {
    suspects: HashMap<u64, Ends>,
    /// What each lane that had anything at work has noted.
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
        let ends =
            Ends { alone: words.next()?.parse().ok()?, in_a_batch: words.next()?.parse().ok()? };
        Some((fingerprint, ends))
    };
    let suspects = String::from_utf8_lossy(suspects).lines().filter_map(suspect).collect();
    let noted = |line: &[u8]| hex(std::str::from_utf8(line).ok()?.strip_suffix('\n')?);
    let lanes = rest[end + 1..].chunks(lane);
    let lanes = lanes.map(|lines| lines.chunks(LINE).map_while(noted).collect::<Vec<_>>());
    Some(Left { suspects, lanes: lanes.filter(|noted| !noted.is_empty()).collect() })
}

/// Tells a message from others, the same in each process; never 0.
fn fingerprint(message: &Message) -> u64 {
    if message.id.is_empty() {
        // Without an id of the transport its topic and its content must do.
        let topic = message.attributes.get(attribute::MQTT_TOPIC).map_or("", String::as_str);
        hash(&[topic.as_bytes(), &message.data])
    } else {
        hash(&[message.id.as_bytes()])
    }
}

/// Never 0.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = BuildHasherDefault::<DefaultHasher>::new().build_hasher();
    parts.iter().for_each(|part| hasher.write(part));
    hasher.finish().max(1)
}
