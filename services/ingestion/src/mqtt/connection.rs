//! Life cycle of a connection. It is opened again after every failure.

use std::future::pending;
use std::sync::Arc;

use pipeline::{Delivery, Settlement};
use service::Condition;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::ack::{AckHandle, Unacknowledged};
use super::client::{Event, Session};
use super::dial::Dial;
use super::drain::Drain;
use super::published::Published;
use super::session::Epoch;
use super::unsettled::Unsettled;
use super::wire::Reading;
use super::{Grants, Mode, message};
use crate::config::{Mqtt, Protocol};
use crate::metrics::Metrics;
use crate::ordering::Ordering;
use crate::routes::Subscription;

/// Parts of its source that a connection needs.
pub(super) struct Parts {
    /// Index among several connections.
    pub index: u16,
    pub mode: Mode,
    pub dial: Arc<dyn Dial>,
    pub settings: Mqtt,
    pub filters: Vec<Subscription>,
    pub ordering: Option<Ordering>,
    pub outbox: mpsc::UnboundedSender<Delivery>,
    pub metrics: Metrics,
    pub condition: Condition,
    pub grants: watch::Sender<Grants>,
}

pub(super) struct Connection {
    parts: Parts,
    unsettled: Arc<Unsettled>,
    /// Time without a subscription, after the first one.
    away: Option<Away>,
    has_ever_subscribed: bool,
    /// True once a drain has found a session.
    has_found_session: bool,
    /// True if the broker's session has our filters, as long as the broker keeps them.
    is_session_subscribed: bool,
    /// Number of successive connections of a drain that ended before the drain had changed
    /// anything.
    ends_while_watching: u32,
}

struct Away {
    since: OffsetDateTime,
    is_counted: bool,
}

/// End of a connection.
struct End {
    reason: String,
    /// True if a drain must not continue.
    is_final: bool,
    was_subscribed: bool,
    /// True if a message was carried and acknowledged.
    has_acked: bool,
}

impl Connection {
    pub(super) fn new(parts: Parts) -> Self {
        let unsettled = Arc::new(Unsettled::new(&parts.settings));
        Self {
            parts,
            unsettled,
            away: None,
            has_ever_subscribed: false,
            has_found_session: false,
            is_session_subscribed: false,
            ends_while_watching: 0,
        }
    }

    /// Carries messages until asked to stop, or drains the session.
    ///
    /// # Errors
    /// Fails when a drain found that the replica is alive.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), String> {
        let mut waits = self.parts.settings.reconnect.waits();
        let url = self.parts.settings.url.clone();
        self.parts.condition.pending(format!("connecting to {url}"));
        loop {
            let started = Instant::now();
            let (dial, settings) = (&*self.parts.dial, &self.parts.settings);
            let opened = tokio::select! {
                opened = Epoch::open(dial, settings, self.parts.index, Session::Keep) => opened,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            };
            let lived = match opened {
                Ok(epoch) => self.connected(epoch, &mut stop).await,
                Err(reason) => {
                    Err(End { reason, is_final: false, was_subscribed: false, has_acked: false })
                }
            };
            let Err(End { reason, is_final, was_subscribed, has_acked }) = lived else {
                return Ok(());
            };
            // A connection may fail again soon after it is opened, for example at a packet that is
            // too large. The waits between its attempts grow.
            if has_acked || started.elapsed() > self.parts.settings.reconnect.max {
                waits.reset();
            }
            if was_subscribed {
                self.parts.metrics.reconnects.inc();
            }
            self.parts.condition.not_ready(format!("{url}: {reason}"));
            if is_final {
                return Err(reason);
            }
            tokio::select! {
                () = sleep(waits.next_wait()) => {}
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
        }
    }

    /// Runs one connection. Returns once it is asked to stop or the session is drained. Fails when
    /// the connection ends.
    async fn connected(
        &mut self,
        mut epoch: Epoch,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), End> {
        let lived = match self.greeted(&mut epoch) {
            Ok(()) if self.parts.mode == Mode::Drain && !epoch.session_present => Ok(()),
            Ok(()) => self.live(&mut epoch, stop).await,
            Err(reason) => Err(reason),
        };
        // Messages that are still queued cannot be acknowledged any more.
        epoch.life.end();
        if self.has_ever_subscribed && self.away.is_none() {
            self.away = Some(Away { since: OffsetDateTime::now_utc(), is_counted: false });
        }
        let (was_subscribed, has_acked) = (epoch.is_subscribed, epoch.has_acked);
        let alive = self.sign_of_life(&epoch);
        epoch.leave().await;
        lived.map_err(|reason| End {
            is_final: alive.is_some(),
            reason: alive.map(|sign| format!("{reason}: {sign}")).unwrap_or(reason),
            was_subscribed,
            has_acked,
        })
    }

