//! Stores of objects: Cloud Storage on Google's client, a folder, and stores with the API of S3.
//!
//! Objects are created completely or not at all, under names that no other object has. Icestore
//! writes its archive this way, to any [`Store`]. Dead letters that are too big for Pub/Sub are
//! stored the same way, in a [`Bucket`] of Cloud Storage.

mod bucket;
mod clients;
mod contract;
mod folder;
mod name;
mod object;
mod s3;
mod settings;
mod store;

pub use bucket::Bucket;
pub use clients::Clients;
pub use contract::{ObjectStore, Outage};
pub use folder::Folder;
pub use name::BucketName;
pub use object::Object;
#[cfg(feature = "s3")]
pub use s3::S3;
pub use s3::S3Settings;
pub use settings::Endpoint;
pub use store::Store;
