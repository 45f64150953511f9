//! The life of the connection: polled without a pause, opened again after every failure.

use std::sync::Arc;
use std::sync::atomic::{self, AtomicU64, AtomicUsize};
use std::time::Duration;

use pipeline::{Delivery, Settlement, Verdict};
use service::Condition;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::client::{self, Client, Event, Published, Session};
use super::window::Window;
use super::{Arrived, Purpose, message};
use crate::config::{Mqtt, Protocol};
use crate::metrics::Metrics;
use crate::ordering::Ordering;
use crate::routes::Subscription;

/// Longest wait for the last acknowledgements to leave at a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// What a waiting message takes beside its payload, roughly.
const OVERHEAD: usize = 512;

/// How long nothing must come after the subscriptions have ended, until the session counts as empty.
const QUIET: Duration = Duration::from_secs(3);

pub(super) struct Connection {
    /// Its place among several.
    index: u16,
    purpose: Purpose,
    ordering: Option<Ordering>,
    settings: Mqtt,
    filters: Vec<Subscription>,
    outbox: mpsc::UnboundedSender<Arrived>,
    epoch: Arc<AtomicU64>,
    metrics: Metrics,
    condition: Condition,
    held: Arc<Held>,
    /// Since when there is no connection, for one that was there before.
    lost_at: Option<OffsetDateTime>,
    is_first: bool,
}

/// What is handed out and not settled, over all epochs.
#[derive(Debug, Default)]
struct Held {
    bytes: AtomicUsize,
    qos0_messages: AtomicUsize,
}

/// What belongs to one connection: nothing of it outlives that.
struct Epoch {
    client: Client,
    window: Window,
    verdicts: mpsc::UnboundedReceiver<(u64, Verdict)>,
    /// Unbounded, yet it holds at most one verdict for each unacknowledged message.
    report: mpsc::UnboundedSender<(u64, Verdict)>,
    /// What was subscribed to, in the order of the answers.
    asked: Vec<Subscription>,
    is_subscribed: bool,
    has_acked: bool,
    /// Filters whose subscription has ended.
    unsubscribed: usize,
    last_arrival: Instant,
}

/// How a connection ended.
struct End {
    reason: String,
    was_subscribed: bool,
    /// Whether it carried a message all the way.
    has_acked: bool,
}

