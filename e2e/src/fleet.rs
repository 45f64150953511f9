//! A fleet of simulated devices. It records what it sent and what was acknowledged.

mod http;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, Outgoing, QoS};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use crate::reading::Reading;
use crate::timings;

/// Behaviour of a fleet.
#[derive(Debug, Clone)]
pub struct FleetPlan {
    /// Way of the readings.
    pub transport: Transport,
    /// Port of the broker, or of ingest over HTTP, on this machine.
    pub port: u16,
    /// First level of the topics.
    pub branch: &'static str,
    /// Number of devices. They send in turn.
    pub devices: u32,
    /// Number of readings to send; `None` sends until the fleet is stopped.
    pub messages: Option<u64>,
    /// Readings a second over all devices; 0 sends as fast as the receiver acknowledges.
    pub rate: u32,
    /// Size of a payload in bytes.
    pub payload_bytes: usize,
    /// Number of connections that the devices share.
    pub connections: u32,
    /// Most PUBLISHes without PUBACK on one connection.
    pub window: u16,
}

/// Way of a fleet's readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// MQTT, with QoS 1.
    #[default]
    Mqtt,
    /// `POST /ingest`. Every second connection sends batches, if the rate is not limited.
    Http,
}

impl Default for FleetPlan {
    fn default() -> Self {
        Self {
            transport: Transport::Mqtt,
            port: 1883,
            branch: "devices",
            devices: 100,
            messages: None,
            rate: 0,
            payload_bytes: 200,
            connections: 4,
            window: 100,
        }
    }
}

/// Time between two checks whether a paused fleet may continue.
const PAUSE_CHECK: Duration = Duration::from_millis(10);

/// Log of a fleet. Clones share the same log.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Records>);

#[derive(Debug, Default)]
struct Records {
    sent: Mutex<Vec<Reading>>,
    acknowledged: Mutex<Vec<(Reading, Instant)>>,
    refused: Mutex<Vec<String>>,
    is_stopped: AtomicBool,
    is_paused: AtomicBool,
}

impl Log {
    /// Returns the number of readings that were handed to a connection.
    #[must_use]
    pub fn sent_count(&self) -> u64 {
        lock(&self.0.sent).len() as u64
    }

    /// Returns all readings that were handed to a connection.
    #[must_use]
    pub fn sent(&self) -> HashSet<Reading> {
        lock(&self.0.sent).iter().copied().collect()
    }

    /// Returns the number of readings whose acknowledgement came.
    #[must_use]
    pub fn acknowledged_count(&self) -> u64 {
        lock(&self.0.acknowledged).len() as u64
    }

