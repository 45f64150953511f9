//! Cloud Storage on Google's client: objects that are created whole or not at all, under names that
//! no other object has. Icestore's objects go this way, and dead letters that are too big for
//! Pub/Sub.

mod bucket;
mod settings;

pub use bucket::{Bucket, Object};
pub use settings::Endpoint;
