//! Looks at all services once a second, and makes the state of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::replaying::letter_id;
use crate::replicas::Replicas;
use crate::settings::Settings;
use crate::stage::{self, Answers, Letter, Status, StatusWish, WaitingFor};
use crate::state::{
    DeadLetters, EndToEnd, Kind, Latency, LetterState, ReasonCount, ReplicaState, StageState,
    State, TapState, mark_slowest,
};
use crate::watching::Taps;
use crate::window::Window;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Number of looks after which facts are read again that seldom change.
const STATUS_LOOKS: u64 = 10;
/// Dead letters that are shown.
const MAX_LETTERS: usize = 20;

/// Latest state, as text that all viewers get. It lacks the first brace, and the rights.
#[derive(Debug, Default)]
pub(crate) struct Latest {
    /// Empty before the first look.
    pub with_payloads: Bytes,
    pub without_payloads: Bytes,
}

/// Task that looks at the services.
pub(crate) struct Poller {
    settings: Arc<Settings>,
    replicas: Replicas,
    taps: Taps,
    viewers: Arc<Semaphore>,
    stages: Vec<Watched>,
    letters: BTreeMap<LetterKey, LetterState>,
    looks: u64,
}

/// Order of dead letters: the time, then the id.
type LetterKey = (String, String);

/// What is known of a stage.
#[derive(Default)]
struct Watched {
    window: Window,
    /// By the address of the replica.
    status: BTreeMap<String, Status>,
}

impl Poller {
    pub(crate) fn new(
        settings: &Arc<Settings>,
        replicas: Replicas,
        taps: Taps,
        viewers: Arc<Semaphore>,
    ) -> Self {
        let stages = settings.services.iter().map(|_| Watched::default()).collect();
        let (settings, letters) = (Arc::clone(settings), BTreeMap::new());
        Self { settings, replicas, taps, viewers, stages, letters, looks: 0 }
    }

    /// Looks again and again.
    pub(crate) async fn run(mut self, news: watch::Sender<Arc<Latest>>) {
        let mut looks = interval(INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let state = self.look().await;
            news.send_replace(Arc::new(write(state)));
        }
    }

    async fn look(&mut self) -> State {
        let wants_status =
            if self.looks.is_multiple_of(STATUS_LOOKS) { StatusWish::Yes } else { StatusWish::No };
        self.looks += 1;
        let replicas = &self.replicas;
        let ask = async |index| {
            let addresses = replicas.of(index).await?;
            let asked = addresses.into_iter().map(|at| stage::ask(replicas, at, wants_status));
            Ok::<_, String>(join_all(asked).await)
        };
        let answers = join_all((0..self.stages.len()).map(ask)).await;
        let now = Instant::now();
        let (mut stages, mut unavailable) = (Vec::new(), None);
        for (index, answers) in answers.into_iter().enumerate() {
            let (state, closed) = self.stage(index, answers, now);
            stages.push(state);
            unavailable = unavailable.or(closed);
        }
        mark_slowest(&mut stages);
        self.state(stages, unavailable)
    }

    /// Makes the state of a stage. Also returns why its dead letters are not known.
    fn stage(
        &mut self,
        index: usize,
        answers: Result<Vec<Answers>, String>,
        now: Instant,
    ) -> (StageState, Option<String>) {
        let settings = &self.settings.services[index];
        let mut state = empty(&self.settings, index);
        let mut unavailable = None;
        let answers = answers.unwrap_or_else(|why| {
            state.replicas.push(not_reached(settings.url.clone(), "address", why));
            Vec::new()
        });
        for Answers { address, reached } in answers {
            let address = address.to_string();
            match reached {
                Err(why) => state.replicas.push(not_reached(address, "health port", why)),
                Ok(reached) => {
                    let watched = &mut self.stages[index];
                    watched.window.take(&address, &reached.sample);
                    state.in_flight += reached.sample.in_flight;
                    state.oldest_seconds = state.oldest_seconds.max(reached.sample.oldest_seconds);
                    if let Some(status) = reached.status {
                        watched.status.insert(address.clone(), status);
                    }
                    let status = watched.status.get(&address).cloned().unwrap_or_default();
                    let known: BTreeSet<_> = state.guarantees.iter().cloned().collect();
                    let new = status.guarantees.into_iter().filter(|text| !known.contains(text));
                    state.guarantees.extend(new);
                    state.replicas.push(ReplicaState {
                        address,
                        reachable: true,
                        ready: reached.is_ready,
                        version: status.version,
                        waiting_for: reached.waiting_for,
                    });
                    match reached.letters {
                        Ok(letters) => self.keep(index, letters),
                        Err(why) => unavailable = Some(why),
                    }
                }
            }
        }
        state.backlog = self.backlog(index);
        self.count(index, &mut state, now);
        (state, unavailable)
    }

