//! Limits on the speed of each client.
//!
//! A client has two token buckets, one for requests and one for bytes. A bucket is kept as the time
//! at which it is full again (GCRA, the generic cell rate algorithm). So it needs no timer.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::Denied;
use super::settings::RateLimit;

/// Maximum number of subjects, and of addresses, that are remembered. The one that was not seen for
/// the longest time is forgotten first, and starts with full buckets when it comes again.
const MAX_CLIENTS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Sender of a request, as limits see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client<'a> {
    /// Subject of credentials.
    Subject(&'a str),
    /// Address of a caller without credentials, or with wrong ones.
    Peer(IpAddr),
}

/// Limits on the speed of each client. Clones share their counts.
#[derive(Debug, Clone)]
pub struct RateLimiter(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    requests: Option<Rate>,
    bytes: Option<Rate>,
    /// Hashes have a secret seed, so nobody can choose to share a bucket. All are of one size.
    hashes: RandomState,
    subjects: Mutex<LruCache<u64, Usage>>,
    /// Addresses have a list of their own, so strangers make no subject forgotten.
    peers: Mutex<LruCache<u64, Usage>>,
}

/// Speed that is allowed.
#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: f64,
    /// Time in which an empty bucket fills.
    full: Duration,
}

impl Rate {
    fn new(per_second: u64, burst: Option<u64>) -> Self {
        let full = burst.unwrap_or(per_second) as f64 / per_second as f64;
        Self { per_second: per_second as f64, full: Duration::from_secs_f64(full) }
    }

    /// Returns the time in which so much fills up again.
    fn time_of(self, amount: usize) -> Duration {
        Duration::from_secs_f64(amount as f64 / self.per_second)
    }
}

#[derive(Debug, Default)]
struct Usage {
    requests: Bucket,
    bytes: Bucket,
}

/// Time at which the bucket is full again. Without one, it is full.
#[derive(Debug, Default)]
struct Bucket(Option<Instant>);

impl Bucket {
    /// Returns the time until it is full.
    fn lacks(&self, now: Instant) -> Duration {
        self.0.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now))
    }

    fn take(&mut self, time: Duration, now: Instant) {
        self.0 = Some(now + self.lacks(now) + time);
    }
}

/// Permit of one request to send its body. The bytes count when they arrive.
#[derive(Debug, Clone)]
pub struct Quota {
    limiter: RateLimiter,
    key: Key,
}

/// Place of a client's usage.
#[derive(Debug, Clone, Copy)]
enum Key {
    Subject(u64),
    Peer(u64),
}

impl RateLimiter {
    /// Creates the limits of these settings. Returns nothing if they set none.
    #[must_use]
    pub fn new(settings: &RateLimit) -> Option<Self> {
        let requests = settings
            .requests_per_second
            .map(|rate| Rate::new(rate.into(), settings.burst_requests.map(u64::from)));
        let bytes = settings.bytes_per_second.map(|rate| Rate::new(rate, settings.burst_bytes));
        (requests.is_some() || bytes.is_some()).then(|| {
            Self(Arc::new(Buckets {
                requests,
                bytes,
                hashes: RandomState::new(),
                subjects: Mutex::new(LruCache::new(MAX_CLIENTS)),
                peers: Mutex::new(LruCache::new(MAX_CLIENTS)),
            }))
        })
    }

    /// Counts a request of a client.
    ///
    /// # Errors
    /// The client is too fast. Then the request does not count.
    pub fn admit(&self, client: Client<'_>) -> Result<Quota, Denied> {
        let key = self.key(client);
        self.count(key)?;
        Ok(Quota { limiter: self.clone(), key })
    }

    fn count(&self, key: Key) -> Result<(), Denied> {
        let Buckets { requests, bytes, .. } = *self.0;
        let now = Instant::now();
        self.with_usage(key, |usage| {
            if let Some(rate) = requests {
                let lacks = usage.requests.lacks(now) + rate.time_of(1);
                refuse_beyond(lacks, rate, "requests")?;
            }
            if let Some(rate) = bytes {
                let lacks = usage.bytes.lacks(now) + rate.time_of(1);
                refuse_beyond(lacks, rate, "bytes")?;
            }
            if let Some(rate) = requests {
                usage.requests.take(rate.time_of(1), now);
            }
            Ok(())
        })
    }

    fn key(&self, client: Client<'_>) -> Key {
        match client {
            Client::Subject(subject) => Key::Subject(self.0.hashes.hash_one(subject)),
            Client::Peer(peer) => Key::Peer(self.0.hashes.hash_one(network_of(peer))),
        }
    }

    fn with_usage<T>(&self, key: Key, change: impl FnOnce(&mut Usage) -> T) -> T {
        let (clients, hash) = match key {
            Key::Subject(hash) => (&self.0.subjects, hash),
            Key::Peer(hash) => (&self.0.peers, hash),
        };
        change(locked(clients).get_or_insert_mut(hash, Usage::default))
    }
}

