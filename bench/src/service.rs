//! Services that are measured.

use e2e::names::{
    ARCHIVE, DEAD_LETTER_REPORT, DEAD_LETTERS, ENRICH, ENRICHED, RAW, ROWS, Subscription,
};

/// One of the four services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Ingestion,
    Enrich,
    Bigqueries,
    Icestore,
}

impl Service {
    pub(crate) const ALL: [Self; 4] =
        [Self::Ingestion, Self::Enrich, Self::Bigqueries, Self::Icestore];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ingestion => "ingestion",
            Self::Enrich => "enrich",
            Self::Bigqueries => "bigqueries",
            Self::Icestore => "icestore",
        }
    }

    /// Returns the topic that has the backlog. Ingestion reads it from the broker instead.
    pub(crate) fn input(self) -> Option<&'static str> {
        match self {
            Self::Ingestion => None,
            Self::Enrich => Some(RAW),
            Self::Bigqueries | Self::Icestore => Some(ENRICHED),
        }
    }

    /// Returns the subscriptions for this service and the bare loop. A topic that a service
    /// publishes to needs one, too.
    pub(crate) fn subscriptions(self) -> Vec<Subscription> {
        let report = Subscription::new(DEAD_LETTER_REPORT, DEAD_LETTERS);
        let sink = |topic| Subscription::new("sink", topic);
        let own = match self {
            Self::Ingestion => return vec![report, sink(RAW)],
            Self::Enrich => {
                return vec![
                    report,
                    Subscription::new(ENRICH, RAW),
                    Subscription::new("bare", RAW),
                    sink(ENRICHED),
                ];
            }
            Self::Bigqueries => ROWS,
            Self::Icestore => ARCHIVE,
        };
        vec![report, Subscription::new(own, ENRICHED), Subscription::new("bare", ENRICHED)]
    }
}
