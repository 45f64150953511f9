//! Clients that are rebuilt after a call on them was cancelled, such as by a time-out.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

use pipeline::{Error, Recovery};

/// A client that is rebuilt after any call on it is cancelled. Clones share the client.
///
/// Google's API clients send all calls over one or two connections, and do not check whether the
/// peer is still there. A peer may disappear without a word. For example, a NAT drops its entry, or
/// a host loses power. Then each call on that connection waits for its time-out, and so does the
/// next one. So a cancelled call also discards the client, and the next call gets a new connection.
pub struct Renewable<C, E = Error>(Arc<Slot<C, E>>);

struct Slot<C, E> {
    build: Box<dyn Fn() -> BoxFuture<'static, Result<C, E>> + Send + Sync>,
    current: Mutex<Option<Building<C, E>>>,
}

/// A client that is being built or was built, shared by all callers that wait. Each of them can
/// finish the build. So a caller that is no longer polled does not delay the others.
type Building<C, E> = Shared<BoxFuture<'static, Result<Arc<C>, Failure<E>>>>;

/// The error of a failed build. The first caller takes it, and the others build again.
type Failure<E> = Arc<Mutex<Option<E>>>;

/// A client for one call.
///
/// Dropping it without [`Lease::done`] means that the call was cancelled.
#[must_use = "a lease that is dropped replaces the client"]
pub struct Lease<C, E = Error> {
    client: Arc<C>,
    claim: Claim<C, E>,
}

/// Discards the client when it is dropped, unless the call returned.
struct Claim<C, E> {
    slot: Arc<Slot<C, E>>,
    building: Building<C, E>,
    is_done: bool,
}

impl<C: Send + Sync + 'static, E: Send + 'static> Renewable<C, E> {
    /// Creates a client that is built when it is first needed.
    pub fn lazy(
        build: impl Fn() -> BoxFuture<'static, Result<C, E>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Slot { build: Box::new(build), current: Mutex::default() }))
    }

    /// Returns the client for one call.
    ///
    /// # Errors
    /// The client had to be built, and the build failed.
    pub async fn lease(&self) -> Result<Lease<C, E>, E> {
        loop {
            let claim = Slot::claim(&self.0);
            match claim.building.clone().await {
                Ok(client) => return Ok(Lease { client, claim }),
                Err(failure) => {
                    // The next lease builds again.
                    drop(claim);
                    if let Some(error) = lock(&failure).take() {
                        return Err(error);
                    }
                }
            }
        }
    }
}

impl<C: Send + Sync + 'static> Renewable<C> {
    /// Builds the client now.
    ///
    /// Later builds turn a [`Recovery::Stop`] into a [`Recovery::Retry`]. For example, credentials
    /// that are being replaced cannot be read for a moment.
    ///
    /// # Errors
    /// The client cannot be built.
    pub async fn open(
        build: impl Fn() -> BoxFuture<'static, Result<C, Error>> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let was_built = Arc::new(AtomicBool::new(false));
        let renewable = Self::lazy({
            let was_built = Arc::clone(&was_built);
            move || {
                let building = build();
                if !was_built.load(Ordering::Relaxed) {
                    return building;
                }
                let retry = |error: Error| match error.recovery() {
                    Recovery::Stop => error.with_recovery(Recovery::Retry),
                    Recovery::Retry | Recovery::Reject(_) | Recovery::Nack => error,
                };
                building.map(move |built| built.map_err(retry)).boxed()
            }
        });
        renewable.lease().await?.done();
        was_built.store(true, Ordering::Relaxed);
        Ok(renewable)
    }
}

impl<C: Send + Sync + 'static, E: Send + 'static> Slot<C, E> {
    fn claim(this: &Arc<Self>) -> Claim<C, E> {
        let building = lock(&this.current).get_or_insert_with(|| this.start()).clone();
        Claim { slot: Arc::clone(this), building, is_done: false }
    }

    fn start(&self) -> Building<C, E> {
        let failure = |error| Arc::new(Mutex::new(Some(error)));
        (self.build)().map(move |built| built.map(Arc::new).map_err(failure)).boxed().shared()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C, E> Lease<C, E> {
    /// Reports that the call returned, with any result.
    pub fn done(mut self) {
        self.claim.is_done = true;
    }
}

impl<C, E> Deref for Lease<C, E> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.client
    }
}

