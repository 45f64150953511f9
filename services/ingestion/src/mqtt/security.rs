//! Login to the broker. Files are read for each connection, so renewed files need no restart.

use service::settings::url;

use crate::config::Mqtt;

/// Returns the user, and the password of the file or of the settings. Returns nothing if no user is
/// set.
///
/// # Errors
/// Fails when the password file cannot be read.
pub fn credentials(settings: &Mqtt) -> Result<Option<(String, String)>, String> {
    let Some(user) = &settings.username else { return Ok(None) };
    let password = match &settings.password_file {
        None => settings.password.text().unwrap_or_default().to_owned(),
        Some(file) => {
            let text = std::fs::read_to_string(file);
            let text = text.map_err(|error| url::unreadable_secret(file, &error))?;
            // Editors and `echo` append a line end.
            text.trim_end_matches(['\n', '\r']).to_owned()
        }
    };
    Ok(Some((user.clone(), password)))
}

/// Runs `read` on a separate thread, so a slow file system blocks no worker. The caller limits the
/// time.
///
/// # Errors
/// Returns the errors of `read`. Also fails when it panics.
pub(super) async fn reading<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(read).await;
    done.unwrap_or_else(|error| Err(format!("read files: {error}")))
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mqtt::connection::end_session;
    use crate::mqtt::dial::Network;

    #[test]
    fn the_password_is_that_of_the_file_or_of_the_settings() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "of file\n").unwrap();
        let of_file = Some(file.path().to_owned());
        let login = |password_file: Option<&std::path::PathBuf>, password: &str| {
            let settings = Mqtt {
                username: Some("user".into()),
                password_file: password_file.cloned(),
                password: service::settings::Password::new(password),
                ..Mqtt::default()
            };
            credentials(&settings).unwrap().unwrap().1
        };

        assert_eq!(login(of_file.as_ref(), ""), "of file");
        assert_eq!(login(None, "of variable"), "of variable");
        assert_eq!(login(None, ""), "");
        assert_eq!(credentials(&Mqtt::default()), Ok(None));
    }

    #[tokio::test]
    async fn a_password_file_that_cannot_be_read_in_time_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        // Opening a pipe blocks until another process writes to it.
        let pipe = folder.path().join("password");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let settings = Mqtt {
            url: "mqtt://127.0.0.1:1".into(),
            username: Some("user".into()),
            password_file: Some(pipe.clone()),
            connect_timeout: Duration::from_secs(1),
            ..Mqtt::default()
        };

        let ended = tokio::spawn(async move { end_session(&Network, &settings, 0).await });

        let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
        assert!(ended.unwrap().unwrap().unwrap_err().contains("mqtt.connect_timeout"));
        // This ends the blocked thread.
        std::fs::write(&pipe, "secret").unwrap();
    }
}
