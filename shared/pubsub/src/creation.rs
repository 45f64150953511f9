//! Creation of everything in Pub/Sub that is missing, for settings with `create`.

use service::create::{self, Created, ensure};
use service::{Condition, Faults};
use storage::{Bucket, ObjectStore as _};

use crate::admin::Admin;
use crate::admin::create::TopicContent;
use crate::connection::Connection;
use crate::names::TopicName;
use crate::preflight::Preflight;
use crate::settings::{DeadLetterConfig, IntakeSettings, Keyword, Subscription};

impl IntakeSettings {
    /// Reports settings that `create` needs.
    pub fn check_create(&self, faults: &mut Faults) {
        if let Some(topic) = &self.subscription.topic_id {
            topic.check_required(Subscription::TOPIC_KEY, "must not be empty", faults);
        }
        if !self.create {
            return;
        }
        let right = "required with create: true, because a new subscription needs its topic";
        let has_topic = self.subscription.topic_id.is_some();
        faults.require(has_topic, Subscription::TOPIC_KEY, right);
        let is_left = self.dead_letters == Some(DeadLetterConfig::Keyword(Keyword::Subscription));
        let right = "`subscription` needs a dead-letter policy, which create: true does not make: set a topic_id";
        faults.require(!is_left, "dead_letters", right);
    }

    /// Returns a warning if the service creates resources.
    #[must_use]
    pub fn create_warning(&self) -> Option<String> {
        self.create.then(|| create::WARNING.to_owned())
    }
}

impl Preflight<'_> {
    /// Creates what is missing. Leaves everything that exists as it is. Reports outages to
    /// `condition`.
    ///
    /// # Errors
    /// A resource can never be created, for example because of a missing permission.
    pub async fn create_missing(&self, condition: &Condition) -> anyhow::Result<()> {
        let clients = self.clients;
        let connection = Connection::new(self.pubsub.clone()).with_clients(clients.clone());
        let admin = Admin::new(&connection).await?;
        for topic in &self.topics {
            create_topic(&admin, topic, TopicContent::Messages, condition).await?;
        }
        if let Some(subscription) = self.subscription
            && let Some(topic) = subscription.topic(self.project)?
        {
            create_topic(&admin, &topic, TopicContent::Messages, condition).await?;
            let name = subscription.name(self.project)?;
            create_subscription(&admin, &name, &topic, TopicContent::Messages, condition).await?;
        }
        let Some(dead_letters) = self.dead_letters else { return Ok(()) };
        if let Some(topic) = dead_letters.topic(self.project)? {
            let topic_was =
                create_topic(&admin, &topic, TopicContent::DeadLetters, condition).await?;
            create_reader(&admin, &topic, topic_was, condition).await?;
        }
        if let Some(name) = dead_letters.bucket()? {
            let bucket = Bucket::open(name, self.storage, &clients.identity, &clients.storage);
            let bucket = bucket.await?;
            let resource = format!("bucket {name}");
            ensure(&resource, condition, || bucket.ensure(self.project)).await?;
        }
        Ok(())
    }
}

async fn create_topic(
    admin: &Admin,
    topic: &TopicName,
    content: TopicContent,
    condition: &Condition,
) -> anyhow::Result<Created> {
    let resource = format!("topic {topic}");
    Ok(ensure(&resource, condition, || admin.ensure_topic(topic, content)).await?)
}

async fn create_subscription(
    admin: &Admin,
    name: &str,
    topic: &TopicName,
    content: TopicContent,
    condition: &Condition,
) -> anyhow::Result<Created> {
    let resource = format!("subscription {name}");
    Ok(ensure(&resource, condition, || admin.ensure_subscription(name, topic, content)).await?)
}

/// Creates a subscription of a topic of dead letters that has none. An earlier start may have ended
/// between the topic and its subscription.
async fn create_reader(
    admin: &Admin,
    topic: &TopicName,
    topic_was: Created,
    condition: &Condition,
) -> anyhow::Result<Created> {
    let name = topic.as_str().replacen("/topics/", "/subscriptions/", 1);
    let resource = format!("subscription {name}");
    Ok(ensure(&resource, condition, || admin.ensure_reader(&name, topic, topic_was)).await?)
}
