//! A simulated device: its messages in their order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::args::Speed;
use crate::content::archive::Archived;
use crate::content::{Content, Message};
use crate::plan::{Due, Plan, last_of_batch};
use crate::template::{State, Subject, Template};

/// Everything that the devices of a run share.
#[derive(Debug)]
pub(crate) struct Script {
    /// Id of the run.
    pub run: String,
    /// Seed of random values.
    pub seed: u64,
    /// Beginning of the names of devices.
    pub prefix: String,
    /// Times of the messages that devices make themselves.
    pub plan: Plan,
    /// Items that are sent together.
    pub batch: u64,
    /// Speed of an archive.
    pub speed: Speed,
    /// Time after which no message is due.
    pub duration: Option<Duration>,
    /// Payloads.
    pub content: Content,
}

impl Script {
    /// Returns the number of all messages; `None` for a run that only a time or Ctrl-C ends.
    pub(crate) fn expected(&self) -> Option<u64> {
        let Content::Archive(archive) = &self.content else { return self.plan.expected() };
        let Some(duration) = self.duration else { return Some(archive.count) };
        let Speed::Times(_) = self.speed else { return None };
        let all = archive.devices.iter().flatten();
        Some(all.filter(|one| self.after(one) < duration).count() as u64)
    }

    /// Returns the messages a second that are planned, if they have a pace.
    pub(crate) fn rate(&self) -> Option<f64> {
        match (&self.content, self.speed) {
            (Content::Archive(archive), Speed::Times(factor)) => {
                let seconds = archive.span.as_secs_f64() / factor;
                (seconds > 0.0).then(|| (archive.count.saturating_sub(1)) as f64 / seconds)
            }
            (Content::Archive(_), Speed::Max) => None,
            (Content::Template { .. } | Content::Lines { .. }, _) => self.plan.rate(),
        }
    }

    /// Returns the time from the start of the run to a message of the archive.
    fn after(&self, one: &Archived) -> Duration {
        match self.speed {
            Speed::Times(factor) => one.after.div_f64(factor),
            Speed::Max => Duration::ZERO,
        }
    }
}

/// Simulated device.
#[derive(Debug)]
pub(crate) struct Device {
    /// Number of the device, from 0.
    pub index: u32,
    name: String,
    script: Arc<Script>,
    /// Number of the next message of this device.
    seq: u64,
    payload: Option<State>,
    address: Option<State>,
    is_stopped: bool,
}

impl Device {
    /// Makes a device before its first message.
    pub(crate) fn new(index: u32, script: &Arc<Script>) -> Self {
        let state = |template: &Template| Some(template.state(script.seed, index));
        let (payload, address) = match &script.content {
            Content::Template { payload, address } => (state(payload), state(address)),
            Content::Lines { address, .. } => (None, state(address)),
            Content::Archive(_) => (None, None),
        };
        let name = format!("{}{index:05}", script.prefix);
        let script = Arc::clone(script);
        Self { index, name, script, seq: 0, payload, address, is_stopped: false }
    }

    /// Returns the time of the next message.
    pub(crate) fn due(&self) -> Due {
        if self.is_stopped {
            return Due::Never;
        }
        let Content::Archive(archive) = &self.script.content else {
            return self.script.plan.due(self.index, self.seq);
        };
        let all = &archive.devices[self.index as usize];
        let last = last_of_batch(self.seq, self.script.batch, Some(all.len() as u64));
        let one = usize::try_from(self.seq).ok().and_then(|seq| all.get(seq));
        let (Some(_), Some(last)) = (one, all.get(last as usize)) else { return Due::Never };
        match self.script.speed {
            Speed::Max => Due::Now,
            Speed::Times(_) => {
                let after = self.script.after(last);
                let is_in_time = self.script.duration.is_none_or(|duration| after < duration);
                if is_in_time { Due::At(after) } else { Due::Never }
            }
        }
    }

    /// Makes the next message. It must be due.
    pub(crate) fn take(&mut self) -> Message {
        let script = Arc::clone(&self.script);
        let seq = self.seq;
        self.seq += 1;
        let number = script.plan.number(self.index, seq);
        let subject =
            Subject { run: &script.run, device: &self.name, index: self.index, seq, number };
        match &script.content {
            Content::Archive(archive) => {
                let one = &archive.devices[self.index as usize][seq as usize];
                Message {
                    number: one.number,
                    address: one.address.clone(),
                    payload: one.payload.clone(),
                    properties: Some(one.properties.clone()),
                    time: one.time,
                }
            }
            Content::Lines { payloads, address } => {
                let payload = payloads[(number % payloads.len() as u64) as usize].clone();
                let address = filled(address, &subject, self.address.as_mut());
                Message { number, address, payload, properties: None, time: None }
            }
            Content::Template { payload, address } => {
                let payload = Bytes::from(filled(payload, &subject, self.payload.as_mut()));
                let address = filled(address, &subject, self.address.as_mut());
                Message { number, address, payload, properties: None, time: None }
            }
        }
    }

    /// Makes no further message due.
    pub(crate) fn stop(&mut self) {
        self.is_stopped = true;
    }
}

fn filled(template: &Template, subject: &Subject<'_>, state: Option<&mut State>) -> String {
    state.map(|state| template.fill(subject, state)).unwrap_or_default()
}
