//! Creates and removes all resources of a test environment.

use reqwest::Method;
use serde_json::json;

use super::Cloud;
use crate::names::{ARCHIVE, DEVICES, Subscription, TOPICS};

impl Cloud {
    /// Creates all topics, these subscriptions, the bucket of the archive, and the dataset. Leaves
    /// those that exist.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn create_resources(&self, subscriptions: &[Subscription]) -> anyhow::Result<()> {
        for topic in TOPICS {
            self.create_topic(&self.name(topic)).await?;
        }
        for Subscription { id, topic, is_ordered } in subscriptions {
            let (id, topic) = (self.name(id), self.name(topic));
            match is_ordered {
                true => self.create_ordered_subscription(&id, &topic).await?,
                false => self.create_subscription(&id, &topic).await?,
            }
        }
        self.create_bucket(&self.name(ARCHIVE)).await?;
        self.create_dataset(&self.dataset()).await
    }

    /// Removes everything that [`Cloud::create_resources`] creates, and the documents of devices.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn delete_resources(&self, subscriptions: &[Subscription]) -> anyhow::Result<()> {
        let topics = TOPICS.map(|topic| self.name(topic));
        let topics: Vec<_> = topics.iter().map(String::as_str).collect();
        let ids: Vec<_> = subscriptions.iter().map(|one| self.name(one.id)).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        self.teardown(&topics, &ids, &[&self.name(ARCHIVE)]).await?;
        self.delete_dataset(&self.dataset()).await?;
        self.delete_documents(&self.name(DEVICES)).await
    }

    /// Creates a dataset if it does not exist.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn create_dataset(&self, id: &str) -> anyhow::Result<()> {
        let url = format!("{}/bigquery/v2/projects/{}/datasets", self.urls.bigquery, self.project);
        self.create(Method::POST, url, json!({ "datasetReference": { "datasetId": id } })).await
    }

    /// Removes a dataset with all its tables, unless `KEEP_RESOURCES` is set.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn delete_dataset(&self, id: &str) -> anyhow::Result<()> {
        if keeps_resources() {
            return Ok(());
        }
        let url =
            format!("{}/bigquery/v2/projects/{}/datasets/{id}", self.urls.bigquery, self.project);
        self.call(Method::DELETE, format!("{url}?deleteContents=true"), None).await.map(drop)
    }

    /// Removes topics, subscriptions, and buckets with all their objects. Keeps everything if
    /// `KEEP_RESOURCES` is set.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn teardown(
        &self,
        topics: &[&str],
        subscriptions: &[&str],
        buckets: &[&str],
    ) -> anyhow::Result<()> {
        if keeps_resources() {
            return Ok(());
        }
        let pubsub = format!("{}/v1/projects/{}", self.urls.pubsub, self.project);
        for id in subscriptions {
            self.call(Method::DELETE, format!("{pubsub}/subscriptions/{id}"), None).await?;
        }
        for id in topics {
            self.call(Method::DELETE, format!("{pubsub}/topics/{id}"), None).await?;
        }
        for bucket in buckets {
            for object in self.list(bucket, "").await? {
                self.call(Method::DELETE, self.object_url(bucket, &object), None).await?;
            }
            let url = format!("{}/storage/v1/b/{bucket}", self.urls.storage);
            self.call(Method::DELETE, url, None).await?;
        }
        Ok(())
    }
}

/// Returns true if the variable `KEEP_RESOURCES` is set.
pub(super) fn keeps_resources() -> bool {
    std::env::var_os("KEEP_RESOURCES").is_some_and(|keep| keep != "0")
}
