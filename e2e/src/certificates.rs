//! Makes certificates for test servers on this machine and for their clients.

use std::path::Path;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Makes certificates in a folder, each as `<name>.pem` with its key in `<name>.key`.
///
/// `ca` is a certificate authority. It signs `server`, a server at 127.0.0.1, and `client`.
/// `stranger` is an authority that has signed neither.
///
/// # Errors
/// Fails when a file cannot be written.
pub fn make(folder: &Path) -> anyhow::Result<()> {
    let issuer = authority(folder, "ca")?;
    authority(folder, "stranger")?;
    for (name, hosts) in [("server", vec!["127.0.0.1".to_owned()]), ("client", Vec::new())] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name.push(DnType::CommonName, name);
        write(folder, &format!("{name}.pem"), &params.signed_by(&key, &issuer)?.pem())?;
        write(folder, &format!("{name}.key"), &key.serialize_pem())?;
    }
    Ok(())
}

fn authority(folder: &Path, name: &str) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    write(folder, &format!("{name}.pem"), &params.self_signed(&key)?.pem())?;
    Ok(Issuer::new(params, key))
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    std::fs::write(folder.join(name), text).with_context(|| format!("write {name}"))
}
