//! Writes, finds and removes documents in Firestore.

use anyhow::Context as _;
use firestore::{FirestoreDb, FirestoreDbOptions};
use futures::{StreamExt as _, TryStreamExt as _};
use google_cloud_auth::credentials::anonymous;
use serde_json::Value;

use super::Cloud;
use super::resources::keeps_resources;

/// Number of requests to Firestore at the same time.
const CONCURRENCY: usize = 64;

impl Cloud {
    /// Writes documents into a collection. A document with the same id is replaced.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn put_documents(
        &self,
        collection: &str,
        documents: impl IntoIterator<Item = (String, Value)>,
    ) -> anyhow::Result<()> {
        let database = self.database().await?;
        let writes = futures::stream::iter(documents).map(|(id, document)| {
            let update = database.fluent().update().in_col(collection).document_id(id);
            async move { update.object(&document).execute::<Value>().await.map(drop) }
        });
        writes.buffer_unordered(CONCURRENCY).try_collect::<()>().await.context("write documents")
    }

    /// Removes all documents of a collection, unless `KEEP_RESOURCES` is set. A collection without
    /// documents does not exist.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn delete_documents(&self, collection: &str) -> anyhow::Result<()> {
        if keeps_resources() {
            return Ok(());
        }
        let database = self.database().await?;
        let found = database.fluent().list().from(collection).stream_all_with_errors().await;
        let documents = found.context("list documents")?;
        let ids = documents.map_ok(|document| {
            document.name.rsplit_once('/').map_or_else(String::new, |(_, id)| id.to_owned())
        });
        let ids: Vec<_> = ids.try_collect().await.context("list documents")?;
        let deletes = futures::stream::iter(ids).map(|id| {
            let delete = database.fluent().delete().from(collection).document_id(id);
            async move { delete.execute().await }
        });
        deletes.buffer_unordered(CONCURRENCY).try_collect::<()>().await.context("delete documents")
    }

    /// Lists the collections whose documents a trial wrote, by the trial's identifier.
    ///
    /// # Errors
    /// Fails when the cloud refuses.
    pub async fn collections_of(&self, trial: &str) -> anyhow::Result<Vec<String>> {
        let database = self.database().await?;
        let names = database.fluent().list().collections().stream_all_with_errors().await;
        let names: Vec<String> =
            names.context("list collections")?.try_collect().await.context("list collections")?;
        Ok(names.into_iter().filter(|name| is_of(name, trial)).collect())
    }

    async fn database(&self) -> anyhow::Result<FirestoreDb> {
        let options = FirestoreDbOptions::new(self.project.clone());
        let database = match self.endpoint(|urls| &urls.firestore) {
            Some(url) => {
                let options = options.with_firebase_api_url(url);
                FirestoreDb::with_options_auth(options, anonymous::Builder::new().build()).await
            }
            None => FirestoreDb::with_options(options).await,
        };
        database.context("reach Firestore")
    }
}

/// Returns true for a name that [`Cloud::name`] makes in a trial, such as
/// `devices-0123456789ab-ba9876543210` in the trial `0123456789ab`.
fn is_of(name: &str, trial: &str) -> bool {
    let parts: Vec<_> = name.rsplitn(3, '-').collect();
    let is_unique = |part: &str| {
        part.len() == 12 && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    matches!(parts[..], [test, of, kind] if is_unique(test) && of == trial && !kind.is_empty())
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn only_names_of_the_trial_are_its_own() {
        let [trial, test] = ["0123456789ab", "ba9876543210"];
        assert!(is_of(&format!("devices-{trial}-{test}"), trial));
        assert!(is_of(&format!("old-devices-{trial}-{test}"), trial));
        for other in [
            format!("devices-{test}"),
            format!("devices-{trial}"),
            format!("devices-{test}-{trial}"),
            format!("{trial}-{test}"),
            format!("-{trial}-{test}"),
            format!("devices-{trial}-{test}-more"),
            format!("devices-{trial}-{}", "g".repeat(12)),
            "devices".to_owned(),
        ] {
            assert!(!is_of(&other, trial), "{other}");
        }
    }
}
