//! Messages, and the formats of their data.
//!
//! A [`Message`] is bytes with attributes, as a transport delivered them. Between the services the
//! bytes are an [`Envelope`], which holds the [`Payload`] of a device. A [`FieldPath`] names a value
//! in a message, for the settings. An [`Origin`] is where a message comes from.

pub mod attribute;
pub mod envelope;
pub mod field_path;
pub mod json;
mod message;
mod origin;
mod payload;
pub mod timestamp;
pub mod trace;

pub use envelope::Envelope;
pub use field_path::FieldPath;
pub use message::{Attributes, Message};
pub use origin::{Origin, OriginKind};
pub use payload::Payload;
