//! TLS certificates in settings.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// TLS certificates, in PEM. They are read again for each connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Tls {
    /// CA certificates used to verify the server; the public ones if unset.
    pub ca_file: Option<PathBuf>,
    /// Client certificate, for mutual TLS.
    pub client_cert_file: Option<PathBuf>,
    /// Private key of the client certificate.
    pub client_key_file: Option<PathBuf>,
}

impl Tls {
    /// Checks that a client certificate and its key are either both set or both unset.
    ///
    /// # Errors
    /// Returns what would be right.
    pub fn check_pair(&self) -> Result<(), &'static str> {
        let is_pair = self.client_cert_file.is_some() == self.client_key_file.is_some();
        is_pair.then_some(()).ok_or("client_cert_file and client_key_file need each other")
    }
}
