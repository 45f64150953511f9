//! Snapshots and seek: earlier backlogs of a subscription, and messages that topics keep for them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::admin::{PageRequest, listed, paths};
use super::delivery::{Subscription, duration_of};
use super::wire::Stored;
use super::{PubSub, Topic, leaf, names, proto};
use crate::status::Status;

/// Lifetime of a snapshot, and longest time for which messages are kept for seeking.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// The backlog of a subscription at one time.
pub(super) struct Snapshot {
    config: Mutex<proto::Snapshot>,
    /// Messages that were not acknowledged.
    backlog: Vec<Arc<Stored>>,
    /// Sequence number of the last message before the snapshot. All later messages count as
    /// unacknowledged.
    last: u64,
}

impl Snapshot {
    fn config(&self) -> MutexGuard<'_, proto::Snapshot> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_alive(&self) -> bool {
        let end = self.config().expire_time.and_then(|time| SystemTime::try_from(time).ok());
        end.is_none_or(|end| SystemTime::now() < end)
    }
}

impl Topic {
    /// Drops messages that were kept long enough.
    pub(super) fn forget(&self, log: &mut std::collections::VecDeque<Arc<Stored>>) {
        let kept = Duration::from_secs(self.keeps_seconds.load(Ordering::Relaxed));
        let now = SystemTime::now();
        let age = |message: &Stored| now.duration_since(message.published).unwrap_or_default();
        while log.front().is_some_and(|first| age(first) > kept) {
            log.pop_front();
        }
    }
}