impl Connection {
    pub(super) fn new(
        (index, purpose): (u16, Purpose),
        settings: Mqtt,
        (filters, ordering): (Vec<Subscription>, Option<Ordering>),
        (outbox, epoch): (mpsc::UnboundedSender<Arrived>, Arc<AtomicU64>),
        (metrics, condition): (Metrics, Condition),
    ) -> Self {
        Self {
            index,
            purpose,
            ordering,
            settings,
            filters,
            outbox,
            epoch,
            metrics,
            condition,
            held: Arc::default(),
            lost_at: None,
            is_first: true,
        }
    }

    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut waits = self.settings.reconnect.waits();
        self.condition.pending(format!("connecting to {}", self.settings.url));
        loop {
            let started = Instant::now();
            let Err(end) = self.connected(&mut stop).await else { return };
            let End { reason, was_subscribed, has_acked } = end;
            // What is still queued cannot be acknowledged any more.
            self.epoch.fetch_add(1, atomic::Ordering::Relaxed);
            // A connection that comes up only to fail again, at a packet that is too large for
            // example, is tried less and less often.
            if has_acked || started.elapsed() > self.settings.reconnect.max {
                waits.reset();
            }
            if was_subscribed {
                self.metrics.reconnects.inc();
                self.lost_at = Some(OffsetDateTime::now_utc());
            }
            self.condition.not_ready(format!("{}: {reason}", self.settings.url));
            tokio::select! {
                () = sleep(waits.next_wait()) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            // What still waits leaves with the pipeline alone; a new connection would add to it.
            tokio::select! {
                () = self.room() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Lives through one connection; returns once asked to stop, or fails when it ends.
    async fn connected(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), End> {
        let opened = client::open(&self.settings, self.index, Session::Keep);
        let (client, mut eventloop) =
            opened.map_err(|reason| End { reason, was_subscribed: false, has_acked: false })?;
        let mut epoch = Epoch::new(client);
        let lived = self.live(&mut epoch, &mut eventloop, stop).await;
        let (was_subscribed, has_acked) = (epoch.is_subscribed, epoch.has_acked);
        lived.map_err(|reason| End { reason, was_subscribed, has_acked })
    }

    async fn live(
        &mut self,
        epoch: &mut Epoch,
        eventloop: &mut client::EventLoop,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), String> {
        loop {
            let event = {
                let poll = eventloop.poll();
                tokio::pin!(poll);
                // Verdicts are taken beside the same poll, which must not be dropped.
                loop {
                    tokio::select! {
                        event = &mut poll => break Some(event),
                        Some(verdict) = epoch.verdicts.recv() => epoch.settle(verdict)?,
                        () = tokio::time::sleep_until(epoch.last_arrival + QUIET),
                            if self.is_drained(epoch) => break None,
                        _ = stop.wait_for(|stop| *stop) => break None,
                    }
                }
            };
            let Some(event) = event else {
                // What cannot be sent in this time comes again.
                drop(timeout(CLOSE_TIMEOUT, epoch.say_goodbye(eventloop)).await);
                return Ok(());
            };
            self.handle(epoch, event?)?;
            epoch.send_acks();
            if self.is_over() {
                tokio::select! {
                    braked = self.brake(epoch) => braked?,
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            }
        }
    }

    fn handle(&mut self, epoch: &mut Epoch, event: Event) -> Result<(), String> {
        match event {
            Event::Connected { session_present } if self.purpose == Purpose::Drain => {
                epoch.last_arrival = Instant::now();
                if !session_present {
                    info!(connection = self.index, "the broker has no session of ours");
                    epoch.unsubscribed = self.filters.len();
                } else if !epoch.client.try_unsubscribe(&self.filters) {
                    return Err("the end of the subscription could not be requested".into());
                }
            }
            Event::Unsubscribed => epoch.unsubscribed += 1,
            Event::Connected { session_present } => {
                self.note_session(session_present);
                epoch.asked = self.wanted(session_present);
                if epoch.asked.is_empty() {
                    epoch.is_subscribed = true;
                    self.condition.ready();
                    return Ok(());
                }
                self.condition.pending("subscribing");
                if !epoch.client.try_subscribe(&epoch.asked) {
                    return Err("the subscription could not be requested".into());
                }
            }
            Event::Subscribed(answers) => {
                let refused = epoch.asked.iter().zip(&answers);
                let refused =
                    refused.filter_map(|(filter, answer)| Some((filter, answer.as_ref().err()?)));
                let refused: Vec<_> =
                    refused.map(|(filter, why)| format!("{} ({why})", filter.filter)).collect();
                if !refused.is_empty() {
                    return Err(format!(
                        "the broker refused the subscription to {}",
                        refused.join(", ")
                    ));
                }
                epoch.is_subscribed = true;
                self.is_first = false;
                self.condition.ready();
            }
            Event::Published(published) => {
                epoch.last_arrival = Instant::now();
                self.deliver(epoch, published);
            }
            Event::Other => {}
        }
        Ok(())
    }

    /// What to subscribe to on a new connection: everything, whatever the session has. It may have
    /// older filters from before the process, and brokers that were restarted forget those of shared
    /// groups (mosquitto 2.0.11 does). Only with MQTT 3.1.1 that would bring every retained message
    /// once more, but for shared groups, which get none.
    fn wanted(&self, session_present: bool) -> Vec<Subscription> {
        let is_known = session_present && !self.is_first && self.settings.protocol == Protocol::V4;
        let wanted = self.filters.iter().filter(|filter| filter.is_shared || !is_known);
        wanted.cloned().collect()
    }

    fn note_session(&mut self, session_present: bool) {
        let lost_at = self.lost_at.take();
        if session_present {
            info!("the broker resumed our session");
        } else if let (false, Some(since)) = (self.is_first, lost_at) {
            self.metrics.possible_gaps.inc();
            let until = OffsetDateTime::now_utc();
            warn!(%since, %until, "the broker lost our session: messages of this time may be missing");
        } else {
            info!("the broker has no session of ours yet: it keeps messages from now on");
        }
    }

    fn deliver(&self, epoch: &mut Epoch, published: Published) {
        let is_qos0 = published.packet_id.is_none();
        if is_qos0 {
            if self.held.qos0_messages.load(atomic::Ordering::Relaxed)
                >= self.settings.max_qos0_waiting
            {
                self.metrics.qos0_dropped.inc();
                return;
            }
            self.held.qos0_messages.fetch_add(1, atomic::Ordering::Relaxed);
        }
        let size = published.payload.len() + OVERHEAD;
        self.held.bytes.fetch_add(size, atomic::Ordering::Relaxed);
        let place = published.packet_id.map(|packet_id| epoch.window.push(packet_id));
        let (report, held) = (epoch.report.clone(), Arc::clone(&self.held));
        let settle = move |verdict| {
            held.bytes.fetch_sub(size, atomic::Ordering::Relaxed);
            match place {
                // An error means that the connection has ended: the broker sends it again.
                Some(place) => report.send((place, verdict)).unwrap_or_default(),
                None => drop(held.qos0_messages.fetch_sub(1, atomic::Ordering::Relaxed)),
            }
        };
        let delivery = Delivery::new(
            message::read(published, self.ordering.as_ref()),
            Settlement::new(settle, None),
        );
        let current = self.epoch.load(atomic::Ordering::Relaxed);
        let epoch = super::Epoch { current: Arc::clone(&self.epoch), number: current };
        let arrived = Arrived { epoch: (!is_qos0).then_some(epoch), delivery };
        // An error means that the source is closing; what is dropped here is nacked.
        self.outbox.send(arrived).unwrap_or_else(drop);
    }

    /// Whether nothing can come any more, and nothing is left to acknowledge, but for what is on its
    /// way now.
    fn is_drained(&self, epoch: &Epoch) -> bool {
        self.purpose == Purpose::Drain
            && epoch.unsubscribed >= self.filters.len()
            && epoch.window.is_empty()
    }

    fn is_over(&self) -> bool {
        self.held.bytes.load(atomic::Ordering::Relaxed) > self.settings.max_bytes_in_flight
    }

    /// Waits until half of what may be in flight is settled.
    async fn room(&self) {
        const LOOK: Duration = Duration::from_millis(20);
        while self.held.bytes.load(atomic::Ordering::Relaxed)
            > self.settings.max_bytes_in_flight / 2
        {
            sleep(LOOK).await;
        }
    }

    /// Leaves the socket unread until there is room: TCP holds the broker back. Not for long, because
    /// pings wait too.
    async fn brake(&self, epoch: &mut Epoch) -> Result<(), String> {
        let room = timeout(self.settings.keep_alive / 2, self.room());
        tokio::pin!(room);
        loop {
            tokio::select! {
                in_time = &mut room => {
                    return in_time.map_err(|_| {
                        let most = self.settings.max_bytes_in_flight;
                        format!("more than {most} bytes wait (mqtt.max_bytes_in_flight)")
                    });
                }
                Some(verdict) = epoch.verdicts.recv() => epoch.settle(verdict)?,
            }
        }
    }
}

/// Takes the session over with one that ends with its connection.
pub(super) async fn end_session(settings: &Mqtt, index: u16) -> Result<(), String> {
    let (client, mut eventloop) = client::open(settings, index, Session::End)?;
    while !matches!(eventloop.poll().await?, Event::Connected { .. }) {}
    client.try_disconnect();
    while eventloop.poll().await.is_ok() {}
    Ok(())
}

impl Epoch {
    fn new(client: Client) -> Self {
        let (report, verdicts) = mpsc::unbounded_channel();
        let window = Window::default();
        Self {
            client,
            window,
            verdicts,
            report,
            asked: Vec::new(),
            is_subscribed: false,
            has_acked: false,
            unsubscribed: 0,
            last_arrival: Instant::now(),
        }
    }

    fn settle(&mut self, (place, verdict): (u64, Verdict)) -> Result<(), String> {
        match verdict {
            Verdict::Ack => {
                self.window.ack(place);
                self.send_acks();
                Ok(())
            }
            // MQTT cannot hand one message back, but a new connection brings it again.
            Verdict::Nack => Err("a message could not be settled".into()),
        }
    }

    /// Sends the acknowledgements that are due, as far as there is room for them.
    fn send_acks(&mut self) {
        while let Some(packet_id) = self.window.due() {
            if !self.client.try_ack(packet_id) {
                return;
            }
            self.window.pop();
            self.has_acked = true;
        }
    }

    /// Sends the acknowledgements that are due, then DISCONNECT, and waits until the connection has ended.
    async fn say_goodbye(&mut self, eventloop: &mut client::EventLoop) {
        while let Ok((place, verdict)) = self.verdicts.try_recv() {
            if verdict == Verdict::Ack {
                self.window.ack(place);
            }
        }
        self.send_acks();
        if self.client.try_disconnect() {
            while eventloop.poll().await.is_ok() {}
        }
    }
}
