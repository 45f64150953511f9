//! Plan of a run: which messages there are, and when each is due.

use std::time::Duration;

use crate::args::Amount;

/// Messages by which a product may be wrong: 0.1 s of 30 a second are 3 messages, and not a 4th one.
const ROUNDING: f64 = 1e-6;

/// Time at which a message is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// There is no further message.
    Never,
    /// As soon as the device may send.
    Now,
    /// Time after the start of the run.
    At(Duration),
}

/// Plan of messages that devices make themselves. Message 0 is of device 0, message 1 of device 1,
/// and so on in turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Plan {
    devices: u64,
    /// Messages a second over all devices.
    rate: Option<f64>,
    messages: Option<u64>,
    /// Items that are sent together.
    batch: u64,
}

impl Plan {
    /// Makes a plan. A rate and a duration set the number of messages.
    pub(crate) fn new(amount: &Amount, batch: u16) -> Self {
        let devices = u64::from(amount.devices);
        let rate = amount.rate.or(amount.device_rate.map(|rate| rate * devices as f64));
        let in_time = amount.duration.zip(rate).map(|(duration, rate)| {
            // Message n is due n/rate seconds after the start.
            (duration.as_secs_f64() * rate - ROUNDING).ceil() as u64
        });
        let messages = [amount.messages, in_time].into_iter().flatten().min();
        Self { devices, rate, messages, batch: u64::from(batch) }
    }

    /// Returns the number of all messages; `None` for a run that only a time or Ctrl-C ends.
    pub(crate) fn expected(&self) -> Option<u64> {
        self.messages
    }

    /// Returns the messages a second over all devices, if they have a rate.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Returns the number over all devices of a message with this number of its device.
    pub(crate) fn number(&self, device: u32, seq: u64) -> u64 {
        seq * self.devices + u64::from(device)
    }

    /// Returns the time at which a message is due. The items of a batch are due with its last one.
    pub(crate) fn due(&self, device: u32, seq: u64) -> Due {
        let count = self.count(device);
        if count.is_some_and(|count| seq >= count) {
            return Due::Never;
        }
        let Some(rate) = self.rate else { return Due::Now };
        let last = last_of_batch(seq, self.batch, count);
        Due::At(Duration::from_secs_f64(self.number(device, last) as f64 / rate))
    }

    /// Returns the number of messages of a device.
    fn count(&self, device: u32) -> Option<u64> {
        let beyond = |messages: u64| messages.saturating_sub(u64::from(device));
        self.messages.map(|messages| beyond(messages).div_ceil(self.devices))
    }
}

/// Returns the number of the last item of the batch that has this item.
pub(crate) fn last_of_batch(seq: u64, batch: u64, count: Option<u64>) -> u64 {
    let last = (seq / batch + 1) * batch - 1;
    count.map_or(last, |count| last.min(count.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(devices: u32) -> Amount {
        Amount { devices, messages: None, duration: None, rate: None, device_rate: None }
    }

    fn at(millis: u64) -> Due {
        Due::At(Duration::from_millis(millis))
    }

    #[test]
    fn devices_send_in_turn_at_the_rate_of_all() {
        let plan = Plan::new(&Amount { messages: Some(5), rate: Some(10.0), ..amount(2) }, 1);

        let due = |device| [0, 1, 2, 3].map(|seq| plan.due(device, seq));

        assert_eq!(due(0), [at(0), at(200), at(400), Due::Never]);
        assert_eq!(due(1), [at(100), at(300), Due::Never, Due::Never]);
        assert_eq!(plan.number(1, 2), 5);
    }

    #[test]
    fn a_rate_of_each_device_and_a_duration_set_the_number() {
        let duration = Some(Duration::from_secs(3));
        let plan = Plan::new(&Amount { device_rate: Some(0.5), duration, ..amount(4) }, 1);
        let fewer = Plan::new(
            &Amount { device_rate: Some(0.5), duration, messages: Some(5), ..amount(4) },
            1,
        );

        let short = Some(Duration::from_millis(100));
        let exact = Plan::new(&Amount { rate: Some(30.0), duration: short, ..amount(4) }, 1);

        assert_eq!((plan.rate(), plan.expected()), (Some(2.0), Some(6)));
        assert_eq!(exact.expected(), Some(3));
        assert_eq!(plan.due(0, 1), at(2000));
        assert_eq!(plan.due(1, 1), at(2500));
        assert_eq!(plan.due(2, 1), Due::Never);
        assert_eq!(fewer.expected(), Some(5));
    }

    #[test]
    fn a_batch_is_due_with_its_last_item() {
        let plan = Plan::new(&Amount { messages: Some(5), rate: Some(1.0), ..amount(1) }, 3);

        let due = [0, 1, 2, 3, 4, 5].map(|seq| plan.due(0, seq));

        let (first, second) = (at(2000), at(4000));
        assert_eq!(due, [first, first, first, second, second, Due::Never]);
    }

    #[test]
    fn without_a_rate_everything_is_due_now() {
        let endless = Plan::new(&amount(3), 1);
        let timed = Plan::new(&Amount { duration: Some(Duration::from_secs(1)), ..amount(3) }, 1);

        assert_eq!((endless.due(2, u64::MAX / 4), endless.expected()), (Due::Now, None));
        assert_eq!((timed.due(0, 0), timed.expected()), (Due::Now, None));
    }
}