impl PubSub {
    pub(super) fn create_snapshot(
        &self,
        request: proto::CreateSnapshotRequest,
    ) -> Result<proto::Snapshot, Status> {
        names::check(&request.name, "snapshots")?;
        let subscription = self.subscription(&request.subscription)?;
        subscription.check()?;
        let topic_name = subscription.config().topic;
        let topic = self.topic(&topic_name)?;
        // The lock on the log keeps publishes out between reading the backlog and keeping later
        // messages.
        let log = topic.log();
        let mut known = self.hub.snapshots.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, snapshot| snapshot.is_alive());
        if known.contains_key(&request.name) {
            return Err(Status::already_exists(leaf(&request.name)));
        }
        let backlog = subscription.backlog();
        let oldest = backlog.first().map_or_else(SystemTime::now, |first| first.published);
        let config = proto::Snapshot {
            name: request.name.clone(),
            topic: topic_name,
            expire_time: Some((oldest + LIFETIME).into()),
            labels: request.labels,
        };
        let last = self.hub.next_message.load(Ordering::Relaxed);
        let snapshot = Snapshot { config: Mutex::new(config.clone()), backlog, last };
        known.insert(request.name, Arc::new(snapshot));
        drop(known);
        self.decide_keeping(&topic);
        drop(log);
        Ok(config)
    }

    fn snapshot(&self, name: &str) -> Result<Arc<Snapshot>, Status> {
        let known = self.hub.snapshots.read().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(name).filter(|snapshot| snapshot.is_alive());
        found.cloned().ok_or_else(|| Status::not_found(leaf(name)))
    }

    pub(super) fn get_snapshot(&self, name: &str) -> Result<proto::Snapshot, Status> {
        Ok(self.snapshot(name)?.config().clone())
    }

    pub(super) fn update_snapshot(
        &self,
        request: proto::UpdateSnapshotRequest,
    ) -> Result<proto::Snapshot, Status> {
        let new = request.snapshot.ok_or_else(|| Status::invalid("snapshot is required"))?;
        let snapshot = self.snapshot(&new.name)?;
        let mut updated = snapshot.config().clone();
        for path in paths(request.update_mask)? {
            match path.as_str() {
                "labels" => updated.labels.clone_from(&new.labels),
                "expire_time" => updated.expire_time = new.expire_time,
                other => {
                    return Err(Status::invalid(format!("cannot update {other} of a snapshot")));
                }
            }
        }
        snapshot.config().clone_from(&updated);
        Ok(updated)
    }

    pub(super) fn delete_snapshot(&self, name: &str) -> Result<(), Status> {
        let mut known = self.hub.snapshots.write().unwrap_or_else(PoisonError::into_inner);
        let snapshot = known.remove(name).ok_or_else(|| Status::not_found(leaf(name)))?;
        drop(known);
        // The topic may have been deleted.
        if let Ok(topic) = self.topic(&snapshot.config().topic) {
            self.decide_keeping(&topic);
        }
        Ok(())
    }

    /// Lists snapshots whose name has a prefix, or those of a topic.
    pub(super) fn list_snapshots(
        &self,
        prefix: &str,
        topic: Option<&str>,
        page: PageRequest,
    ) -> Result<(Vec<proto::Snapshot>, String), Status> {
        let known = self.hub.snapshots.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = known.iter().filter(|(_, snapshot)| {
            snapshot.is_alive() && topic.is_none_or(|topic| snapshot.config().topic == topic)
        });
        let wanted = wanted.map(|(name, snapshot)| (name.clone(), snapshot)).collect();
        let (names, next) = listed(&wanted, prefix, page)?;
        Ok((names.iter().map(|name| known[name].config().clone()).collect(), next))
    }

    /// Sets the backlog of a subscription to that of a time or a snapshot.
    pub(super) fn seek(&self, request: &proto::SeekRequest) -> Result<proto::SeekResponse, Status> {
        use proto::seek_request::Target;
        let subscription = self.subscription(&request.subscription)?;
        subscription.check()?;
        let config = subscription.config();
        let topic = self.topic(&config.topic).ok();
        // The lock on the log keeps publishes out between reading kept messages and setting the
        // backlog.
        let log = topic.as_ref().map(|topic| topic.log());
        let kept: Vec<_> = log.iter().flat_map(|log| log.iter().cloned()).collect();
        match request.target.as_ref() {
            None => return Err(Status::invalid("the target of the seek is required")),
            Some(Target::Time(time)) => {
                let time = SystemTime::try_from(*time)
                    .map_err(|error| Status::invalid(format!("time: {error}")))?;
                let of_topic =
                    topic.as_ref().and_then(|topic| topic.config().message_retention_duration);
                let kept = kept.into_iter();
                let kept =
                    kept.filter(|message| is_kept(&subscription, of_topic.as_ref(), message));
                subscription.seek(|message| message.published >= time, kept.collect());
            }
            Some(Target::Snapshot(name)) => {
                let snapshot = self.snapshot(name)?;
                if snapshot.config().topic != config.topic {
                    let text = "The snapshot is of another topic than the subscription.";
                    return Err(Status::invalid(text));
                }
                let open: BTreeSet<_> =
                    snapshot.backlog.iter().map(|message| message.sequence).collect();
                let is_wanted = |message: &Stored| {
                    message.sequence > snapshot.last || open.contains(&message.sequence)
                };
                let backlog = snapshot.backlog.iter().cloned();
                subscription.seek(is_wanted, kept.into_iter().chain(backlog).collect());
            }
        }
        Ok(proto::SeekResponse {})
    }

    pub(super) fn detach_subscription(
        &self,
        request: &proto::DetachSubscriptionRequest,
    ) -> Result<proto::DetachSubscriptionResponse, Status> {
        let subscription = self.subscription(&request.subscription)?;
        if let Ok(topic) = self.topic(&subscription.config().topic) {
            let mut listening = topic.subscriptions.write().unwrap_or_else(PoisonError::into_inner);
            listening.retain(|other| !Arc::ptr_eq(other, &subscription));
            drop(listening);
            self.decide_keeping(&topic);
        }
        subscription.detach();
        Ok(proto::DetachSubscriptionResponse {})
    }

    /// Sets the time for which a topic keeps messages: the longest that the topic, its
    /// subscriptions or its snapshots need.
    pub(super) fn decide_keeping(&self, topic: &Topic) {
        let config = topic.config().clone();
        let mut kept = duration_of(config.message_retention_duration.as_ref(), Duration::ZERO);
        let listening = topic.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        for subscription in listening.iter().map(|subscription| subscription.config()) {
            if subscription.retain_acked_messages {
                let asked = duration_of(subscription.message_retention_duration.as_ref(), LIFETIME);
                kept = kept.max(asked);
            }
        }
        drop(listening);
        let snapshots = self.hub.snapshots.read().unwrap_or_else(PoisonError::into_inner);
        if snapshots.values().any(|one| one.is_alive() && one.config().topic == config.name) {
            kept = kept.max(LIFETIME);
        }
        topic.keeps_seconds.store(kept.as_secs(), Ordering::Relaxed);
    }
}

/// Returns true if a subscription may get a kept message again. The topic must keep it for all
/// subscriptions, or the subscription must retain its own messages.
fn is_kept(
    subscription: &Subscription,
    of_topic: Option<&prost_types::Duration>,
    message: &Stored,
) -> bool {
    let config = subscription.config();
    let age = SystemTime::now().duration_since(message.published).unwrap_or_default();
    let by_topic = age <= duration_of(of_topic, Duration::ZERO);
    let by_itself = config.retain_acked_messages
        && message.sequence > subscription.born
        && age <= duration_of(config.message_retention_duration.as_ref(), LIFETIME);
    by_topic || by_itself
}
