//! Advice for a connection that fails: the setting that may be wrong, and what would be right.

use crate::server::SslMode;

/// Texts of errors with the advice for each. The first text that is found decides.
const ADVICE: [(&str, &str); 18] = [
    (
        "SQLSTATE 28P01",
        "postgres.user and postgres.password_file: the server does not accept this password",
    ),
    (
        "valid client certificate",
        "postgres.tls.client_cert_file: the server demands a certificate of the client",
    ),
    (
        "no pg_hba.conf entry",
        "postgres.user and postgres.database: pg_hba.conf of the server must have an entry for both \
         and for this host",
    ),
    ("SQLSTATE 28", "postgres.user: the server must have this role, with LOGIN"),
    ("SQLSTATE 3D000", "postgres.database: the server must have this database"),
    ("SQLSTATE 42501", "postgres.user: this role needs CONNECT on postgres.database"),
    (
        "SQLSTATE 53300",
        "postgres.max_connections: all replicas together must fit into max_connections of the server",
    ),
    (
        "does not support TLS",
        "postgres.sslmode: verify-full needs `ssl = on` at the server; disable is fine on one machine only",
    ),
    (
        "UnknownIssuer",
        "postgres.tls.ca_file: it must have the CA that signed the certificate of the server",
    ),
    (
        "NotValidForName",
        "postgres.host: verify-full needs a name that the certificate of the server has",
    ),
    (
        "not valid for name",
        "postgres.host: verify-full needs a name that the certificate of the server has",
    ),
    ("invalid peer certificate", "postgres.tls.ca_file and the certificate of the server"),
    ("password missing", "postgres.password_file: the server asks for a password"),
    (
        "does not allow writes",
        "postgres.host: this server takes no writes; name the primary, or all servers with commas between",
    ),
    ("Connection refused", "postgres.host and postgres.port: nobody listens there"),
    ("lookup address", "postgres.host: no name server knows this name"),
    (
        "connecting to server: No such file",
        "postgres.host: a path must be the folder of the server's socket",
    ),
    (
        "no login within",
        "postgres.host and postgres.port: nobody answers there, or a firewall is in between",
    ),
];

/// Adds advice to the error of a connection, if its cause is known.
pub(crate) fn advised(why: String, sslmode: SslMode) -> String {
    if sslmode == SslMode::Disable && why.contains("no encryption") {
        return format!(
            "{why}; check postgres.sslmode: the server may demand encryption, which verify-full gives"
        );
    }
    match ADVICE.iter().find(|(text, _)| why.contains(text)) {
        Some((_, advice)) => format!("{why}; check {advice}"),
        None => why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_connection_names_its_setting() {
        for (why, sslmode, setting) in [
            ("SQLSTATE 28P01: password authentication failed", SslMode::Disable, "password_file"),
            ("SQLSTATE 28000: role \"x\" does not exist", SslMode::Disable, "postgres.user:"),
            ("failed to lookup address information", SslMode::VerifyFull, "postgres.host: no name"),
            (
                "SQLSTATE 28000: no pg_hba.conf entry for host \"::1\", no encryption",
                SslMode::Disable,
                "postgres.sslmode",
            ),
            (
                "SQLSTATE 28000: no pg_hba.conf entry for host \"::1\", SSL encryption",
                SslMode::VerifyFull,
                "postgres.database: pg_hba.conf",
            ),
        ] {
            let advised = advised(why.into(), sslmode);
            assert!(advised.starts_with(why) && advised.contains(setting), "{advised}");
        }
        assert_eq!(advised("odd".into(), SslMode::Disable), "odd");
    }
}
