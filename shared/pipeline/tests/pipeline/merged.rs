//! Tests of sources that are read as one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use message::Message;
use pipeline::backoff::Backoff;
use pipeline::metrics::ReasonLabel;
use pipeline::{Delivery, Disposition, Error, Merged, Metrics, Recovery, Settlement, Source};
use proptest::prelude::*;
use tokio::time::{Instant, sleep_until, timeout};

const RETRY: Backoff = Backoff { min: Duration::from_millis(1), max: Duration::from_millis(50) };

/// One result of a [`ScriptedSource`] source.
#[derive(Debug, Clone, Copy)]
enum ScriptedEvent {
    /// A message, this many milliseconds after the event before.
    Deliver(u64),
    Fail(Recovery),
}

/// Dispositions of a source, each with the number of its message.
type Dispositions = Arc<Mutex<Vec<(usize, Disposition)>>>;

/// A source that plays a list of events, then ends.
struct ScriptedSource {
    index: usize,
    events: VecDeque<ScriptedEvent>,
    /// Time of the next delivery. It stays when `receive` is dropped.
    due: Option<Instant>,
    delivered: usize,
    dispositions: Dispositions,
    closed: Arc<Mutex<usize>>,
}

impl Source for ScriptedSource {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        match self.events.front() {
            None => return Ok(None),
            Some(ScriptedEvent::Fail(recovery)) => {
                let error = recovery.because("receive", "scripted");
                self.events.pop_front();
                return Err(error);
            }
            Some(ScriptedEvent::Deliver(0)) => {}
            Some(ScriptedEvent::Deliver(after)) => {
                let after = Duration::from_millis(*after);
                sleep_until(*self.due.get_or_insert_with(|| Instant::now() + after)).await;
            }
        }
        self.events.pop_front();
        self.due = None;
        let number = self.delivered;
        self.delivered += 1;
        let message = Message { id: format!("{}/{number}", self.index), ..Message::new("data") };
        let dispositions = Arc::clone(&self.dispositions);
        let settle = move |disposition| dispositions.lock().unwrap().push((number, disposition));
        Ok(Some(Delivery::new(message, Settlement::new(settle, None))))
    }

    async fn close(self) -> Result<(), Error> {
        *self.closed.lock().unwrap() += 1;
        Ok(())
    }
}

/// A merged source, and everything that can be observed of its parts.
struct Observed {
    merged: Merged<ScriptedSource>,
    metrics: Metrics,
    dispositions: Vec<Dispositions>,
    closed: Arc<Mutex<usize>>,
}

fn merge(scripts: &[Vec<ScriptedEvent>]) -> Observed {
    let closed = Arc::default();
    let dispositions: Vec<Dispositions> = scripts.iter().map(|_| Arc::default()).collect();
    let source = |(index, events): (usize, &Vec<ScriptedEvent>)| ScriptedSource {
        index,
        events: events.iter().copied().collect(),
        due: None,
        delivered: 0,
        dispositions: Arc::clone(&dispositions[index]),
        closed: Arc::clone(&closed),
    };
    let sources: Vec<_> = scripts.iter().enumerate().map(source).collect();
    let metrics = Metrics::default();
    let merged = Merged::new(sources, RETRY, metrics.clone());
    Observed { merged, metrics, dispositions, closed }
}

impl Observed {
    /// Returns the number of failures that were followed by another attempt.
    fn retried(&self) -> usize {
        let retried = self.metrics.retried.get_or_create(&ReasonLabel { reason: "receive" });
        usize::try_from(retried.get()).unwrap()
    }
}

/// Returns the source of a delivery, and its number there.
fn origin(delivery: &Delivery) -> (usize, usize) {
    let (index, number) = delivery.message.id.split_once('/').unwrap();
    (index.parse().unwrap(), number.parse().unwrap())
}

fn scripts() -> impl Strategy<Value = Vec<Vec<ScriptedEvent>>> {
    let event = prop_oneof![
        4 => Just(ScriptedEvent::Deliver(0)),
        4 => (1..200_u64).prop_map(ScriptedEvent::Deliver),
        1 => Just(ScriptedEvent::Fail(Recovery::Retry)),
    ];
    proptest::collection::vec(proptest::collection::vec(event, 0..20), 0..5)
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(test)
}

