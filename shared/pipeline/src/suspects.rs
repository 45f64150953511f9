//! Remembers on disk which message each lane works on, so that a message that ends the process again and
//! again can be told and put aside.
//!
//! A panic is caught, but a process that runs out of memory, overflows its stack or is killed cannot
//! catch anything. Its messages come again, and the culprit ends the next process too. Pub/Sub counts
//! deliveries only for subscriptions with a dead-letter policy, and MQTT never does. So each lane writes
//! the fingerprint of its message into its line of a small file before it looks into it. A message that
//! stood there at [`MAX_CRASHES`] ends in a row is not looked into any more. A message of another lane that
//! was at work at the same three moments is put aside with it; a replay brings it back.
//!
//! A write is one system call into the page cache: it survives the process, but not the machine.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tracing::warn;

use crate::{Error, Message, Recovery};

/// The reason code of a message that was at work at several unclean ends in a row.
pub const CRASHED: &str = "crashed";

/// Unclean ends in a row after which a message is put aside. One end may have other reasons.
pub const MAX_CRASHES: u32 = 3;

/// Most messages that are put aside at a time.
const MAX_ASIDE: usize = 1000;

/// Bytes of a lane's line: 16 hexadecimal digits and the line's end.
const LINE: usize = 17;
/// More than a file of ours ever has.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Messages that were at work when earlier processes ended, and a line for each lane.
#[derive(Debug)]
pub(crate) struct Suspects {
    file: File,
    /// Unclean ends in a row, by fingerprint.
    crashes: HashMap<u64, u32>,
}

impl Suspects {
    /// Reads what the last process left, and begins anew.
    pub(crate) fn open(path: &Path, lanes: usize) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut text = Vec::new();
        io::Read::by_ref(&mut file).take(MAX_FILE_BYTES).read_to_end(&mut text)?;
        let crashes = after_an_end(&String::from_utf8_lossy(&text));
        let mut fresh = format!("{:016x}\n", 0).repeat(lanes);
        for (fingerprint, count) in &crashes {
            warn!(
                fingerprint = format!("{fingerprint:016x}"),
                count, "a message was at work when the last process ended"
            );
            // Writing to a string cannot fail.
            let _infallible = writeln!(fresh, "suspect {fingerprint:016x} {count}");
        }
        file.set_len(fresh.len() as u64)?;
        file.write_all_at(fresh.as_bytes(), 0)?;
        Ok(Self { file, crashes })
    }

    /// Notes that a lane looks into this message.
    ///
    /// # Errors
    /// `Reject` for a message that was at work at too many ends in a row.
    pub(crate) fn enter(&self, lane: usize, message: &Message) -> Result<(), Error> {
        let fingerprint = fingerprint(message);
        if let Some(count) = self.crashes.get(&fingerprint)
            && *count >= MAX_CRASHES
        {
            let why = format!("it was at work when {count} processes in a row ended uncleanly");
            return Err(Recovery::Reject(CRASHED).because("look into message", why));
        }
        self.write(lane, fingerprint);
        Ok(())
    }

    /// Notes that a lane has nothing at work.
    pub(crate) fn leave(&self, lane: usize) {
        self.write(lane, 0);
    }

    fn write(&self, lane: usize, fingerprint: u64) {
        let line = format!("{fingerprint:016x}\n");
        if let Err(error) = self.file.write_all_at(line.as_bytes(), (lane * LINE) as u64) {
            warn!(%error, "the file of messages at work cannot be written");
        }
    }
}

/// What was at work at the end of a process, and for how many ends in a row. Lines that are not ours
/// count for nothing.
fn after_an_end(text: &str) -> HashMap<u64, u32> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok().filter(|number| *number != 0);
    let before: HashMap<u64, u32> = text
        .lines()
        .filter_map(|line| line.strip_prefix("suspect ")?.split_once(' '))
        .filter_map(|(fingerprint, count)| Some((hex(fingerprint)?, count.parse().ok()?)))
        .collect();
    let at_work: Vec<u64> =
        text.lines().filter(|line| line.len() == LINE - 1).filter_map(hex).collect();
    if at_work.is_empty() {
        return HashMap::new();
    }
    // While processes go on ending, those that were put aside stay so: they are not at work any more.
    let aside = before.iter().filter(|(_, count)| **count >= MAX_CRASHES).take(MAX_ASIDE);
    let mut crashes: HashMap<u64, u32> = aside.map(|(key, count)| (*key, *count)).collect();
    for fingerprint in at_work {
        let count = before.get(&fingerprint).copied().unwrap_or(0);
        crashes.insert(fingerprint, count.saturating_add(1));
    }
    crashes
}

/// Tells a message from others, the same in each process; never 0.
fn fingerprint(message: &Message) -> u64 {
    let mut hasher = BuildHasherDefault::<DefaultHasher>::new().build_hasher();
    if message.id.is_empty() {
        // Without an id of the transport its content must do.
        hasher.write(&message.data);
    } else {
        hasher.write(message.id.as_bytes());
    }
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, data: &'static str) -> Message {
        let mut message = Message::new(data);
        message.id = id.into();
        message
    }

    #[test]
    fn a_message_at_work_at_three_ends_in_a_row_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suspects");
        let (bad, good) = (message("bad", "x"), message("good", "x"));

        for _ in 0..MAX_CRASHES {
            let suspects = Suspects::open(&path, 2).unwrap();
            suspects.enter(0, &good).unwrap();
            suspects.leave(0);
            suspects.enter(1, &bad).unwrap();
            // The process ends here.
        }
        let suspects = Suspects::open(&path, 2).unwrap();

        let refused = suspects.enter(0, &bad).unwrap_err();
        assert_eq!(refused.recovery(), Recovery::Reject("crashed"));
        assert!(refused.detail().contains("3 processes"), "{}", refused.detail());
        suspects.enter(0, &good).unwrap();
    }

    #[test]
    fn an_end_without_the_message_at_work_clears_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suspects");
        let bad = message("", "content");
        for _ in 1..MAX_CRASHES {
            Suspects::open(&path, 1).unwrap().enter(0, &bad).unwrap();
        }

        Suspects::open(&path, 1).unwrap().enter(0, &message("", "other")).unwrap();

        for _ in 0..MAX_CRASHES {
            Suspects::open(&path, 1).unwrap().enter(0, &bad).unwrap();
        }
        assert!(Suspects::open(&path, 1).unwrap().enter(0, &bad).is_err());
    }

    #[test]
    fn fewer_lanes_than_before_lose_no_suspect() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suspects");
        let bad = message("bad", "x");
        for lanes in [4, 1, 2] {
            Suspects::open(&path, lanes).unwrap().enter(lanes - 1, &bad).unwrap();
        }

        assert!(Suspects::open(&path, 1).unwrap().enter(0, &bad).is_err());
    }

    #[test]
    fn what_is_not_ours_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suspects");
        std::fs::write(&path, b"\xff\xfesuspect zz 9\nsuspect 0000000000000007 -1\nnonsense")
            .unwrap();

        let suspects = Suspects::open(&path, 1).unwrap();

        assert!(suspects.crashes.is_empty());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "0000000000000000\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        assert!(Suspects::open(Path::new("/nowhere/suspects"), 1).is_err());
    }
}
