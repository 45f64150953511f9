//! Table of the rows, and the settings of the service that writes them.

use ::postgres::config::Settings;
use ::postgres::statements::Statements;
use anyhow::Context as _;
use rows::Rows as _;
use serde_json::Value;
use service::settings::to_value;

use crate::cloud::Cloud;
use crate::settings::ServiceSettings;

/// Query for all rows, in the form that [`Arrived::of_row`](crate::reconcile::Arrived::of_row) reads.
pub(super) const ROWS: &str = "SELECT ingest_id, device_id, location, temperature::text AS temperature, \
     rest::text AS rest FROM readings";

/// Returns the settings of the service, for a table that exists already.
///
/// The service does not create the table. A process that starts while an empty server stands in for the
/// real one would create it there, and acknowledge rows that are gone after the way back.
pub(in crate::faults) fn settings(
    all: &ServiceSettings,
    cloud: &Cloud,
    port: u16,
) -> anyhow::Result<Value> {
    let mut settings = all.postgres(cloud, port);
    settings.table.create = false;
    to_value(&settings).context("write settings as JSON")
}

/// Returns the statements that create the table of these settings, as `postgres sql` prints them.
pub(super) fn statements(settings: &Value) -> anyhow::Result<Vec<String>> {
    let settings: Settings = serde_json::from_value(settings.clone()).context("read settings")?;
    Ok(Statements::new(&settings.table, &settings.rows().columns())?.create())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::replica_settings::{Timeouts, change};
    use crate::names::POSTGRES;

    #[test]
    fn the_table_has_the_columns_of_the_changed_settings() -> anyhow::Result<()> {
        let cloud = Cloud::embedded("http://127.0.0.1:8085");
        let all = ServiceSettings::new(&cloud, 1883, None);
        let mut settings = settings(&all, &cloud, 5432)?;
        let sections: Vec<_> =
            settings.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect();

        change(&mut settings, POSTGRES, 0, Timeouts::Short);
        let create = statements(&settings)?.join(";");

        for column in ["device_id", "temperature", "amount", "ingest_id"] {
            assert!(create.contains(&format!("\"{column}\"")), "{create}");
        }
        let now: Vec<_> =
            settings.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect();
        assert_eq!(now, sections, "no section that the service does not know");
        Ok(())
    }
}
