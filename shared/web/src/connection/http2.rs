//! Connection of HTTP/2.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use super::{Cut, Error, Limits, Routes, stopped};
use service::impatient::Impatient;

/// Maximum bytes of a body that are in memory before its handler reads them.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Maximum of those bytes in a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Maximum bytes of an answer that wait for its client.
const SEND_BUFFER: usize = 64 * 1024;
/// Pause between two pings, and the maximum wait for their answer. They find clients that are gone.
const PING: Duration = Duration::from_secs(20);
/// Time between the last answer and the end of a connection that is drained, if its client does not close
/// it. A client that is busy has this time to read the answer.
const LINGER: Duration = Duration::from_secs(3);

tokio::task_local! {
    /// Handle that cuts the request of this task.
    static CUT: Cut;
}

/// Answers requests until the connection ends.
pub(super) async fn serve(
    stream: Impatient<TcpStream>,
    routes: Routes,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Error> {
    let streams = Streams::default();
    let service = service_fn(move |mut request| {
        let routes = routes.clone();
        async move {
            // Runs in the task that `execute` spawns, which has the handle.
            request.extensions_mut().insert(CUT.with(Cut::clone));
            routes.answer(request).await
        }
    });
    let mut builder = http2::Builder::new(streams.clone());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = streams.quiet_for(limits.idle_timeout) => {}
        () = stopped(&mut stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection.as_mut() => Ok(ended?),
        // A client that does not answer would keep the connection open.
        () = streams.quiet_for(LINGER) => Ok(()),
    }
}

/// Tasks of the requests of a connection. Clones share them. They are cut with the connection.
#[derive(Debug, Clone, Default)]
struct Streams(Arc<Mutex<Tasks>>);

#[derive(Debug, Default)]
struct Tasks {
    tasks: JoinSet<()>,
    /// Number of requests since the beginning.
    count: u64,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there was no request for a time. It notices that after twice the time at most.
    async fn quiet_for(&self, time: Duration) {
        let mut ticks = interval(time);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = None;
        loop {
            ticks.tick().await;
            let count = {
                let mut all = self.lock();
                all.reap();
                all.tasks.is_empty().then_some(all.count)
            };
            if count.is_some() && count == last {
                return;
            }
            last = count;
        }
    }
}

impl Tasks {
    /// Forgets the tasks that have ended. A panic in a handler is answered and logged before.
    fn reap(&mut self) {
        while self.tasks.try_join_next().is_some() {}
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, task: F) {
        let mut all = self.lock();
        all.reap();
        all.count += 1;
        let cut = Cut::default();
        all.tasks.spawn(async move {
            tokio::select! {
                () = CUT.scope(cut.clone(), task) => {}
                // The end of the task resets the stream of the request.
                () = cut.asked() => debug!("a request was cut: its client takes nothing of the answer"),
            }
        });
    }
}
