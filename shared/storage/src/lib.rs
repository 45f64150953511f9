//! Cloud Storage on Google's client.
//!
//! Objects are created completely or not at all, under names that no other object has. Icestore
//! writes its archive this way. Dead letters that are too big for Pub/Sub are stored the same way.

mod bucket;
mod clients;
mod name;
mod settings;

pub use bucket::{Bucket, Object};
pub use clients::Clients;
pub use name::BucketName;
pub use settings::Endpoint;