    /// Returns the answer to each reading that was refused permanently, over HTTP.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        lock(&self.0.refused).clone()
    }

    /// Pauses sending until [`Log::resume`]. Returns once all sent readings are acknowledged.
    pub async fn pause(&self) {
        self.0.is_paused.store(true, Ordering::Relaxed);
        while self.acknowledged_count() < self.sent_count() {
            sleep(PAUSE_CHECK).await;
        }
    }

    /// Continues sending.
    pub fn resume(&self) {
        self.0.is_paused.store(false, Ordering::Relaxed);
    }

    /// Returns the readings whose acknowledgement came, with the time. Each of them must arrive.
    #[must_use]
    pub fn acknowledged(&self) -> Vec<(Reading, Instant)> {
        lock(&self.0.acknowledged).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running fleet. Dropping it ends it at once.
#[derive(Debug)]
pub struct Fleet {
    name: String,
    plan: FleetPlan,
    log: Log,
    devices: JoinSet<()>,
}

impl Fleet {
    /// Starts sending. Connections are retried forever.
    #[must_use]
    pub fn start(plan: FleetPlan) -> Self {
        let transport = plan.transport;
        Self::start_with(plan, move |index, readings| async move {
            match transport {
                Transport::Mqtt => Sender { readings }.run(index).await,
                Transport::Http => readings.send_over_http(index).await,
            }
        })
    }

    /// Starts a fleet that sends in a way of its own. `send` is called for each connection, with its
    /// index. A fleet whose device panics does not end well.
    #[must_use]
    pub fn start_with<F>(plan: FleetPlan, send: impl Fn(u32, Readings) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        timings::phase(timings::SEND);
        let name = Uuid::new_v4().simple().to_string();
        let log = Log::default();
        let mut devices = JoinSet::new();
        let next = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        for index in 0..plan.connections {
            let readings = Readings {
                fleet: name.clone(),
                plan: plan.clone(),
                log: log.clone(),
                next: Arc::clone(&next),
                started,
            };
            devices.spawn(send(index, readings));
        }
        Self { name, plan, log, devices }
    }

    /// Returns the name of the fleet, which is in every payload.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the plan of the fleet.
    #[must_use]
    pub fn plan(&self) -> &FleetPlan {
        &self.plan
    }

    /// Returns the log of the fleet.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Stops sending. Readings on their way are still waited for.
    pub fn stop(&self) {
        self.log.0.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Waits until everything is sent and acknowledged. Cancel safe.
    ///
    /// # Panics
    /// A device panicked.
    pub async fn finish(&mut self) {
        timings::phase(timings::SEND);
        while let Some(ended) = self.devices.join_next().await {
            ended.expect("no device of a fleet panics");
        }
    }
}

/// Readings that one connection of a fleet sends.
#[derive(Debug)]
pub struct Readings {
    fleet: String,
    plan: FleetPlan,
    log: Log,
    next: Arc<AtomicU64>,
    started: Instant,
}

impl Readings {
    /// Waits until the next reading is due, and notes it as sent. Returns `None` at the end. It is
    /// not cancel safe: a reading may be skipped.
    pub async fn next(&self) -> Option<Reading> {
        let reading = self.draw()?;
        if self.plan.rate > 0 {
            let due = reading.number as f64 / f64::from(self.plan.rate);
            sleep_until(self.started + Duration::from_secs_f64(due)).await;
        }
        while self.log.0.is_paused.load(Ordering::Relaxed) {
            sleep(PAUSE_CHECK).await;
        }
        if self.log.0.is_stopped.load(Ordering::Relaxed) {
            return None;
        }
        lock(&self.log.0.sent).push(reading);
        Some(reading)
    }

    /// Returns the next reading at once, and notes it as sent. Returns `None` at the end.
    fn take(&self) -> Option<Reading> {
        let reading = self.draw()?;
        lock(&self.log.0.sent).push(reading);
        Some(reading)
    }

    fn draw(&self) -> Option<Reading> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if self.plan.messages.is_some_and(|messages| number >= messages) {
            return None;
        }
        let device = u32::try_from(number % u64::from(self.plan.devices)).unwrap_or(0);
        Some(Reading { device, number })
    }

    /// Returns the payload of a reading.
    #[must_use]
    pub fn payload(&self, reading: Reading) -> Vec<u8> {
        reading.payload(&self.fleet, self.plan.payload_bytes)
    }

    /// Returns the id of a reading, which is the same at every attempt, and that of no other fleet.
    #[must_use]
    pub fn id(&self, reading: Reading) -> String {
        format!("{}-{}", self.fleet, reading.number)
    }

    /// Notes that a reading is acknowledged.
    pub fn acknowledge(&self, reading: Reading) {
        lock(&self.log.0.acknowledged).push((reading, Instant::now()));
    }
}

/// One connection of a fleet over MQTT.
struct Sender {
    readings: Readings,
}

impl Sender {
    async fn run(self, index: u32) {
        let Readings { fleet, plan, .. } = &self.readings;
        let id = format!("fleet-{}-{index}", &fleet[..8]);
        let mut options = MqttOptions::new(id, "127.0.0.1", plan.port);
        options.set_keep_alive(Duration::from_secs(30));
        options.set_clean_session(false);
        options.set_inflight(plan.window);
        let largest = plan.payload_bytes + 1024;
        options.set_max_packet_size(largest, largest);
        let (client, eventloop) = AsyncClient::new(options, 10);
        let queued = Mutex::new(VecDeque::new());
        let is_done = AtomicBool::new(false);
        tokio::join!(
            async {
                self.publish(&client, &queued).await;
                is_done.store(true, Ordering::Relaxed);
                // Wakes the poll, which waits for PUBACKs.
                drop(client.subscribe(format!("fleet/{fleet}"), QoS::AtMostOnce).await);
            },
            self.poll(eventloop, &queued, &is_done),
        );
    }

    async fn publish(&self, client: &AsyncClient, queued: &Mutex<VecDeque<Reading>>) {
        while let Some(reading) = self.readings.next().await {
            let payload = self.readings.payload(reading);
            lock(queued).push_back(reading);
            let topic = reading.topic(self.readings.plan.branch);
            if client.publish(topic, QoS::AtLeastOnce, false, payload).await.is_err() {
                return;
            }
        }
    }

    /// Polls until all is sent and acknowledged.
    async fn poll(
        &self,
        mut eventloop: EventLoop,
        queued: &Mutex<VecDeque<Reading>>,
        is_done: &AtomicBool,
    ) {
        let mut on_their_way: HashMap<u16, Reading> = HashMap::new();
        loop {
            match eventloop.poll().await {
                // After a reconnect, packets with a known id are sent again.
                Ok(Event::Outgoing(Outgoing::Publish(id))) if !on_their_way.contains_key(&id) => {
                    if let Some(reading) = lock(queued).pop_front() {
                        on_their_way.insert(id, reading);
                    }
                }
                Ok(Event::Incoming(Incoming::PubAck(ack))) => {
                    if let Some(reading) = on_their_way.remove(&ack.pkid) {
                        self.readings.acknowledge(reading);
                    }
                }
                Ok(_) => {}
                // The broker is away. Readings on their way are sent again.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
            let is_sent = || lock(queued).is_empty();
            if is_done.load(Ordering::Relaxed) && on_their_way.is_empty() && is_sent() {
                return;
            }
        }
    }
}
