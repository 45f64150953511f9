//! Splits one settlement into several, for a message that goes several ways.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disposition, Settle, Settlement};

/// A settlement that was split.
struct Split {
    /// Empty once the original is settled.
    original: Option<Settlement>,
    /// Number of parts that are not settled yet.
    open_parts: usize,
    /// Worst outcome of the settled parts.
    worst: Disposition,
}

/// One part of a settlement.
struct SplitPart(Arc<Mutex<Split>>);

impl SplitPart {
    fn split(&self) -> MutexGuard<'_, Split> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Settlement {
    /// Splits the settlement into several, such as one for each record of a message.
    ///
    /// The source gets one disposition, as soon as the last part is settled. It is the worst of the
    /// parts: see [`Disposition::worse`]. A part whose settlement is dropped is a nack. Each part
    /// has the lease of the original, and its share of the bytes that the original holds elsewhere.
    ///
    /// A nack reaches the source late, when the last part is settled. So do not split a message with
    /// an ordering key: later messages of the key could pass it meanwhile. Each part's message needs
    /// an id of its own, which is the same at each delivery, such as `42/0` and `42/1`.
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use std::sync::mpsc;
    ///
    /// use pipeline::{Disposition, Settlement};
    ///
    /// let (sender, dispositions) = mpsc::channel();
    /// let settle = move |disposition| sender.send(disposition).unwrap();
    /// let settlement = Settlement::new(settle, None);
    ///
    /// let mut parts = settlement.split(NonZeroUsize::new(2).unwrap()).into_iter();
    /// parts.next().unwrap().ack();
    /// assert!(dispositions.try_recv().is_err());
    /// parts.next().unwrap().ack();
    ///
    /// assert_eq!(dispositions.try_recv(), Ok(Disposition::Ack));
    /// ```
    #[must_use = "a dropped part is a nack"]
    pub fn split(self, parts: NonZeroUsize) -> Vec<Self> {
        let parts = parts.get();
        let Self { arrived, lease, return_delay, held_bytes, .. } = self;
        let held_bytes = held_bytes.div_ceil(u32::try_from(parts).unwrap_or(u32::MAX));
        let split = Split { original: Some(self), open_parts: parts, worst: Disposition::Ack };
        let split = Arc::new(Mutex::new(split));
        let part = || {
            let settle = Some(Box::new(SplitPart(Arc::clone(&split))) as Box<dyn Settle>);
            Self { settle, arrived, lease, return_delay, held_bytes }
        };
        (0..parts).map(|_| part()).collect()
    }
}

impl Settle for SplitPart {
    fn settle(self: Box<Self>, disposition: Disposition) {
        let mut split = self.split();
        split.worst = split.worst.worse(disposition);
        split.open_parts -= 1;
        if split.open_parts > 0 {
            return;
        }
        let (original, worst) = (split.original.take(), split.worst);
        // The source must not be told under the lock.
        drop(split);
        if let Some(original) = original {
            original.settle(worst);
        }
    }

    fn is_current(&self) -> bool {
        self.split().original.as_ref().is_some_and(Settlement::is_current)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;
    use crate::reasons::{CRASHED, PANICKED};

    /// End of one part.
    #[derive(Debug, Clone, Copy)]
    enum End {
        Settle(Disposition),
        Drop,
    }

    impl End {
        fn disposition(self) -> Disposition {
            match self {
                Self::Settle(disposition) => disposition,
                Self::Drop => Disposition::Nack,
            }
        }
    }

    /// Endings of all parts. Each kind is the worst one in many cases.
    fn ends() -> impl Strategy<Value = Vec<End>> {
        let reason = || prop_oneof![Just(PANICKED), Just(CRASHED)];
        let dead_letter =
            reason().prop_map(|reason| End::Settle(Disposition::DeadLettered(reason)));
        let dropped = reason().prop_map(|reason| End::Settle(Disposition::Dropped(reason)));
        let end = prop_oneof![
            16 => Just(End::Settle(Disposition::Ack)),
            4 => dead_letter,
            2 => dropped,
            1 => Just(End::Settle(Disposition::Nack)),
            1 => Just(End::Drop),
        ];
        proptest::collection::vec(end, 1..12)
    }

    /// Returns the outcome that wins. Of several outcomes of the same kind it is the first.
    fn worst(in_order: &[Disposition]) -> Disposition {
        let first = |is_kind: fn(&Disposition) -> bool| in_order.iter().copied().find(is_kind);
        first(|end| matches!(end, Disposition::Nack))
            .or_else(|| first(|end| matches!(end, Disposition::Dropped(_))))
            .or_else(|| first(|end| matches!(end, Disposition::DeadLettered(_))))
            .unwrap_or(Disposition::Ack)
    }

    fn split(parts: usize) -> (Vec<Settlement>, mpsc::Receiver<Disposition>) {
        let (sender, dispositions) = mpsc::channel();
        let settle = move |disposition| sender.send(disposition).unwrap();
        let parts = NonZeroUsize::new(parts).unwrap();
        (Settlement::new(settle, None).split(parts), dispositions)
    }

    proptest! {
        #[test]
        fn the_last_part_settles_the_original_and_the_worst_outcome_wins(
            (ends, order) in ends().prop_flat_map(|ends| {
                let order = Just((0..ends.len()).collect::<Vec<_>>()).prop_shuffle();
                (Just(ends), order)
            }),
        ) {
            let (parts, dispositions) = split(ends.len());
            let mut parts: Vec<_> = parts.into_iter().map(Some).collect();

            for (settled, index) in order.iter().enumerate() {
                prop_assert!(dispositions.try_recv().is_err(), "{settled} parts were enough");
                let part = parts[*index].take().unwrap();
                prop_assert!(part.is_current());
                match ends[*index] {
                    End::Settle(disposition) => part.settle(disposition),
                    End::Drop => drop(part),
                }
            }

            let in_order: Vec<_> = order.iter().map(|index| ends[*index].disposition()).collect();
            prop_assert_eq!(dispositions.iter().collect::<Vec<_>>(), [worst(&in_order)]);
        }
    }

    #[test]
    fn a_panic_over_one_part_nacks_the_original() {
        let (mut parts, dispositions) = split(2);
        let lost = parts.pop();
        parts.pop().unwrap().ack();

        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = lost;
            panic!("a bug in a transform");
        }));

        assert!(panicked.is_err());
        assert_eq!(dispositions.iter().collect::<Vec<_>>(), [Disposition::Nack]);
    }

    #[tokio::test(start_paused = true)]
    async fn parts_have_the_lease_of_the_original_and_a_share_of_its_bytes() {
        let lease_end = Instant::now() + Duration::from_secs(60);
        let original = Settlement::new(drop, Some(lease_end)).with_held_bytes(100);
        let original = original.with_return_delay(Duration::from_secs(9));
        let arrived = original.arrived();
        tokio::time::advance(Duration::from_secs(5)).await;

        let parts = original.split(NonZeroUsize::new(3).unwrap());

        for part in &parts {
            assert_eq!((part.arrived(), part.lease_end()), (arrived, Some(lease_end)));
            assert_eq!(part.return_delay(), Duration::from_secs(9));
        }
        let held: usize = parts.iter().map(Settlement::held_bytes).sum();
        assert!((100..=103).contains(&held), "{held}");
    }
}
