//! Connection of HTTP/1.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{Error, Limits, Routes, stopped};
use service::impatient::Impatient;

/// Answers requests until the connection ends.
pub(super) async fn serve(
    stream: Impatient<TcpStream>,
    routes: Routes,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Error> {
    let has_request = AtomicBool::new(false);
    let service = service_fn(|request| {
        has_request.store(true, Ordering::Relaxed);
        routes.answer(request)
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.max_header_bytes);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = stopped(&mut stop) => {}
    }
    if !has_request.load(Ordering::Relaxed) {
        // Before its first request, hyper takes a connection for a busy one.
        return Ok(());
    }
    connection.as_mut().graceful_shutdown();
    Ok(connection.await?)
}
