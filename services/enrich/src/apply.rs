//! Transfer of data from a document into a message.

use std::collections::BTreeMap;

use message::Envelope;
use serde_json::Value;

use crate::cache::Document;

/// Writer from a document into a message's enrichment data. It runs once for each attempt, so it
/// must be idempotent.
///
/// A function of a document and an envelope is such a writer, too.
pub trait Apply: Send + Sync + 'static {
    /// Adds data of the document to the envelope.
    fn apply(&self, document: &Document, envelope: &mut Envelope);
}

impl<F> Apply for F
where
    F: Fn(&Document, &mut Envelope) + Send + Sync + 'static,
{
    fn apply(&self, document: &Document, envelope: &mut Envelope) {
        self(document, envelope);
    }
}

/// Copier of fields. It maps each name in the enrichment data to a field of the document. Dots
/// separate the levels of nested fields.
#[derive(Debug, Clone)]
pub struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Creates a copier of these fields.
    #[must_use]
    pub fn new(fields: BTreeMap<String, String>) -> Self {
        Self(fields)
    }
}

impl Apply for Fields {
    fn apply(&self, document: &Document, envelope: &mut Envelope) {
        for (name, path) in &self.0 {
            if let Some(value) = find(document, path) {
                envelope.enrichment.insert(name.clone(), value.clone());
            }
        }
    }
}

fn find<'a>(document: &'a Document, path: &str) -> Option<&'a Value> {
    // The name of a field may contain dots itself.
    document.get(path).or_else(|| {
        let (first, rest) = path.split_once('.')?;
        find(document.get(first)?.as_object()?, rest)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_found_at_any_depth() {
        let document = json!({ "a": { "b": 1 }, "c.d": 2 });
        let document = document.as_object().expect("a map");

        assert_eq!(find(document, "a.b"), Some(&json!(1)));
        assert_eq!(find(document, "c.d"), Some(&json!(2)));
        assert_eq!(find(document, "a.c"), None);
    }
}
