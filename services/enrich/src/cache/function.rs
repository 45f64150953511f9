//! Source of documents that is a function.

use std::sync::Arc;

use super::{Document, Fetch, LayerError};

/// Source of documents of a function, from [`from_fn`].
#[derive(Debug, Clone)]
pub struct FromFn<F> {
    origin: String,
    function: F,
}

/// Creates a source of documents of a function. It returns the documents of the keys in their order,
/// and `None` for a key without a document.
///
/// `origin` is a name that is unique among all sources that share one Redis.
pub fn from_fn<F, R>(origin: impl Into<String>, function: F) -> FromFn<F>
where
    F: Fn(Vec<Arc<str>>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Vec<Option<Document>>, LayerError>> + Send,
{
    FromFn { origin: origin.into(), function }
}

impl<F, R> Fetch for FromFn<F>
where
    F: Fn(Vec<Arc<str>>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Vec<Option<Document>>, LayerError>> + Send,
{
    async fn fetch(&self, keys: &[Arc<str>]) -> Result<Vec<Option<Document>>, LayerError> {
        (self.function)(keys.to_vec()).await
    }

    fn origin(&self) -> String {
        self.origin.clone()
    }
}