    /// Returns evidence that a replica is alive although it should be gone.
    ///
    /// Brokers of MQTT 5 report that another client took the session over. With other brokers, the
    /// evidence is a second connection that ends while the drain only watches.
    fn sign_of_life(&mut self, epoch: &Epoch) -> Option<&'static str> {
        let is_untouched = epoch.drain.as_ref()?.is_untouched();
        self.ends_while_watching = if is_untouched { self.ends_while_watching + 1 } else { 0 };
        match (epoch.is_taken_over || self.ends_while_watching > 1, is_untouched) {
            (false, _) => None,
            (true, true) => Some(
                "the replica seems to be alive, unless the broker has restarted, and keeps its session: end \
                     it first and try again",
            ),
            (true, false) => Some("the replica lives, and has lost its subscriptions: restart it"),
        }
    }

    async fn live(
        &mut self,
        epoch: &mut Epoch,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), String> {
        loop {
            if let Some(drain) = &mut epoch.drain
                && drain.advance(&mut epoch.wire, &mut epoch.requests, &epoch.window)?
            {
                return Ok(());
            }
            let reading = self.unsettled.reading();
            // Packets that were read already need no timers and no turn of the runtime.
            if reading == Reading::On
                && let Some(event) = epoch.wire.decoded()?
            {
                self.handle(epoch, event)?;
                continue;
            }
            epoch.requests.count_time(reading);
            let wake_at = epoch.wake_at();
            let wake = async {
                match wake_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                event = epoch.wire.next(reading) => self.handle(epoch, event?)?,
                Some(disposition) = epoch.dispositions.recv() => epoch.settle_all(disposition)?,
                () = self.unsettled.freed(), if reading == Reading::Off => {}
                () = wake => Self::wake(epoch)?,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
        }
    }

    /// Starts the work of a new connection: a drain, or the subscriptions.
    fn greeted(&mut self, epoch: &mut Epoch) -> Result<(), String> {
        let Parts { settings, filters, index, .. } = &self.parts;
        for warning in epoch.negotiated.warnings(settings, filters) {
            warn!(connection = index, warning);
        }
        if self.parts.mode == Mode::Drain {
            if epoch.session_present {
                self.has_found_session = true;
            } else if !self.has_found_session {
                self.parts.metrics.absent_sessions.inc();
                info!(connection = index, "the broker has no session of ours: nothing to carry");
            }
            let names = filters.iter().map(|filter| filter.filter.clone());
            let names = names.chain(settings.unsubscribe.iter().cloned()).collect();
            epoch.drain = Some(Drain::new(settings, names));
            self.parts.condition.ready();
            return Ok(());
        }
        self.note_session(epoch.session_present);
        if epoch.session_present && !self.parts.settings.unsubscribe.is_empty() {
            epoch.unsubscribe(&self.parts.settings.unsubscribe)?;
        }
        self.parts.condition.pending("subscribing");
        epoch.subscribe(&self.wanted(epoch.session_present))?;
        self.note_subscribed(epoch);
        Ok(())
    }

    fn handle(&mut self, epoch: &mut Epoch, event: Event) -> Result<(), String> {
        match event {
            Event::Unsubscribed { packet_id, refused } => {
                epoch.requests.unsubscribed(packet_id);
                match (refused.is_empty(), &epoch.drain) {
                    (true, _) => {}
                    (false, Some(_)) => {
                        let refused = refused.join(", ");
                        return Err(format!("the broker refused to unsubscribe: {refused}"));
                    }
                    (false, None) => warn!(?refused, "the broker refused to unsubscribe"),
                }
            }
            Event::Subscribed { packet_id, answers } => {
                epoch.subscribed(packet_id, &answers)?;
                self.note_subscribed(epoch);
            }
            Event::Published(published) => {
                epoch.requests.postpone();
                if let Some(drain) = &mut epoch.drain {
                    drain.touch();
                }
                self.deliver(epoch, published);
            }
            Event::TakenOver => {
                epoch.is_taken_over = true;
                return Err("another client took the session over (SessionTakenOver)".into());
            }
            Event::Connected { .. } => return Err("the broker says CONNACK again".into()),
            Event::Ponged | Event::Other => {}
        }
        Ok(())
    }

    /// Does the work that is due by time.
    fn wake(epoch: &mut Epoch) -> Result<(), String> {
        let now = Instant::now();
        if epoch.requests.answer_by().is_some_and(|at| now >= at) {
            let request = match epoch.requests.is_subscribing() {
                true => "SUBSCRIBE",
                false => "UNSUBSCRIBE",
            };
            return Err(format!("the broker has not answered {request} (mqtt.connect_timeout)"));
        }
        if epoch.ask_again_at.is_some_and(|at| now >= at) {
            epoch.ask_again()?;
        }
        Ok(())
    }

    /// Returns the filters to subscribe to on a new connection.
    ///
    /// These are all filters, even if the session has them. The session may hold older filters from
    /// before this process. Brokers that were restarted may forget filters of shared groups
    /// (mosquitto 2.0.11 does).
    ///
    /// With MQTT 3.1.1, a repeated subscription would deliver every retained message again. There,
    /// known filters are left out. Filters of shared groups stay, because they get no retained
    /// messages.
    fn wanted(&self, session_present: bool) -> Vec<Subscription> {
        let is_known = session_present
            && self.is_session_subscribed
            && self.parts.settings.protocol == Protocol::V4;
        let wanted = self.parts.filters.iter().filter(|filter| filter.is_shared || !is_known);
        wanted.cloned().collect()
    }

    fn note_session(&mut self, session_present: bool) {
        if session_present {
            info!(connection = self.parts.index, "the broker resumed our session");
            return;
        }
        self.is_session_subscribed = false;
        match &mut self.away {
            // This is the same loss, until we are subscribed again.
            Some(away) if away.is_counted => {}
            Some(away) => {
                away.is_counted = true;
                self.parts.metrics.possible_gaps.inc();
                let (since, until) = (away.since, OffsetDateTime::now_utc());
                warn!(
                    %since, %until,
                    "the broker lost our session: messages of this time may be missing"
                );
            }
            None => {
                self.parts.metrics.absent_sessions.inc();
                info!(
                    connection = self.parts.index,
                    "the broker has no session of ours at the start: a new replica, or the session \
                     expired while none ran; it keeps messages from now on"
                );
            }
        }
    }

    /// Records the state of the subscriptions, once all SUBSCRIBEs are answered.
    fn note_subscribed(&mut self, epoch: &mut Epoch) {
        if epoch.requests.is_subscribing() {
            return;
        }
        (epoch.is_subscribed, self.has_ever_subscribed) = (true, true);
        (self.is_session_subscribed, self.away) = (epoch.short.is_empty(), None);
        let short = epoch.short.iter();
        let short = short.map(|short| (short.subscription.filter.clone(), short.reason.clone()));
        epoch.negotiated.short = short.collect();
        self.parts.grants.send_modify(|grants| {
            grants.insert(self.parts.index, epoch.negotiated.clone());
        });
        if epoch.short.is_empty() {
            epoch.waits.reset();
            self.parts.condition.ready();
            return;
        }
        let is_asked_again = epoch.short.iter().any(|short| short.is_asked_again);
        epoch.ask_again_at = is_asked_again.then(|| Instant::now() + epoch.waits.next_wait());
        let short = epoch.negotiated.short.iter();
        let short: Vec<_> = short.map(|(filter, why)| format!("{filter}: {why}")).collect();
        self.parts.condition.not_ready(short.join("; "));
    }

    fn deliver(&self, epoch: &mut Epoch, published: Published) {
        let is_qos0 = published.packet_id.is_none();
        if is_qos0 && !self.unsettled.try_add_qos0() {
            self.parts.metrics.qos0_dropped.inc();
            return;
        }
        let size = published.size();
        self.unsettled.add(size);
        let place = published.packet_id.map(|packet_id| epoch.window.push(packet_id));
        let unsettled = Arc::clone(&self.unsettled);
        let settlement = match place {
            Some(place) => {
                let (report, life) = (epoch.report.clone(), epoch.life.clone());
                Settlement::new(AckHandle { place, report, life, unsettled, size }, None)
            }
            None => {
                let dropped = self.parts.metrics.qos0_dropped.clone();
                Settlement::new(Unacknowledged { dropped, unsettled, size }, None)
            }
        };
        let ordering = self.parts.ordering.as_ref();
        let message = message::read(published, ordering, &self.parts.metrics);
        // An error means that the source is closing. A message that is dropped here is nacked.
        let _ = self.parts.outbox.send(Delivery::new(message, settlement));
    }
}

/// Takes the session over with a session that ends together with its connection.
pub(super) async fn end_session(
    dial: &dyn Dial,
    settings: &Mqtt,
    index: u16,
) -> Result<(), String> {
    Epoch::open(dial, settings, index, Session::End).await?.leave().await;
    Ok(())
}
