//! Names of everything that test environments have in their cloud.
//!
//! In a cloud that several runs share, [`Cloud::name`](crate::cloud::Cloud::name) adds the run to
//! each of them.

/// Services in the order of the flow.
pub const SERVICES: [&str; 4] = ["ingestion", "enrich", "bigqueries", "icestore"];

/// Topic that ingestion publishes to.
pub const RAW: &str = "raw";
/// Topic that enrich publishes to.
pub const ENRICHED: &str = "enriched";
/// Topic of dead letters. It is also the name of the subscription of the tools, and of the bucket
/// for dead letters that are too large for Pub/Sub.
pub const DEAD_LETTERS: &str = "dead-letters";
/// All topics.
pub const TOPICS: [&str; 3] = [RAW, ENRICHED, DEAD_LETTERS];

/// Subscription of enrich.
pub const ENRICH: &str = "enrich";
/// Subscription of icestore, and the bucket that it writes to.
pub const ARCHIVE: &str = "archive";
/// Subscription of bigqueries.
pub const ROWS: &str = "rows";
/// Service that also writes the rows to PostgreSQL, and its subscription. The chain does not need it.
pub const POSTGRES: &str = "postgres";
/// Subscription from which tests and reports read dead letters.
pub const DEAD_LETTER_REPORT: &str = "dead-letters-report";

/// Collection with a document for each device.
pub const DEVICES: &str = "devices";
/// Dataset of the rows.
pub const DATASET: &str = "dataflow";
/// Table of the rows.
pub const TABLE: &str = "readings";
/// View of the table, without duplicates.
pub const VIEW: &str = "readings_once";

/// Route of ingestion for the topics of a fleet, and the producer that it names.
pub const ROUTE: &str = "uplinks";

/// Subscription of an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription {
    /// Name of the subscription.
    pub id: &'static str,
    /// Topic that it subscribes to.
    pub topic: &'static str,
    /// True if it delivers the messages of each ordering key in order.
    pub is_ordered: bool,
}

impl Subscription {
    /// Describes a subscription without order.
    #[must_use]
    pub const fn new(id: &'static str, topic: &'static str) -> Self {
        Self { id, topic, is_ordered: false }
    }

    /// Describes a subscription that delivers the messages of each ordering key in order.
    #[must_use]
    pub const fn ordered(id: &'static str, topic: &'static str) -> Self {
        Self { is_ordered: true, ..Self::new(id, topic) }
    }
}

/// Subscriptions of the services, and the one for reports.
pub const SUBSCRIPTIONS: [Subscription; 4] = [
    Subscription::new(ENRICH, RAW),
    Subscription::new(ARCHIVE, ENRICHED),
    Subscription::new(ROWS, ENRICHED),
    Subscription::new(DEAD_LETTER_REPORT, DEAD_LETTERS),
];
