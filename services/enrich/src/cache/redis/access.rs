//! Login to Redis and its certificates. They are read from the files of the settings.

use std::path::Path;

use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionInfo, RedisConnectionInfo, TlsCertificates};
use service::settings::Tls;

use super::super::LayerError;
use super::certificates::{certificates, read};
use super::settings::RedisSettings;
use super::url::is_tls;

/// Login to servers of one kind, and the certificates.
#[derive(Clone)]
pub(super) struct Access {
    username: Option<String>,
    password: Option<String>,
    /// Number of the database, in place of the one in the URL.
    database: Option<u32>,
    pub(super) certificates: TlsCertificates,
}

impl Access {
    /// Reads the access to Redis itself. It reads files, so it may block.
    ///
    /// # Errors
    /// Fails for a file that cannot be read or has the wrong content.
    pub(super) fn to_redis(settings: &RedisSettings) -> Result<Self, LayerError> {
        let (user, file) = (settings.username.as_ref(), settings.password_file.as_deref());
        let access = Self::read(user, file, &settings.tls)?;
        let password = access.password.or_else(|| settings.password.text().map(str::to_owned));
        Ok(Self { password, database: settings.database, ..access })
    }

    /// Reads the access to the sentinels. It reads files, so it may block.
    ///
    /// # Errors
    /// Fails for a file that cannot be read or has the wrong content.
    pub(super) fn to_sentinels(settings: &RedisSettings) -> Result<Self, LayerError> {
        let sentinel = &settings.sentinel;
        Self::read(sentinel.username.as_ref(), sentinel.password_file.as_deref(), &settings.tls)
    }

    fn read(
        username: Option<&String>,
        password_file: Option<&Path>,
        tls: &Tls,
    ) -> Result<Self, LayerError> {
        let password = password_file.map(read).transpose()?;
        // Editors and `echo` append a line end.
        let password = password.map(|text| text.trim_end_matches(['\n', '\r']).to_owned());
        let (username, certificates) = (username.cloned(), certificates(tls)?);
        Ok(Self { username, password, database: None, certificates })
    }

    /// Returns the connection data of a server, including the login.
    pub(super) fn server(&self, server: &ConnectionInfo) -> ConnectionInfo {
        let login = self.login(server.redis_settings().clone());
        // Without this, small requests would wait for the acknowledgements of earlier ones.
        let tcp = TcpSettings::default().set_nodelay(true);
        server.clone().set_redis_settings(login).set_tcp_settings(tcp)
    }

    /// Returns a client of a server.
    ///
    /// # Errors
    /// Fails for invalid certificates.
    pub(super) fn client(&self, server: &ConnectionInfo) -> Result<Client, LayerError> {
        let server = self.server(server);
        let client = if is_tls(&server) {
            Client::build_with_tls(server, self.certificates.clone())
        } else {
            Client::open(server)
        };
        client.map_err(|error| LayerError::of(&error))
    }

    fn login(&self, mut login: RedisConnectionInfo) -> RedisConnectionInfo {
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(database) = self.database {
            login = login.set_db(database.into());
        }
        login
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use redis::IntoConnectionInfo as _;
    use service::settings::Password;

    use super::*;
    use crate::cache::redis::settings::Sentinel;

    #[test]
    fn the_login_is_that_of_the_settings() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"hunter2\n").unwrap();
        let settings = RedisSettings {
            username: Some("enrich".into()),
            password_file: Some(file.path().into()),
            ..RedisSettings::default()
        };
        let localhost = "redis://localhost/1".into_connection_info().unwrap();
        let login = |settings: &RedisSettings| {
            let access = Access::to_redis(settings).unwrap();
            access.server(&localhost).redis_settings().clone()
        };

        let sentinel = Sentinel { username: Some("guard".into()), ..Sentinel::default() };
        let watched = RedisSettings { sentinel, ..settings.clone() };
        let to_sentinels = Access::to_sentinels(&watched).unwrap();

        let with_both = login(&settings);
        let with_none = login(&RedisSettings::default());
        let of_variables = login(&RedisSettings {
            password: Password::new("hunter3"),
            database: Some(2),
            ..RedisSettings::default()
        });

        assert_eq!((with_both.username(), with_both.password()), (Some("enrich"), Some("hunter2")));
        assert_eq!((with_none.username(), with_none.password()), (None, None));
        assert_eq!((of_variables.password(), of_variables.db()), (Some("hunter3"), 2));
        assert_eq!((with_both.db(), with_none.db()), (1, 1));
        let of_sentinels = to_sentinels.server(&localhost);
        let of_sentinels = of_sentinels.redis_settings();
        assert_eq!((of_sentinels.username(), of_sentinels.password()), (Some("guard"), None));
    }
}
