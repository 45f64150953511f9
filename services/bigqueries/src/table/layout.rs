//! Layout of a table: its partitions and clusters.

use std::time::Duration;

use humantime_serde::re::humantime::format_duration;
use serde_json::{Value, json};

use super::schema::{array, text};
use super::{Fault, Table};
use crate::config::INGESTION_TIME;

impl Table {
    /// Compares the layout of a table with the settings. For a key that the settings do not have, the
    /// table may have any layout.
    pub(super) fn compare_layout(&self, found: &Value) -> Result<(), Fault> {
        let pairs = [
            self.partitioning()
                .map(|ours| (partitions(&ours), partitions(&found["timePartitioning"]))),
            self.clustering().map(|ours| (clusters(&ours), clusters(&found["clustering"]))),
        ];
        match pairs.into_iter().flatten().find(|(ours, theirs)| ours != theirs) {
            Some((ours, theirs)) => {
                Err(Fault::Different(format!("the settings say {ours}, the table is {theirs}")))
            }
            None => Ok(()),
        }
    }

    /// Compares the expiration and the filter of partitions with the settings.
    ///
    /// Rows can be written whatever these are, so a service that runs does not look at them.
    pub(super) fn compare_rules(&self, found: &Value) -> Result<(), Fault> {
        let difference = self
            .compare_expiration(&found["timePartitioning"])
            .or_else(|| self.compare_filter(found));
        difference.map_or(Ok(()), |difference| Err(Fault::Different(difference)))
    }

    fn compare_expiration(&self, partitioning: &Value) -> Option<String> {
        let ours = self.settings.partition_by.as_ref()?.expires_in?;
        let millis = partitioning["expirationMs"].as_str().and_then(|millis| millis.parse().ok());
        let theirs = match millis.map(Duration::from_millis) {
            Some(theirs) if theirs.as_millis() == ours.as_millis() => return None,
            Some(theirs) => format!("expire after {}", format_duration(theirs)),
            None => "never expire".to_owned(),
        };
        let ours = format_duration(ours);
        Some(format!(
            "table.partition_by.expires_in is {ours}, the partitions of the table {theirs}; change one of both"
        ))
    }

    fn compare_filter(&self, found: &Value) -> Option<String> {
        let ours = self.settings.partition_by.as_ref()?.require_filter?;
        // The second place is deprecated. Older clients may have used it.
        let places = [found, &found["timePartitioning"]];
        let theirs = places.iter().any(|place| place["requirePartitionFilter"] == true);
        (ours != theirs).then(|| {
            format!(
                "table.partition_by.require_filter is {ours}, that of the table is {theirs}; change one of both"
            )
        })
    }

    /// Returns the partitions of the settings, as in the resource of a table.
    pub(super) fn partitioning(&self) -> Option<Value> {
        let by = self.settings.partition_by.as_ref()?;
        let mut partitioning = json!({ "type": by.unit.name() });
        if by.column != INGESTION_TIME {
            partitioning["field"] = by.column.as_str().into();
        }
        if let Some(life) = by.expires_in {
            partitioning["expirationMs"] = life.as_millis().to_string().into();
        }
        Some(partitioning)
    }

    /// Returns the clusters of the settings, as in the resource of a table.
    pub(super) fn clustering(&self) -> Option<Value> {
        let fields = &self.settings.cluster_by;
        (!fields.is_empty()).then(|| json!({ "fields": fields }))
    }
}

fn partitions(partitioning: &Value) -> String {
    match partitioning {
        Value::Null => "not partitioned".to_owned(),
        by => {
            let field = by["field"].as_str().unwrap_or("the time of ingestion");
            format!("partitioned by {field} ({})", text(by, "type"))
        }
    }
}

fn clusters(clustering: &Value) -> String {
    match array(&clustering["fields"]) {
        [] => "not clustered".to_owned(),
        fields => {
            let names: Vec<_> = fields.iter().filter_map(Value::as_str).collect();
            format!("clustered by {}", names.join(", "))
        }
    }
}