impl Quota {
    /// Counts one more request of the same client, such as a further message of a stream.
    ///
    /// # Errors
    /// The client is too fast. Then the request does not count.
    pub fn admit_next(&self) -> Result<(), Denied> {
        self.limiter.count(self.key)
    }

    /// Counts bytes of the body. Later requests wait until they are paid for.
    pub fn take(&self, bytes: usize) {
        let Some(rate) = self.limiter.0.bytes else { return };
        let now = Instant::now();
        self.limiter.with_usage(self.key, |usage| usage.bytes.take(rate.time_of(bytes), now));
    }
}

/// Locks. A panic cannot leave a list half changed that matters here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses a client whose bucket would lack more than it holds.
fn refuse_beyond(lacks: Duration, rate: Rate, what: &str) -> Result<(), Denied> {
    match lacks.checked_sub(rate.full).filter(|wait| !wait.is_zero()) {
        None => Ok(()),
        Some(retry_after) => {
            let why = format!("at most {} {what} per second are allowed", rate.per_second);
            Err(Denied::TooFast { why, retry_after })
        }
    }
}

/// Returns the part of an address that one caller cannot change: with IPv6, its network of 64 bits.
fn network_of(address: IpAddr) -> impl Hash {
    match address.to_canonical() {
        // No network of IPv6 begins with 64 zeros, except those of addresses of IPv4.
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn requests(per_second: u32, burst: u32) -> RateLimiter {
        RateLimiter::new(&RateLimit {
            requests_per_second: Some(per_second),
            burst_requests: Some(burst),
            ..RateLimit::default()
        })
        .unwrap()
    }

    fn wait(refused: Result<Quota, Denied>) -> Duration {
        match refused.unwrap_err() {
            Denied::TooFast { retry_after, .. } => retry_after,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_send_a_burst_and_then_at_its_rate() {
        let (limiter, client) = (requests(2, 5), Client::Subject("one"));

        for _ in 0..5 {
            limiter.admit(client).unwrap();
        }

        assert_eq!(wait(limiter.admit(client)), SECOND / 2);
        limiter.admit(Client::Subject("other")).unwrap();
        limiter.admit(Client::Peer([127, 0, 0, 1].into())).unwrap();
        tokio::time::advance(SECOND / 2).await;
        limiter.admit(client).unwrap();
        assert_eq!(wait(limiter.admit(client)), SECOND / 2);
        tokio::time::advance(100 * SECOND).await;
        for _ in 0..5 {
            limiter.admit(client).unwrap();
        }
        assert_eq!(wait(limiter.admit(client)), SECOND / 2, "a pause gives one burst, not more");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_paid_for_after_they_have_arrived() {
        let settings = RateLimit {
            bytes_per_second: Some(1000),
            burst_bytes: Some(2000),
            ..RateLimit::default()
        };
        let (limiter, client) = (RateLimiter::new(&settings).unwrap(), Client::Subject("one"));

        let quota = limiter.admit(client).unwrap();
        quota.take(1500);
        limiter.admit(client).unwrap().take(2500);

        let waits = wait(limiter.admit(client));
        assert_eq!(waits, Duration::from_millis(2001), "4,000 bytes, of which 2,000 are the burst");
        tokio::time::advance(waits).await;
        limiter.admit(client).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_thousand_subjects_take_constant_memory() {
        let limiter = requests(1, 1);

        for number in 0..100_000 {
            limiter.admit(Client::Subject(&format!("{number}{}", "x".repeat(1000)))).unwrap();
            limiter.admit(Client::Peer(std::net::Ipv4Addr::from(number).into())).unwrap();
        }

        assert_eq!(locked(&limiter.0.subjects).len(), MAX_CLIENTS.get());
        assert_eq!(locked(&limiter.0.peers).len(), MAX_CLIENTS.get());
        let last = format!("{}{}", 99_999, "x".repeat(1000));
        wait(limiter.admit(Client::Subject(&last)));
        assert!(size_of::<(u64, Usage)>() <= 64);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_make_no_subject_forgotten() {
        let limiter = requests(1, 1);
        limiter.admit(Client::Subject("one")).unwrap();

        for number in 0..20_000 {
            limiter.admit(Client::Peer(std::net::Ipv4Addr::from(number).into())).unwrap();
        }

        wait(limiter.admit(Client::Subject("one")));
    }

    #[tokio::test(start_paused = true)]
    async fn all_addresses_of_one_network_are_one_client() {
        let limiter = requests(1, 1);
        let peer = |text: &str| Client::Peer(text.parse().unwrap());

        limiter.admit(peer("2001:db8::1")).unwrap();
        limiter.admit(peer("10.0.0.1")).unwrap();

        wait(limiter.admit(peer("2001:db8::ffff")));
        wait(limiter.admit(peer("::ffff:10.0.0.1")));
        limiter.admit(peer("2001:db8:0:1::1")).unwrap();
        limiter.admit(peer("10.0.0.2")).unwrap();
    }

    #[test]
    fn without_rates_there_are_no_limits() {
        assert!(RateLimiter::new(&RateLimit::default()).is_none());
    }
}
