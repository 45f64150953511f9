//! Life of a device over MQTT: it connects, sends what is due, and survives lost connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::MqttLink;
use super::packets::{Answer, Attempt, Event, Granted, Session};
use super::pending::{Pending, Waiting};
use super::wire::Wire;
use crate::device::Device;
use crate::gate::{Gate, Phase};
use crate::plan::Due;
use crate::tally::{Tally, Times};

/// Shortest and longest wait before a connection is opened again.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Bytes that are queued before they are written.
const MAX_QUEUED_BYTES: usize = 256 * 1024;

/// Device with its connection.
pub(crate) struct Connection {
    link: Arc<MqttLink>,
    tally: Arc<Tally>,
    gate: Gate,
    device: Device,
    pending: Pending,
    /// Told once, when the first connection is open.
    ready: Option<mpsc::Sender<()>>,
}

impl Connection {
    /// Makes a device that is not connected yet. It tells `ready` when it is.
    pub(crate) fn new(
        link: &Arc<MqttLink>,
        tally: &Arc<Tally>,
        gate: &Gate,
        device: Device,
        ready: mpsc::Sender<()>,
    ) -> Self {
        Self {
            link: Arc::clone(link),
            tally: Arc::clone(tally),
            gate: gate.clone(),
            device,
            pending: Pending::default(),
            ready: Some(ready),
        }
    }

    /// Sends all messages of the device, and returns when each has its PUBACK.
    pub(crate) async fn run(mut self) {
        let mut wait = WAITS.0;
        loop {
            match Wire::open(&self.link, self.device.index, Session::Keep).await {
                Ok((mut wire, granted)) => {
                    wait = WAITS.0;
                    match self.converse(&mut wire, granted).await {
                        Ok(()) => {
                            wire.leave().await;
                            return self.forget().await;
                        }
                        Err(why) => self.tally.lost(why),
                    }
                }
                Err(why) => self.tally.failed(why),
            }
            if self.is_over() {
                return;
            }
            sleep(wait).await;
            wait = (wait * 2).min(WAITS.1);
        }
    }

    /// Returns true if there is nothing left for which a connection is needed.
    fn is_over(&mut self) -> bool {
        if self.gate.phase() == Phase::Draining {
            self.device.stop();
        }
        self.ready.is_none() && self.pending.is_empty() && self.device.due() == Due::Never
    }

    /// Ends the session at the broker. A DISCONNECT does that with MQTT 5.
    async fn forget(&self) {
        if self.link.version == crate::args::Version::V311
            && let Ok((wire, _)) = Wire::open(&self.link, self.device.index, Session::Clean).await
        {
            wire.leave().await;
        }
    }

    /// Sends over one connection, until everything is sent and acknowledged.
    async fn converse(&mut self, wire: &mut Wire, granted: Granted) -> Result<(), String> {
        match self.ready.take() {
            // The receiver is gone if the run has ended.
            Some(ready) => drop(ready.send(()).await),
            None => self.tally.reconnected(),
        }
        self.send_again(wire, granted)?;
        let window = usize::from(self.link.max_in_flight.min(granted.receive_maximum));
        loop {
            let due = self.fill(wire, window);
            if due == Due::Never && self.pending.is_empty() {
                return Ok(());
            }
            let start = match self.gate.phase() {
                Phase::Sending(start) => Some(start),
                Phase::Connecting | Phase::Draining => None,
            };
            let has_room = self.has_room(wire, window);
            let due_at = match (due, start) {
                (Due::At(after), Some(start)) if has_room => Some(start + after),
                _ => None, // A PUBACK or a change of the phase wakes the loop.
            };
            tokio::select! {
                event = wire.next() => self.take(event?),
                () = sleep_until(due_at.unwrap_or_else(Instant::now)), if due_at.is_some() => {}
                () = self.gate.changed() => {}
            }
        }
    }

    /// Sends everything without a PUBACK again. The flag DUP is right only in the same session.
    fn send_again(&self, wire: &mut Wire, granted: Granted) -> Result<(), String> {
        let attempt = if granted.has_session { Attempt::Again } else { Attempt::First };
        for one in self.pending.iter() {
            wire.publish(&one.message, one.packet_id, attempt)?;
            self.tally.resent();
        }
        Ok(())
    }

    /// Queues all messages that are due, up to the window. Returns the time of the next one.
    fn fill(&mut self, wire: &mut Wire, window: usize) -> Due {
        let start = match self.gate.phase() {
            Phase::Connecting => return Due::At(Duration::ZERO),
            Phase::Sending(start) => start,
            Phase::Draining => {
                self.device.stop();
                return Due::Never;
            }
        };
        loop {
            let due = self.device.due();
            let now = Instant::now();
            let planned = match due {
                Due::Never => return due,
                Due::Now => now,
                Due::At(after) => start + after,
            };
            if planned > now || !self.has_room(wire, window) {
                return due;
            }
            self.publish(wire, Times { planned, sent: now });
        }
    }

    fn has_room(&self, wire: &Wire, window: usize) -> bool {
        self.pending.len() < window && wire.queued_bytes() < MAX_QUEUED_BYTES
    }

    fn publish(&mut self, wire: &mut Wire, times: Times) {
        let message = self.device.take();
        let packet_id = self.pending.free_id();
        self.tally.sent(times.sent);
        match wire.publish(&message, packet_id, Attempt::First) {
            Ok(()) => self.pending.push(Waiting { packet_id, message, times }),
            Err(why) => self.tally.refused(None, why.into()),
        }
    }

    fn take(&mut self, event: Event) {
        let Event::Acked { packet_id, answer } = event else { return };
        let Some(one) = self.pending.take(packet_id) else { return };
        match answer {
            Answer::Taken(code) => self.tally.confirmed(code, one.times),
            Answer::Refused(code) => self.tally.refused(Some(code.into()), code.into()),
        }
    }
}
