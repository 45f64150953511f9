//! Creation of the dataset of a table, for settings with `create`.

use bigquery::{Failure, Refused};
use service::create::{Created, NotCreated};
use service::settings::WrongSettings;
use service::{Condition, create};
use tokio::time::timeout;

use super::{TIMEOUT, Table};

/// Least role that may create datasets. It is for a whole project.
const ROLE: &str = "roles/bigquery.user";

impl Table {
    /// Creates the dataset of the table in Google's default location, unless it exists. Reports
    /// outages to `condition`.
    ///
    /// # Errors
    /// It can never be created, for example because of a missing permission.
    pub async fn create_dataset(&self, condition: &Condition) -> Result<(), WrongSettings> {
        let resource = format!("dataset {}.{}", self.name.project, self.name.dataset);
        let attempt = || async {
            let ensured = timeout(TIMEOUT, self.ensure_dataset()).await;
            ensured.unwrap_or_else(|_| Err(NotCreated::Yet("BigQuery does not answer".into())))
        };
        create::ensure(&resource, condition, attempt).await.map(|_| ())
    }

    async fn ensure_dataset(&self) -> Result<Created, NotCreated> {
        let api = self.api.lease().await.map_err(|error| NotCreated::Yet(error.to_string()))?;
        let ensured = match api.dataset(&self.name).await {
            Ok(_) => Ok(Created::Before),
            // Without the right to see it, it may exist.
            Err(Failure::Refused(Refused { status: 403 | 404, .. })) => {
                outcome(api.create_dataset(&self.name).await)
            }
            Err(failure) => Err(NotCreated::Yet(failure.to_string())),
        };
        api.done();
        ensured
    }
}

fn outcome<T>(created: Result<T, Failure>) -> Result<Created, NotCreated> {
    match created {
        Ok(_) => Ok(Created::Now),
        Err(Failure::Refused(Refused { status: 409, .. })) => Ok(Created::Before),
        Err(Failure::Refused(Refused { status: 403, message, reason }))
            if reason == "accessDenied" =>
        {
            Err(NotCreated::denied("bigquery.datasets.create", ROLE, &message))
        }
        Err(Failure::Refused(Refused { status: 400 | 404, message, .. })) => {
            Err(NotCreated::Ever(message))
        }
        Err(failure) => Err(NotCreated::Yet(failure.to_string())),
    }
}
