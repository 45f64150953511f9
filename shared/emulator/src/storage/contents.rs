//! Objects for other parts of the emulator, such as BigQuery's load jobs.

use bytes::Bytes;

use super::{Storage, no_bucket};
use crate::status::Status;

impl Storage {
    /// Returns names and data of all objects that match a pattern with at most one `*`.
    ///
    /// # Errors
    /// Fails if the bucket does not exist.
    pub(crate) fn contents(
        &self,
        bucket: &str,
        pattern: &str,
    ) -> Result<Vec<(String, Bytes)>, Status> {
        let fits = |name: &str| match pattern.split_once('*') {
            None => name == pattern,
            Some((start, end)) => {
                name.len() >= start.len() + end.len()
                    && name.starts_with(start)
                    && name.ends_with(end)
            }
        };
        let buckets = self.buckets();
        let objects = &buckets.get(bucket).ok_or_else(no_bucket)?.objects;
        let names: Vec<String> = objects.keys().filter(|name| fits(name)).cloned().collect();
        drop(buckets);
        let contents = names.into_iter().map(|name| {
            let (_, data) = self.open_object(bucket, &name, |_| Ok(()))?;
            Ok((name, data.read()?))
        });
        contents.collect()
    }
}
