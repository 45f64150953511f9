//! Transforms made of functions, and a decorator of transforms.
//!
//! A function of a message is a [`Transform`] itself:
//!
//! ```
//! use message::Message;
//! use pipeline::{Error, Step, Transform};
//!
//! fn is_transform<T: Transform<Record = usize>>(_: &T) {}
//!
//! let length = |message: &Message| -> Result<Step<usize>, Error> {
//!     Ok(Step::Pass(message.data.len()))
//! };
//! is_transform(&length);
//! ```

use std::ops::RangeInclusive;

use futures::future::BoxFuture;

use crate::hops::{Ids, RecordText};
use crate::reasons::{PAYLOAD_TOO_LARGE, PAYLOAD_TOO_SMALL};
use crate::{Error, Event, Step, Transform};

impl<F, E, R> Transform<E> for F
where
    F: Fn(&E) -> Result<Step<R>, Error> + Send + Sync + 'static,
    E: Event,
    R: Send + 'static,
{
    type Record = R;

    async fn apply(&self, message: &E) -> Result<Step<R>, Error> {
        self(message)
    }
}

/// Transform of a function that waits, from [`from_async_fn`].
#[derive(Debug, Clone)]
pub struct FromAsyncFn<F>(F);

/// Creates a transform of a function that waits, for example for a lookup over the network.
///
/// ```
/// use message::Message;
/// use pipeline::Step;
/// use pipeline::transform::from_async_fn;
///
/// let transform = from_async_fn(|message: &Message| {
///     Box::pin(async move {
///         tokio::task::yield_now().await;
///         Ok(Step::Pass(message.data.clone()))
///     })
/// });
/// # fn is_transform(_: impl pipeline::Transform) {}
/// # is_transform(transform);
/// ```
pub fn from_async_fn<F, E, R>(function: F) -> FromAsyncFn<F>
where
    F: for<'a> Fn(&'a E) -> BoxFuture<'a, Result<Step<R>, Error>> + Send + Sync + 'static,
{
    FromAsyncFn(function)
}

impl<F, E, R> Transform<E> for FromAsyncFn<F>
where
    F: for<'a> Fn(&'a E) -> BoxFuture<'a, Result<Step<R>, Error>> + Send + Sync + 'static,
    E: Event,
    R: Send + 'static,
{
    type Record = R;

    async fn apply(&self, message: &E) -> Result<Step<R>, Error> {
        (self.0)(message).await
    }
}

/// Transform that bounds the size of payloads. It skips a message whose payload is outside of the
/// bounds, and passes all others to another transform.
///
/// A skipped message is acknowledged, and counted as `payload_too_small` or `payload_too_large`. The
/// list [`PAYLOAD_SIZE`](crate::reasons::PAYLOAD_SIZE) belongs to the skipped reasons of its
/// pipeline.
#[derive(Debug, Clone)]
pub struct BoundedPayload<T> {
    transform: T,
    bytes: RangeInclusive<usize>,
}

/// Error of bounds that no payload can keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no payload has {min} to {max} bytes: the minimum must not be greater than the maximum")]
pub struct EmptyBounds {
    min: usize,
    max: usize,
}

impl<T> BoundedPayload<T> {
    /// Bounds the payloads that a transform gets. Both bounds are allowed sizes in bytes.
    ///
    /// # Errors
    /// Fails for a minimum above the maximum, because all messages would be skipped.
    pub fn new(transform: T, bytes: RangeInclusive<usize>) -> Result<Self, EmptyBounds> {
        if bytes.is_empty() {
            return Err(EmptyBounds { min: *bytes.start(), max: *bytes.end() });
        }
        Ok(Self { transform, bytes })
    }
}

impl<T: Transform<E>, E: Event> Transform<E> for BoundedPayload<T> {
    type Record = T::Record;

    async fn apply(&self, message: &E) -> Result<Step<T::Record>, Error> {
        let size = message.payload_bytes();
        if size < *self.bytes.start() {
            return Ok(Step::Skip(PAYLOAD_TOO_SMALL));
        }
        if size > *self.bytes.end() {
            return Ok(Step::Skip(PAYLOAD_TOO_LARGE));
        }
        self.transform.apply(message).await
    }

    fn ids<'a>(&'a self, message: &'a E, record: Option<&'a T::Record>) -> Ids<'a> {
        self.transform.ids(message, record)
    }

    fn show(&self, message: &E, record: &T::Record) -> Option<RecordText> {
        self.transform.show(message, record)
    }
}
