//! Settings whose guarantee is weaker than at least once.

use std::time::Duration;

use message::OriginKind;
use pubsub::DeadLetterConfig;
use service::Faults;

use crate::config::{Mqtt, Protocol, Retained, RouteSettings, Settings};
use crate::mqtt::humantime;

/// Shortest session that survives an outage which nobody notices at night. What the broker holds for
/// an ended session is lost, so a shorter one is hardly better than a clean session.
const MIN_SESSION: Duration = Duration::from_secs(24 * 3600);

/// Reports each setting that may lose messages.
///
/// No setting of `http_ingest` does: a client gets 2xx only for a message that is published, or
/// durable in the dead letters.
pub(crate) fn check(settings: &Settings, faults: &mut Faults) {
    for (name, route) in &settings.routes {
        check_route(name, route, faults);
    }
    if settings.has_mqtt() {
        check_broker(&settings.mqtt, faults);
    }
    DeadLetterConfig::check_guarantee(settings.dead_letters.as_ref(), faults);
}

fn check_route(name: &str, route: &RouteSettings, faults: &mut Faults) {
    let key = |of: &str| format!("routes.{name}.{of}");
    if route.source.kind() == OriginKind::Mqtt && route.source.qos == 0 {
        let loses = "a message of QoS 0 may be lost before it is published";
        faults.add_weak(&key("source.qos"), loses, "must be 1");
    }
    for (of, bound) in [
        ("min_payload_bytes", route.min_payload_bytes),
        ("max_payload_bytes", route.max_payload_bytes),
    ] {
        if bound.is_some() {
            let loses = "payloads outside of this limit are dropped";
            faults.add_weak(&key(of), loses, "leave it out");
        }
    }
}

fn check_broker(mqtt: &Mqtt, faults: &mut Faults) {
    // MQTT 3.1.1 has no expiry. The broker's own settings decide how long it keeps the session.
    if mqtt.protocol == Protocol::V5 && mqtt.session_expiry < MIN_SESSION {
        let expiry = humantime(mqtt.session_expiry);
        let loses = format!("what comes is lost if ingestion is away for longer than {expiry}");
        let right = format!("must be at least {}", humantime(MIN_SESSION));
        faults.add_weak("mqtt.session_expiry", loses, right);
    }
    if mqtt.retained == Retained::Drop {
        let loses = "retained messages are dropped, also those that came before ingestion";
        faults.add_weak("mqtt.retained", loses, "must be keep");
    }
}

#[cfg(test)]
mod tests {
    use pubsub::Keyword;

    use super::*;

    /// Returns the keys of the settings that `--strict` refuses.
    fn refused(settings: &Settings) -> Vec<String> {
        let mut faults = Faults::default();
        check(settings, &mut faults);
        let key = |line: &String| line.split(": ").next().unwrap_or_default().to_owned();
        faults.lines().iter().map(key).collect()
    }

    fn strong() -> Settings {
        let mut settings = Settings::default();
        let (topic_id, bucket) = ("dead-letters".into(), Some("letters".into()));
        settings.dead_letters = Some(DeadLetterConfig::Topic { topic_id, bucket });
        let mut mqtt = RouteSettings::default();
        (mqtt.source.mqtt_topic, mqtt.source.qos) = ("devices/{id}/up".into(), 1);
        settings.routes.insert("a".into(), mqtt);
        let mut http = RouteSettings::default();
        http.source.http_source = Some("{id}".into());
        settings.routes.insert("h".into(), http);
        settings
    }

    #[test]
    fn each_setting_that_may_lose_messages_is_named() {
        type Change = fn(&mut Settings);
        let weak: [(&str, Change); 8] = [
            ("routes.a.source.qos", |s| s.routes.get_mut("a").unwrap().source.qos = 0),
            ("routes.a.min_payload_bytes", |s| {
                s.routes.get_mut("a").unwrap().min_payload_bytes = Some(1);
            }),
            ("routes.h.max_payload_bytes", |s| {
                s.routes.get_mut("h").unwrap().max_payload_bytes = Some(9);
            }),
            ("mqtt.session_expiry", |s| {
                s.mqtt.session_expiry = MIN_SESSION - Duration::from_secs(1);
            }),
            ("mqtt.retained", |s| s.mqtt.retained = Retained::Drop),
            ("dead_letters", |s| s.dead_letters = Some(DeadLetterConfig::Keyword(Keyword::Drop))),
            ("dead_letters.bucket", |s| {
                let topic_id = "dead-letters".into();
                s.dead_letters = Some(DeadLetterConfig::Topic { topic_id, bucket: None });
            }),
            ("routes.b.source.qos", |s| {
                let mut route = s.routes["a"].clone();
                route.source.qos = 0;
                s.routes.insert("b".into(), route);
            }),
        ];

        assert_eq!(refused(&strong()), Vec::<String>::new());
        for (key, change) in weak {
            let mut settings = strong();
            change(&mut settings);
            assert_eq!(refused(&settings), [key]);
        }
    }

    #[test]
    fn a_session_is_not_asked_about_where_there_is_none() {
        let mut settings = strong();
        settings.mqtt.session_expiry = Duration::from_secs(1);
        settings.mqtt.protocol = Protocol::V4;
        assert_eq!(refused(&settings), Vec::<String>::new());

        settings.mqtt.protocol = Protocol::V5;
        settings.routes.remove("a");
        settings.http_ingest = Some(crate::config::HttpIngest::default());
        assert_eq!(refused(&settings), Vec::<String>::new(), "only routes from HTTP");
    }

    #[test]
    fn a_fault_says_what_is_lost_and_what_loses_nothing() {
        let (mut settings, mut faults) = (strong(), Faults::default());
        settings.mqtt.session_expiry = Duration::from_secs(60);

        check(&settings, &mut faults);

        let line = "mqtt.session_expiry: what comes is lost if ingestion is away for longer than 1m; \
                    with --strict: must be at least 1day";
        assert_eq!(faults.lines(), [line]);
    }
}
