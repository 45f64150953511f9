//! TLS of clients: verification of the server, and the client's own certificate. Files are read for
//! each connection, so renewed files need no restart.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::settings::{Tls, url};

/// Returns the TLS configuration of the settings.
///
/// # Errors
/// Fails for a file that cannot be read or has the wrong content. The error names the file and the
/// problem.
pub fn client(settings: &Tls) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match &settings.ca_file {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", file.display()))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err("this system has no root certificates: set ca_file".into());
            }
        }
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let config = match (&settings.client_cert_file, &settings.client_key_file) {
        (Some(cert), Some(key)) => {
            let wrong = |error| format!("{}: {error}", key.display());
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
                pem::Error::Io(error) => url::unreadable_secret(key, &error),
                other => unreadable(key, "private key", other),
            })?;
            builder.with_client_auth_cert(certificates(cert)?, private).map_err(wrong)?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error| unreadable(file, "certificates", error);
    let found = CertificateDer::pem_file_iter(file).map_err(wrong)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(wrong)?;
    if found.is_empty() {
        return Err(format!("{}: no certificates in PEM", file.display()));
    }
    Ok(found)
}

/// Returns what is wrong with a file that should hold `what` in PEM.
fn unreadable(file: &Path, what: &str, error: pem::Error) -> String {
    let file = file.display();
    match error {
        pem::Error::Io(error) => format!("cannot read {file}: {error}"),
        other => format!("{file}: no {what} in PEM: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_client_certificate_is_shown_if_there_is_one() {
        crate::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        fs::write(file("client.pem"), certificate.pem()).unwrap();
        fs::write(file("client.key"), key.serialize_pem()).unwrap();
        let mut settings = Tls { ca_file: Some(file("client.pem")), ..Tls::default() };
        let shows_one =
            |settings: &Tls| client(settings).unwrap().client_auth_cert_resolver.has_certs();

        assert!(!shows_one(&settings));
        settings.client_cert_file = Some(file("client.pem"));
        settings.client_key_file = Some(file("client.key"));
        assert!(shows_one(&settings));
        settings.client_key_file = Some(file("client.pem"));
        let wrong = client(&settings).unwrap_err();
        assert!(wrong.contains("client.pem: ") && wrong.contains("private key"), "{wrong}");
    }
}
