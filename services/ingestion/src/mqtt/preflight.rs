//! Check that the broker accepts a connection. It changes nothing at the broker.

use service::Dependency;
use service::tools::preflight::State;

use super::{connection, dial::Network};
use crate::config::Mqtt;

/// Connects and disconnects under a separate client id. The service's own id would take over its
/// session.
pub(crate) async fn dependency(settings: &Mqtt) -> Dependency {
    let guest = Mqtt { name: format!("{}-check", settings.name), ..settings.clone() };
    let state = match connection::end_session(&Network, &guest, 0).await {
        Ok(()) => State::Ready,
        Err(why) => State::Unreachable(why),
    };
    Dependency { kind: "mqtt broker", name: settings.url.to_string(), roles: &[], state }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::config::Protocol;

    #[tokio::test]
    async fn a_check_does_not_take_the_client_id_of_the_service() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = Mqtt {
            url: format!("mqtt://{}", listener.local_addr().unwrap()).into(),
            name: "devices".into(),
            ordinal: Some(0),
            protocol: Protocol::V4,
            ..Mqtt::default()
        };
        let broker = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let [_, length] = [stream.read_u8().await.unwrap(), stream.read_u8().await.unwrap()];
            let mut connect = vec![0; length.into()];
            stream.read_exact(&mut connect).await.unwrap();
            stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            String::from_utf8_lossy(&connect).into_owned()
        };

        let both = async { tokio::join!(dependency(&settings), broker) };
        let (dependency, connect) = timeout(Duration::from_secs(30), both).await.unwrap();

        assert!(matches!(dependency.state, State::Ready), "{:?}", dependency.state);
        assert!(connect.contains("devices-check"), "{connect:?}");
    }
}