impl<C, E> Drop for Claim<C, E> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        // Other callers may have discarded the same client already.
        let mut current = lock(&self.slot.current);
        let replaced = current.take_if(|current| current.ptr_eq(&self.building));
        drop(current);
        // Dropped after the lock is released, because dropping a client may do any work.
        drop(replaced);
    }
}

impl<C, E> Clone for Renewable<C, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C, E> fmt::Debug for Renewable<C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewable").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::panic::AssertUnwindSafe;
    use std::pin::pin;
    use std::sync::atomic::AtomicU32;

    use tokio::sync::Notify;

    use super::*;

    /// Returns a client whose value is the number of clients built before it.
    fn counting() -> Renewable<u32, ()> {
        let built = Arc::new(AtomicU32::new(0));
        Renewable::lazy(move || {
            let number = built.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { Ok(number) })
        })
    }

    #[tokio::test]
    async fn a_call_that_comes_back_keeps_the_client() -> Result<(), ()> {
        let client = counting();

        client.lease().await?.done();

        let lease = client.lease().await?;
        assert_eq!(*lease, 0);
        lease.done();
        Ok(())
    }

    #[tokio::test]
    async fn calls_that_are_given_up_replace_the_client_once() -> Result<(), ()> {
        let client = counting();
        let (first, second) = (client.lease().await?, client.lease().await?);

        drop(first);
        let next = client.lease().await?;
        drop(second);

        assert_eq!(*next, 1);
        next.done();
        let last = client.lease().await?;
        assert_eq!(*last, 1, "the second call was on the first client");
        last.done();
        Ok(())
    }

    #[tokio::test]
    async fn a_build_that_is_left_alone_holds_up_nobody() -> Result<(), ()> {
        let go = Arc::new(Notify::new());
        let client = Renewable::<u32, ()>::lazy({
            let go = Arc::clone(&go);
            move || {
                let go = Arc::clone(&go);
                Box::pin(async move {
                    go.notified().await;
                    Ok(7)
                })
            }
        });
        let mut left_alone = pin!(client.lease());
        assert!(left_alone.as_mut().now_or_never().is_none());

        go.notify_one();
        let lease = client.lease().await?;

        assert_eq!(*lease, 7);
        lease.done();
        Ok(())
    }

    #[tokio::test]
    async fn a_build_that_is_given_up_is_begun_anew() -> Result<(), ()> {
        let built = AtomicU32::new(0);
        let client =
            Renewable::<u32, ()>::lazy(move || match built.fetch_add(1, Ordering::Relaxed) {
                0 => Box::pin(pending()),
                number => Box::pin(ready(Ok(number))),
            });

        assert!(client.lease().now_or_never().is_none());

        let lease = client.lease().await?;
        assert_eq!(*lease, 1);
        lease.done();
        Ok(())
    }

    #[tokio::test]
    async fn a_build_that_panics_is_begun_anew() -> Result<(), ()> {
        let built = AtomicU32::new(0);
        let client = Renewable::<u32, ()>::lazy(move || {
            let number = built.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                assert_ne!(number, 0, "the first build panics");
                Ok(number)
            })
        });

        assert!(AssertUnwindSafe(client.lease()).catch_unwind().await.is_err());

        let lease = client.lease().await?;
        assert_eq!(*lease, 1);
        lease.done();
        Ok(())
    }

    #[tokio::test]
    async fn only_the_first_build_stops_the_service() {
        let fails = Arc::new(AtomicBool::new(true));
        let build = |fails: &Arc<AtomicBool>| {
            let fails = Arc::clone(fails);
            move || -> BoxFuture<'static, Result<(), Error>> {
                let fails = fails.load(Ordering::Relaxed);
                let stop = || Recovery::Stop.because("build client", "no credentials");
                Box::pin(ready(if fails { Err(stop()) } else { Ok(()) }))
            }
        };
        let first = Renewable::open(build(&fails)).await.err().unwrap();
        assert_eq!(first.recovery(), Recovery::Stop);
        fails.store(false, Ordering::Relaxed);
        let client = Renewable::open(build(&fails)).await.unwrap();
        drop(client.lease().await.unwrap());
        fails.store(true, Ordering::Relaxed);

        let later = client.lease().await.err().unwrap();

        assert_eq!(later.recovery(), Recovery::Retry);
        assert_eq!(format!("{later:#}"), "build client: no credentials");
        fails.store(false, Ordering::Relaxed);
        client.lease().await.unwrap().done();
    }
}
