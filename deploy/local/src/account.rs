//! Account of every message, by content.

use std::collections::HashSet;

use anyhow::Context as _;
use e2e::archive;
use e2e::fleet::Fleet;
use e2e::names::{ARCHIVE, DATASET, TABLE};
use e2e::reconcile::{self, Arrived, Destinations, Reconciliation};

use crate::engine::Engine;
use crate::env::{Destination, LocalEnv};
use crate::progress::Progress;
use crate::settings::PREFIX;

/// Data in the folder from before this run.
#[derive(Debug, Default)]
pub(crate) struct Known {
    objects: HashSet<String>,
    rows: usize,
}

/// Outcome of all messages.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub totals: Reconciliation,
    /// Broken promises besides those in the totals.
    pub problems: Vec<String>,
}

impl Known {
    /// Finds what the embedded cloud has already. PostgreSQL's rows are found where they are read.
    pub(crate) async fn of(env: &LocalEnv) -> anyhow::Result<Self> {
        let cloud = &env.servers.cloud;
        match env.destination {
            Destination::Google => Ok(Self {
                objects: cloud.list(ARCHIVE, PREFIX).await?.into_iter().collect(),
                rows: cloud.rows(DATASET, TABLE).await?.len(),
            }),
            Destination::Engine(_) => Ok(Self::default()),
        }
    }
}

/// Drains the services, and accounts for every message.
pub(crate) async fn complete(
    env: &mut LocalEnv,
    fleet: &Fleet,
    known: &Known,
) -> anyhow::Result<Account> {
    env.drain().await?;
    match &env.destination {
        Destination::Google => {
            Ok(Account { totals: of_google(env, fleet, known).await?, problems: Vec::new() })
        }
        Destination::Engine(engine) => of_engine(env, engine, fleet).await,
    }
}

/// Compares the sent messages with those in the table, the archive and the dead letters, by their
/// content.
async fn of_google(env: &LocalEnv, fleet: &Fleet, known: &Known) -> anyhow::Result<Reconciliation> {
    let names = env.servers.cloud.list(ARCHIVE, PREFIX).await?;
    let names: Vec<_> = names.into_iter().filter(|name| !known.objects.contains(name)).collect();
    let mut progress = Progress::begin(&format!("reading {} objects of the archive", names.len()));
    let mut arrived = Vec::new();
    for (index, name) in names.iter().enumerate() {
        progress.tell(|| format!("{index} objects, {} messages", arrived.len()));
        let object = env.servers.cloud.read(ARCHIVE, name).await?;
        let lines = archive::lines(name, &object).with_context(|| format!("read {name}"))?;
        for line in &lines {
            arrived.push(Arrived::of_line(line)?);
        }
    }
    Progress::begin("reading the table and the dead letters");
    let rows = env.servers.cloud.rows(DATASET, TABLE).await?;
    let rows: Vec<_> = rows.iter().skip(known.rows).map(Arrived::of_row).collect();
    let destinations = Destinations {
        archive: Some(&arrived),
        table: Some(&rows),
        dead_letters: &env.dead_letters().await?,
        is_enriched: true,
        ..Destinations::default()
    };
    Ok(reconcile::reconcile(fleet, destinations))
}

/// Compares the sent messages with the rows in PostgreSQL and the dead letters, by their content. No
/// message may have two rows.
async fn of_engine(env: &LocalEnv, engine: &Engine, fleet: &Fleet) -> anyhow::Result<Account> {
    Progress::begin("asking query for the rows of a device");
    let asked = engine.ask().await;
    Progress::begin("reading the table and the dead letters");
    let rows = engine.rows().await?;
    let totals = reconcile::reconcile(
        fleet,
        Destinations {
            postgresql: Some(&rows),
            dead_letters: &env.dead_letters().await?,
            is_enriched: true,
            ..Destinations::default()
        },
    );
    let problems = problems(&totals, asked, &fleet.log().refused());
    Ok(Account { totals, problems })
}

fn problems(totals: &Reconciliation, asked: anyhow::Result<()>, refused: &[String]) -> Vec<String> {
    let twice = totals.duplicates;
    let twice = (twice > 0).then(|| format!("{twice} rows are copies of others"));
    let asked = asked.err().map(|error| format!("{error:#}"));
    let count = refused.len();
    let refused =
        refused.first().map(|first| format!("ingestion refused {count} messages: {first}"));
    [twice, asked, refused].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_broken_promise_is_told() {
        let totals = Reconciliation { duplicates: 2, ..Reconciliation::default() };
        let refused = ["400: no".to_owned(), "404: none".to_owned()];

        let told = problems(&totals, Err(anyhow::anyhow!("GET /data is away")), &refused);
        let none = problems(&Reconciliation::default(), Ok(()), &[]);

        let expected = [
            "2 rows are copies of others",
            "GET /data is away",
            "ingestion refused 2 messages: 400: no",
        ];
        assert_eq!(told, expected);
        assert!(none.is_empty(), "{none:?}");
    }
}
