//! Histogram of latencies in bounded memory. Values are exact to one part in 128.

/// Bits of a value that are kept.
const BITS: u32 = 7;
/// Values of one power of two.
const STEPS: usize = 1 << BITS;
/// Slots for all values of 64 bits.
const SLOTS: usize = (64 - BITS as usize + 1) * STEPS;

/// Upper ends of the rows, in microseconds. The last row has no end.
pub(crate) const ENDS: [u64; 17] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000, 60_000_000,
];

/// Histogram of latencies in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    slots: Vec<u64>,
    /// Latencies of each row, and of the last one without an end.
    rows: [u64; ENDS.len() + 1],
    count: u64,
    sum: u128,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { slots: vec![0; SLOTS], rows: [0; ENDS.len() + 1], count: 0, sum: 0, max: 0 }
    }
}

impl Histogram {
    /// Adds a latency.
    pub(crate) fn record(&mut self, micros: u64) {
        self.slots[slot(micros)] += 1;
        self.rows[ENDS.partition_point(|end| *end < micros)] += 1;
        self.count += 1;
        self.sum += u128::from(micros);
        self.max = self.max.max(micros);
    }

    /// Returns the number of latencies in each row.
    pub(crate) fn rows(&self) -> &[u64] {
        &self.rows
    }

    /// Returns the longest latency.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// Returns the mean latency; 0 without any.
    pub(crate) fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    /// Returns the latency that this share of all latencies does not exceed.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (slot, count) in self.slots.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return last_of(slot).min(self.max);
            }
        }
        self.max
    }
}

/// Returns the slot of a value. Values below 256 have one each.
fn slot(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(BITS + 1);
    shift as usize * STEPS + (value >> shift) as usize
}

/// Returns the largest value of a slot.
fn last_of(slot: usize) -> u64 {
    let shift = (slot / STEPS).saturating_sub(1);
    let value = (slot - shift * STEPS) as u128;
    u64::try_from(((value + 1) << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_at_most_one_part_in_128_below_the_end_of_its_slot() {
        for value in (0..3000).chain([1 << 20, (1 << 20) - 1, 1 << 40, u64::MAX - 1, u64::MAX]) {
            let last = last_of(slot(value));
            assert!(last >= value && last - value <= value / 128, "{value}: {last}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.mean(), histogram.max()), (0, 0.0, 0));

        for value in 1..=100 {
            histogram.record(value);
        }

        let quantiles = [0.01, 0.5, 0.99, 1.0].map(|share| histogram.quantile(share));
        assert_eq!(quantiles, [1, 50, 99, 100]);
        assert_eq!((histogram.mean(), histogram.rows()[0], histogram.rows()[1]), (50.5, 100, 0));
    }
}
