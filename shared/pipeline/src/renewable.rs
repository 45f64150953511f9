//! Clients that are built anew after a call on them was given up.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use crate::Error;

/// A client that is replaced once a call on it was given up; clones share it.
///
/// The clients of the cloud's APIs carry all calls over a connection or two and do not look whether
/// the peer is still there. When it has gone without a word (a NAT that forgot us, a host without
/// power), each call on that connection waits until it is given up, and so does the next one. So
/// whoever gives up a call gives up the client too: the next call has a connection of its own.
pub struct Renewable<C, E = Error>(Arc<Inner<C, E>>);

struct Inner<C, E> {
    build: Box<dyn Fn() -> BoxFuture<'static, Result<C, E>> + Send + Sync>,
    current: Mutex<Arc<OnceCell<C>>>,
}

/// A client for one call.
///
/// Dropping it without [`Lease::done`] says that the call was given up.
#[must_use = "a lease that is dropped replaces the client"]
pub struct Lease<C, E = Error> {
    inner: Arc<Inner<C, E>>,
    client: Arc<OnceCell<C>>,
    is_done: bool,
}

impl<C, E> Renewable<C, E> {
    /// A client that is built when it is first needed.
    pub fn lazy(
        build: impl Fn() -> BoxFuture<'static, Result<C, E>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner { build: Box::new(build), current: Mutex::default() }))
    }

    /// A client that is built now.
    ///
    /// # Errors
    /// When it cannot be built.
    pub async fn open(
        build: impl Fn() -> BoxFuture<'static, Result<C, E>> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        let renewable = Self::lazy(build);
        renewable.lease().await?.done();
        Ok(renewable)
    }

    /// The client, for one call.
    ///
    /// # Errors
    /// When it had to be built and could not.
    pub async fn lease(&self) -> Result<Lease<C, E>, E> {
        let client = Arc::clone(&self.0.lock());
        client.get_or_try_init(&self.0.build).await?;
        Ok(Lease { inner: Arc::clone(&self.0), client, is_done: false })
    }
}

impl<C, E> Inner<C, E> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<OnceCell<C>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C, E> Lease<C, E> {
    /// Reports that the call came back, whatever it said.
    pub fn done(mut self) {
        self.is_done = true;
    }
}

impl<C, E> Deref for Lease<C, E> {
    type Target = C;

    fn deref(&self) -> &C {
        self.client.get().expect("a lease is of a client that was built")
    }
}

impl<C, E> Drop for Lease<C, E> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut current = self.inner.lock();
        // Others may have given up the same client already.
        if Arc::ptr_eq(&current, &self.client) {
            *current = Arc::default();
        }
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
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Each client is the number of those before it.
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
}
