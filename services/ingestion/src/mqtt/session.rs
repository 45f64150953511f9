//! State of one connection. It does not outlive the connection.

use pipeline::Disposition;
use pipeline::backoff::Waits;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::ack::{Life, Settled};
use super::client::{Codec, Event, Request, Session};
use super::dial::Dial;
use super::drain::{Drain, LEAVE_TIMEOUT};
use super::negotiated::Negotiated;
use super::requests::Requests;
use super::security;
use super::window::Window;
use super::wire::{Reading, Wire};
use crate::config::{Mqtt, Protocol};
use crate::routes::Subscription;

/// Filter that was refused or granted a lower QoS than requested.
pub(super) struct Shortfall {
    pub subscription: Subscription,
    pub reason: String,
    /// True if the filter is requested again on this connection. With MQTT 3.1.1, a granted filter
    /// is not, because each SUBSCRIBE delivers all its retained messages again [MQTT-3.8.4-3].
    pub is_asked_again: bool,
}

/// Connection that the broker has accepted.
pub(super) struct Epoch {
    pub wire: Wire,
    pub session_present: bool,
    pub negotiated: Negotiated,
    pub window: Window,
    pub requests: Requests,
    pub dispositions: mpsc::UnboundedReceiver<Settled>,
    /// The channel is unbounded, but holds at most one disposition for each unacknowledged message.
    pub report: mpsc::UnboundedSender<Settled>,
    protocol: Protocol,
    /// Filters that were refused or granted a lower QoS than requested.
    pub short: Vec<Shortfall>,
    /// Time at which to request those filters again.
    pub ask_again_at: Option<Instant>,
    pub waits: Waits,
    pub drain: Option<Drain>,
    pub life: Life,
    pub is_taken_over: bool,
    pub is_subscribed: bool,
    pub has_acked: bool,
}

impl Epoch {
    /// Connects to the broker.
    ///
    /// # Errors
    /// Returns what failed, or that the broker has not answered in time.
    pub(super) async fn open(
        dial: &dyn Dial,
        settings: &Mqtt,
        index: u16,
        session: Session,
    ) -> Result<Self, String> {
        let most = settings.connect_timeout;
        let greeting = Box::pin(Self::greet(dial, settings, index, session));
        let late =
            || format!("the broker has not answered CONNECT in {most:?} (mqtt.connect_timeout)");
        timeout(most, greeting).await.unwrap_or_else(|_| Err(late()))
    }

    async fn greet(
        dial: &dyn Dial,
        settings: &Mqtt,
        index: u16,
        session: Session,
    ) -> Result<Self, String> {
        let login = match settings.username {
            Some(_) => {
                let settings = settings.clone();
                security::reading(move || security::credentials(&settings)).await?
            }
            None => None,
        };
        let stream = dial.dial(settings).await?;
        // This long keep-alive prevents pings before the CONNACK.
        let mut wire = Wire::new(stream, Codec::new(settings), settings.connect_timeout * 2);
        wire.say(Request::Connect { settings, index, session, login })?;
        let Event::Connected { session_present, negotiated } = wire.next(Reading::On).await? else {
            return Err("the broker answers CONNECT with something else".into());
        };
        wire.codec.max_sent_bytes = negotiated.max_packet_bytes;
        wire.set_keep_alive(negotiated.keep_alive(settings));
        let (report, dispositions) = mpsc::unbounded_channel();
        Ok(Self {
            wire,
            session_present,
            negotiated,
            window: Window::default(),
            requests: Requests::new(settings.connect_timeout),
            dispositions,
            report,
            protocol: settings.protocol,
            short: Vec::new(),
            ask_again_at: None,
            waits: settings.reconnect.waits(),
            drain: None,
            life: Life::default(),
            is_taken_over: false,
            is_subscribed: false,
            has_acked: false,
        })
    }

    /// Subscribes to filters.
    pub(super) fn subscribe(&mut self, filters: &[Subscription]) -> Result<(), String> {
        self.requests.subscribe(&mut self.wire, filters)
    }

    /// Ends subscriptions.
    pub(super) fn unsubscribe(&mut self, filters: &[String]) -> Result<(), String> {
        self.requests.unsubscribe(&mut self.wire, filters)
    }

    /// Requests again the filters that the broker did not grant.
    pub(super) fn ask_again(&mut self) -> Result<(), String> {
        self.ask_again_at = None;
        let short = std::mem::take(&mut self.short).into_iter();
        let (again, kept): (Vec<_>, Vec<_>) = short.partition(|short| short.is_asked_again);
        self.short = kept;
        let filters: Vec<_> = again.into_iter().map(|short| short.subscription).collect();
        self.subscribe(&filters)
    }

    /// Handles a SUBACK and records the filters that were not granted.
    pub(super) fn subscribed(
        &mut self,
        packet_id: u16,
        answers: &[Result<u8, String>],
    ) -> Result<(), String> {
        let Some(filters) = self.requests.subscribed(packet_id) else { return Ok(()) };
        if filters.len() != answers.len() {
            let (asked, answered) = (filters.len(), answers.len());
            return Err(format!("the broker answers {answered} filters of {asked}"));
        }
        for (subscription, answer) in filters.into_iter().zip(answers) {
            let asked = subscription.qos;
            let is_asked_again =
                answer.is_err() || subscription.is_shared || self.protocol == Protocol::V5;
            let reason = match answer {
                Ok(granted) if *granted >= asked => continue,
                Ok(granted) => {
                    format!("the broker grants QoS {granted}, QoS {asked} was asked for")
                }
                Err(why) => format!("the broker refuses the subscription: {why}"),
            };
            self.short.push(Shortfall { subscription, reason, is_asked_again });
        }
        Ok(())
    }

    /// Handles the outcome of a message, and all further outcomes that are already known.
    pub(super) fn settle_all(&mut self, first: Settled) -> Result<(), String> {
        let mut next = Some(first);
        while let Some(settled) = next {
            self.settle(settled)?;
            next = self.dispositions.try_recv().ok();
        }
        self.send_acks()
    }

    fn settle(&mut self, settled: Settled) -> Result<(), String> {
        match settled.disposition {
            // The message cannot succeed, so nobody needs it again.
            Disposition::Ack | Disposition::DeadLettered(_) | Disposition::Dropped(_) => {
                self.window.ack(settled.place);
                Ok(())
            }
            // MQTT cannot nack a single message, but a new connection delivers it again.
            Disposition::Nack => Err("a message could not be settled".into()),
        }
    }

    /// Sends the acknowledgements that are due.
    fn send_acks(&mut self) -> Result<(), String> {
        while let Some(packet_id) = self.window.due() {
            self.wire.say(Request::Ack { packet_id })?;
            self.window.pop();
            self.has_acked = true;
        }
        Ok(())
    }

    /// Returns the time of the next check of requests and drain, if nothing else happens before.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let drain = self.drain.as_ref();
        let drain = drain.and_then(|drain| drain.wake_at(&self.wire, &self.window));
        [self.requests.answer_by(), self.ask_again_at, drain].into_iter().flatten().min()
    }

    /// Sends the acknowledgements that are due, then DISCONNECT. Messages whose acknowledgements
    /// cannot be sent in time are delivered again.
    pub(super) async fn leave(mut self) {
        while let Ok(Settled { place, disposition }) = self.dispositions.try_recv() {
            if disposition != Disposition::Nack {
                self.window.ack(place);
            }
        }
        // If an acknowledgement cannot be written, the broker sends its message again.
        drop(self.send_acks());
        drop(timeout(LEAVE_TIMEOUT, self.wire.leave()).await);
    }
}
