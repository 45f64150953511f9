//! Tests of the task that sends requests. The test answers them.

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::*;

/// Requests that wait for an answer of the test.
#[derive(Clone, Default)]
struct ScriptedCalls(Arc<Mutex<VecDeque<Call>>>);

struct Call {
    request: Request,
    answer: oneshot::Sender<Result<(), Status>>,
}

impl LeaseClient for ScriptedCalls {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<(), Status>> {
        let (answer, answered) = oneshot::channel();
        self.0.lock().unwrap().push_back(Call { request, answer });
        Box::pin(async {
            match answered.await {
                Ok(outcome) => outcome,
                // The test gives no answer.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

impl ScriptedCalls {
    /// Returns the requests since the last call, once there is nothing more to do at this moment.
    async fn taken(&self) -> Vec<Call> {
        sleep(Duration::from_millis(1)).await;
        self.0.lock().unwrap().drain(..).collect()
    }
}

impl Call {
    fn ids(&self) -> usize {
        let (Request::Acknowledge(ids) | Request::Lease(ids, _)) = &self.request;
        ids.len()
    }

    async fn answer(self, outcome: Result<(), Status>) {
        self.answer.send(outcome).unwrap();
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_each_kind_are_limited() {
    let (leases, _) = leases();
    let numbers = leases.hold((MAX_REQUESTS + 2) * MAX_IDS);
    let calls = ScriptedCalls::default();
    tokio::spawn(leases.clone().keep(calls.clone()));

    sleep(SCAN_INTERVAL).await;
    let mut extensions = calls.taken().await;
    assert_eq!(extensions.len(), MAX_REQUESTS);
    assert!(extensions.iter().all(|call| matches!(call.request, Request::Lease(_, EXTENSION))));
    extensions.remove(0).answer(Ok(())).await;
    let next = calls.taken().await;
    assert!(matches!(&next[..], [call] if matches!(call.request, Request::Lease(_, EXTENSION))));

    numbers.iter().for_each(|number| leases.settle(*number, Disposition::Ack));
    let mut acks = calls.taken().await;
    assert_eq!(acks.len(), MAX_REQUESTS, "beside the extensions");
    let is_ack = |call: &Call| matches!(call.request, Request::Acknowledge(_));
    assert!(acks.iter().all(is_ack));
    acks.remove(0).answer(Ok(())).await;
    assert!(matches!(&calls.taken().await[..], [call] if is_ack(call)));
}

#[tokio::test(start_paused = true)]
async fn a_close_sends_what_waits_and_ends_when_all_is_confirmed() {
    let (leases, _) = leases();
    let numbers = leases.hold(1);
    let calls = ScriptedCalls::default();
    let keeper = tokio::spawn(leases.clone().keep(calls.clone()));
    leases.settle(numbers[0], Disposition::Ack);
    assert_eq!(calls.taken().await.len(), 0, "it waits for others");

    leases.close();
    let [call] = calls.taken().await.try_into().ok().unwrap();
    assert_eq!(call.ids(), 1);
    // There is time for another attempt.
    sleep(CLOSE_CALL_TIMEOUT + RETRY_DELAY).await;
    let [call] = calls.taken().await.try_into().ok().unwrap();
    assert!(!keeper.is_finished());
    call.answer(Ok(())).await;

    assert!(keeper.is_finished());
}

#[tokio::test(start_paused = true)]
async fn an_extension_that_failed_is_repeated_soon() {
    let (leases, _) = leases();
    leases.hold(1);
    let calls = ScriptedCalls::default();
    tokio::spawn(leases.clone().keep(calls.clone()));
    assert_eq!(calls.taken().await.len(), 0);
    sleep(SCAN_INTERVAL).await;
    let [call] = calls.taken().await.try_into().ok().unwrap();

    call.answer(Err(Status::unavailable("again"))).await;
    sleep(RETRY_DELAY - Duration::from_millis(10)).await;
    assert_eq!(calls.taken().await.len(), 0);
    sleep(Duration::from_millis(10)).await;

    assert_eq!(calls.taken().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_has_at_most_a_third_of_a_lease() {
    let settings =
        Subscription { lease_extension: Duration::from_secs(12), ..Subscription::default() };
    let leases = Leases::new(&settings, SourceMetrics::default());
    leases.hold(1);
    let calls = ScriptedCalls::default();
    tokio::spawn(leases.clone().keep(calls.clone()));

    sleep(SCAN_INTERVAL).await;
    assert_eq!(calls.taken().await.len(), 1);

    sleep(Duration::from_secs(4) + RETRY_DELAY - Duration::from_millis(10)).await;
    assert_eq!(calls.taken().await.len(), 0);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(calls.taken().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_full_does_not_wait() {
    let (leases, _) = leases();
    let numbers = leases.hold(MAX_IDS);
    let calls = ScriptedCalls::default();
    tokio::spawn(leases.clone().keep(calls.clone()));
    let (last, others) = numbers.split_last().unwrap();
    others.iter().for_each(|number| leases.settle(*number, Disposition::Ack));
    assert_eq!(calls.taken().await.len(), 0);

    leases.settle(*last, Disposition::Ack);

    let [call] = calls.taken().await.try_into().ok().unwrap();
    assert_eq!(call.ids(), MAX_IDS);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_had_no_answer_in_time_is_divided() {
    let (leases, _) = leases();
    let numbers = leases.hold(MAX_IDS);
    let calls = ScriptedCalls::default();
    tokio::spawn(leases.clone().keep(calls.clone()));
    numbers.iter().for_each(|number| leases.settle(*number, Disposition::Ack));
    assert_eq!(calls.taken().await.len(), 1);

    sleep(CALL_TIMEOUT + RETRY_DELAY).await;

    let ids: Vec<_> = calls.taken().await.iter().map(Call::ids).collect();
    assert_eq!(ids, [MAX_IDS / 2, MAX_IDS / 2]);
}

#[tokio::test(start_paused = true)]
async fn answers_that_cannot_be_sent_for_long_are_forgotten() {
    let (leases, metrics) = leases();
    leases.hold(3).iter().for_each(|number| leases.settle(*number, Disposition::Ack));
    leases.hold(1);
    // One of them is under way.
    leases.next_answers(Instant::now() + FLUSH_DELAY, 1).unwrap();

    advance(EXTENSION * 2).await;
    leases.scan(Instant::now());
    assert_eq!(leases.state().leases.len(), 4);
    advance(Duration::from_millis(1)).await;
    leases.scan(Instant::now());

    let left: Vec<_> = leases.state().leases.keys().copied().collect();
    assert_eq!(left, [0, 3], "the one under way, and the one that is not settled");
    assert_eq!(metrics.lost_acks.get(), 2);
    assert!(leases.sent().is_none() && leases.state().acks.next_time().is_none());
}
