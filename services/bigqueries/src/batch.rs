//! Growing batches of rows, in the form in which they are sent.

mod arrow;
pub(crate) mod json;

pub(crate) use arrow::{Columns, Schema, only, size};
pub(crate) use json::Lines;
