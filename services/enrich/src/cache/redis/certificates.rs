//! Certificates and secrets of Redis, which are read from files.

use std::path::Path;

use redis::{Client, ClientTlsConfig, TlsCertificates};
use service::settings::{Tls, url};

use super::super::LayerError;

/// Checks that the certificate files hold certificates.
///
/// # Errors
/// Fails for the first file that does not.
pub(super) fn check(tls: &Tls) -> Result<(), LayerError> {
    let certificates = certificates(tls)?;
    let any = "rediss://localhost";
    Client::build_with_tls(any, certificates).map(drop).map_err(|error| LayerError::of(&error))
}

/// Reads the certificates of the settings.
pub(super) fn certificates(tls: &Tls) -> Result<TlsCertificates, LayerError> {
    let pem = |text: String, file: &Path, label: &str| {
        let is_there = text.contains(label);
        let wrong = || LayerError(format!("{}: has no `{label}` in PEM", file.display()));
        if is_there { Ok(text.into_bytes()) } else { Err(wrong()) }
    };
    let certificate = |file: &Path| {
        let wrong = |error| LayerError(format!("cannot read {}: {error}", file.display()));
        pem(std::fs::read_to_string(file).map_err(wrong)?, file, "BEGIN CERTIFICATE")
    };
    let root_cert = tls.ca_file.as_deref().map(certificate).transpose()?;
    let client_tls = match (&tls.client_cert_file, &tls.client_key_file) {
        (Some(cert), Some(key)) => {
            let client_cert = certificate(cert)?;
            Some(ClientTlsConfig { client_cert, client_key: pem(read(key)?, key, "PRIVATE KEY")? })
        }
        _ => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

/// Reads a file whose content is secret.
pub(super) fn read(file: &Path) -> Result<String, LayerError> {
    let text = std::fs::read_to_string(file);
    text.map_err(|error| LayerError(url::unreadable_secret(file, &error)))
}
