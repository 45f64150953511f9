//! Rows of a table, for every sink that writes rows.
//!
//! [`Rows`] converts messages to rows: as the settings describe them ([`Mapped`]), as a custom
//! [`Row`] type reads them ([`Typed`]), or as a function makes them ([`from_fn`]). A row has a
//! [`cell::Cell`] for each [`column::Column`]. The
//! rules of the conversion are in [`convert`](mod@convert). Data that no column takes is in one
//! additional column, as JSON. [`json`] shows cells.

pub mod cell;
pub mod column;
pub mod convert;
pub mod json;
pub mod reasons;
mod row;
mod unmapped;

pub use row::{FromFn, Mapped, Row, Rows, Typed, fitting, from_fn, id_of, ingest_id, name_table};