    /// Returns what the stage before has sent and this one has not settled. Only messages since the
    /// start of the page server count.
    fn backlog(&self, index: usize) -> Option<u64> {
        let from = self.settings.services[index].from.as_ref()?;
        let before = self.settings.services.iter().position(|stage| stage.name == *from)?;
        let sent = self.stages[before].window.grown().sent;
        Some(sent.saturating_sub(self.stages[index].window.grown().settled()))
    }

    fn count(&mut self, index: usize, state: &mut StageState, now: Instant) {
        let window = &mut self.stages[index].window;
        window.end_look(now, state.backlog, state.oldest_seconds);
        let total = window.total();
        state.received = total.received;
        state.sent = total.sent;
        state.skipped = total.skipped;
        state.dead_lettered = total.dead_lettered;
        state.dropped = total.dropped;
        state.nacked = total.nacked;
        state.received_per_second = window.rate(|counts| counts.received);
        state.sent_per_second = window.rate(|counts| counts.sent);
        state.latency = Latency::of(&window.last_minute().ages);
        state.trend = window.trend();
    }

    /// Keeps the newest dead letters. Those of a replica that is gone stay.
    fn keep(&mut self, index: usize, letters: Vec<Letter>) {
        let stage = &self.settings.services[index];
        let can_replay = self.settings.dead_letters.is_some() && stage.subscription.is_some();
        for letter in letters {
            let id = letter_id(&stage.name, &letter.at, &letter.ingest_id);
            let replayable = can_replay && !letter.ingest_id.is_empty();
            let key = (letter.at.clone(), id.clone());
            self.letters.entry(key).or_insert_with(|| LetterState {
                id,
                stage: stage.name.clone(),
                reason: letter.reason,
                detail: Some(letter.detail),
                why: letter.why,
                at: letter.at,
                ingest_id: letter.ingest_id,
                device_id: letter.device_id,
                replayable,
                payload: letter.record.map(|record| record.text),
            });
        }
        while self.letters.len() > MAX_LETTERS {
            self.letters.pop_first();
        }
    }

    fn state(&self, stages: Vec<StageState>, unavailable: Option<String>) -> State {
        let windows = || self.settings.services.iter().zip(&self.stages);
        let by_reason = windows().flat_map(|(stage, watched)| {
            ReasonCount::all(&stage.name, &watched.window.total().reasons)
        });
        let sinks = windows().zip(&stages).filter(|(_, stage)| stage.kind == Kind::Sink);
        let end_to_end = sinks.filter_map(|((stage, watched), _)| {
            let latency = Latency::of(&watched.window.last_minute().end_to_end)?;
            Some(EndToEnd { sink: stage.name.clone(), latency })
        });
        let is_ready = |stage: &StageState| stage.replicas.iter().all(|replica| replica.ready);
        let viewers = self.settings.max_viewers - self.viewers.available_permits();
        State {
            at: now(),
            ready: stages.iter().all(is_ready),
            viewers,
            end_to_end: end_to_end.collect(),
            dead_letters: DeadLetters {
                total: stages.iter().map(|stage| stage.dead_lettered).sum(),
                by_reason: by_reason.collect(),
                recent: self.letters.values().rev().cloned().collect(),
                unavailable,
            },
            stages,
            tap: TapState { viewers: self.taps.viewers(), dropped: self.taps.dropped() },
        }
    }
}

fn not_reached(address: String, dependency: &str, detail: String) -> ReplicaState {
    let waiting_for = vec![WaitingFor { dependency: dependency.to_owned(), detail }];
    let (reachable, ready, version) = (false, false, String::new());
    ReplicaState { address, reachable, ready, version, waiting_for }
}

/// Returns the state of a stage of which nothing is known.
fn empty(settings: &Settings, index: usize) -> StageState {
    let stage = &settings.services[index];
    let has_next = settings.services.iter().any(|other| other.from.as_ref() == Some(&stage.name));
    let kind = match (&stage.from, has_next) {
        (None, _) => Kind::Source,
        (Some(_), true) => Kind::Transform,
        (Some(_), false) => Kind::Sink,
    };
    let (name, from) = (stage.name.clone(), stage.from.clone());
    StageState { name, kind, from, ..StageState::default() }
}

/// Returns the time in RFC 3339 with three digits after the second.
fn now() -> String {
    let form =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::now_utc().format(&form).unwrap_or_default()
}

/// Writes a state, once for all viewers.
fn write(mut state: State) -> Latest {
    let rest = |state: &State| {
        let json = state.with_payloads();
        Bytes::from(format!("{}\n\n", json.trim_start_matches('{')))
    };
    let with_payloads = rest(&state);
    state.remove_payloads();
    Latest { with_payloads, without_payloads: rest(&state) }
}
