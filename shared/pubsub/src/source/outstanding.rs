//! Counts of the messages that one reader holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the unsettled messages of one reader, over all of its streams. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Outstanding(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// A message's part of the counts. Dropping it removes the part.
#[derive(Debug)]
pub(super) struct Part {
    outstanding: Outstanding,
    bytes: usize,
}

impl Outstanding {
    /// Counts a message of this size.
    pub(super) fn take(&self, bytes: usize) -> Part {
        self.0.messages.fetch_add(1, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        Part { outstanding: self.clone(), bytes }
    }

    /// Returns true if at least half of the allowed messages or bytes are outstanding.
    ///
    /// Flow control may then be the reason why a stream is silent. A new stream could also deliver
    /// the same amount again.
    pub(super) fn explains_silence(&self, max_messages: usize, max_bytes: usize) -> bool {
        let messages = self.0.messages.load(Ordering::Relaxed);
        let bytes = self.0.bytes.load(Ordering::Relaxed);
        messages >= max_messages.div_ceil(2) || bytes >= max_bytes.div_ceil(2)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.outstanding.0.messages.fetch_sub(1, Ordering::Relaxed);
        self.outstanding.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_messages_or_of_the_bytes_explains_silence_until_it_is_settled() {
        let outstanding = Outstanding::default();
        let mut parts = vec![outstanding.take(10), outstanding.take(10)];
        assert!(!outstanding.explains_silence(5, 41));
        assert!(outstanding.explains_silence(4, 41));
        assert!(outstanding.explains_silence(5, 40));

        parts.pop();

        assert!(!outstanding.explains_silence(4, 40));
        assert!(outstanding.explains_silence(2, 40));
        assert!(outstanding.explains_silence(4, 20));
    }

    #[test]
    fn nothing_in_hand_explains_nothing() {
        assert!(!Outstanding::default().explains_silence(1, 1));
    }
}
