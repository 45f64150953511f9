//! Certificates in settings.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Certificates, in PEM. They are read again at each connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Tls {
    /// CA certificates that the server's own must come from; public ones when left out.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, for mutual TLS.
    pub client_cert_file: Option<PathBuf>,
    /// The key to it.
    pub client_key_file: Option<PathBuf>,
}

impl Tls {
    /// Checks that a client certificate has its key, and a key its certificate.
    ///
    /// # Errors
    /// What would be right.
    pub fn check_pair(&self) -> Result<(), &'static str> {
        let is_pair = self.client_cert_file.is_some() == self.client_key_file.is_some();
        is_pair.then_some(()).ok_or("client_cert_file and client_key_file need each other")
    }
}