proptest! {
    #[test]
    fn each_message_comes_once_in_the_order_of_its_source_which_gets_its_disposition(
        scripts in scripts(),
        patience in 1..30_u64,
    ) {
        block_on(async {
            let mut observed = merge(&scripts);
            let mut expected: Vec<Vec<(usize, Disposition)>> = vec![Vec::new(); scripts.len()];
            loop {
                // Receiving is given up again and again. Nothing may be lost by that.
                let receive = timeout(Duration::from_millis(patience), observed.merged.receive());
                let delivery = match receive.await {
                    Err(_given_up) => continue,
                    Ok(Ok(Some(delivery))) => delivery,
                    Ok(Ok(None)) => break,
                    Ok(Err(error)) => return Err(TestCaseError::fail(error.to_string())),
                };
                let (index, number) = origin(&delivery);
                prop_assert_eq!(number, expected[index].len(), "source {}", index);
                if (index + number) % 3 == 0 {
                    expected[index].push((number, Disposition::Nack));
                    delivery.nack();
                } else {
                    expected[index].push((number, Disposition::Ack));
                    delivery.ack();
                }
            }
            let failures = observed.retried();
            let Observed { merged, dispositions, closed, .. } = observed;
            merged.close().await.unwrap();

            let is_failure = |event: &&ScriptedEvent| matches!(event, ScriptedEvent::Fail(_));
            let all = || scripts.iter().flatten();
            prop_assert_eq!(failures, all().filter(is_failure).count());
            prop_assert_eq!(expected.iter().flatten().count() + failures, all().count());
            let dispositions = dispositions.iter().map(|source| source.lock().unwrap().clone());
            prop_assert_eq!(dispositions.collect::<Vec<_>>(), expected);
            prop_assert_eq!(*closed.lock().unwrap(), scripts.len());
            Ok(())
        })?;
    }

    #[test]
    fn sources_that_are_ready_take_turns(counts in proptest::collection::vec(0..20_usize, 1..6)) {
        block_on(async {
            let scripts: Vec<_> =
                counts.iter().map(|count| vec![ScriptedEvent::Deliver(0); *count]).collect();
            let mut merged = merge(&scripts).merged;
            let mut delivered = vec![0; counts.len()];
            while let Some(delivery) = merged.receive().await.unwrap() {
                delivered[origin(&delivery).0] += 1;
                delivery.ack();
                let most = delivered.iter().max().copied().unwrap_or(0);
                for (delivered, count) in delivered.iter().zip(&counts) {
                    prop_assert!(delivered == count || delivered + 1 >= most, "{delivered} of {most}");
                }
            }
            prop_assert_eq!(delivered, counts);
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_permanently_ends_all_and_all_are_closed() {
    let scripts = [
        vec![ScriptedEvent::Deliver(10); 5],
        vec![ScriptedEvent::Deliver(15), ScriptedEvent::Fail(Recovery::Stop)],
        vec![],
    ];
    let Observed { mut merged, closed, .. } = merge(&scripts);

    let mut delivered = Vec::new();
    let error = loop {
        match merged.receive().await {
            Ok(delivery) => delivered.push(origin(&delivery.unwrap())),
            Err(error) => break error,
        }
    };
    merged.close().await.unwrap();

    assert_eq!(error.recovery(), Recovery::Stop);
    assert_eq!(delivered, [(0, 0), (1, 0)]);
    assert_eq!(*closed.lock().unwrap(), 3);
}

/// A source that fails must not hold up the others for the whole of its back-off.
#[tokio::test(start_paused = true)]
async fn a_source_that_waits_after_a_failure_lets_the_others_deliver() {
    let scripts =
        [vec![ScriptedEvent::Fail(Recovery::Retry); 4], vec![ScriptedEvent::Deliver(0); 20]];
    let mut observed = merge(&scripts);
    let start = Instant::now();

    for _ in 0..20 {
        observed.merged.receive().await.unwrap().unwrap().ack();
    }

    assert_eq!((observed.retried(), start.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn sources_are_closed_while_they_wait_for_a_delivery() {
    let scripts =
        [vec![ScriptedEvent::Deliver(1_000_000)], vec![ScriptedEvent::Deliver(0)], vec![]];
    let Observed { mut merged, dispositions, closed, .. } = merge(&scripts);
    let start = Instant::now();

    let delivery = merged.receive().await.unwrap().unwrap();
    merged.close().await.unwrap();
    delivery.ack();

    assert_eq!((*closed.lock().unwrap(), start.elapsed()), (3, Duration::ZERO));
    assert_eq!(*dispositions[1].lock().unwrap(), [(0, Disposition::Ack)], "acked after the close");
}
