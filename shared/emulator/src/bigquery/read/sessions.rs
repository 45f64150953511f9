//! Sessions of the Storage Read API.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::bigquery::rows::Rows;
use crate::bigquery::schema::Field;

/// Most sessions that are remembered.
const MAX_SESSIONS: usize = 1_000;
/// Sessions by name. The queue has the oldest first.
#[derive(Debug, Default)]
pub(in crate::bigquery) struct ReadSessions {
    all: BTreeMap<String, ReadSession>,
    order: VecDeque<String>,
}

/// Columns and rows of a session.
#[derive(Debug, Clone)]
pub(super) struct ReadSession {
    pub fields: Vec<Field>,
    pub source: RowSource,
}

/// Source of the rows of a session.
#[derive(Debug, Clone)]
pub(super) enum RowSource {
    /// A query in SQLite's SQL up to a row id. Later rows are not part of the session.
    Table {
        query: String,
        /// Name of the row ids in the query.
        row_id: &'static str,
        last: i64,
    },
    Result(Arc<Rows>),
}

impl ReadSessions {
    /// Returns a session if it is remembered.
    pub(super) fn get(&self, name: &str) -> Option<&ReadSession> {
        self.all.get(name)
    }

    /// Remembers a session, and forgets the oldest one above the limit.
    pub(super) fn add(&mut self, name: String, session: ReadSession) {
        self.order.push_back(name.clone());
        self.all.insert(name, session);
        if self.order.len() > MAX_SESSIONS
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
        }
    }
}
