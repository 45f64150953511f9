//! Fields of log lines about one message.

use std::borrow::Cow;

use message::trace::Context;

use crate::{Event, panics};

/// Maximum bytes of a text in a line. A topic may have 64 KiB.
const MAX_BYTES: usize = 256;

/// Fields by which people find the lines of one message. A field that is not known is left out.
///
/// They are read only when a line is written, by [`log_message`].
#[derive(Debug, Default)]
pub(crate) struct MessageFields<'a> {
    pub service: &'static str,
    /// Name of the pipeline, if it is not that of the service.
    pub pipeline: Option<&'static str>,
    /// Source of the messages that has a name, such as a subscription.
    pub subscription: Option<&'a str>,
    /// Address that the message came from outside, such as an MQTT topic.
    pub topic: Option<&'a str>,
    /// Id of the transport.
    pub message_id: Option<&'a str>,
    pub ingest_id: Option<Cow<'a, str>>,
    pub trace: Option<Context<'a>>,
}

impl<'a> MessageFields<'a> {
    /// Reads the fields of a message, from the names of service, pipeline and source. `event` is empty
    /// for a message that was not kept.
    pub(crate) fn of<E: Event>(
        service: &'static str,
        pipeline: &'static str,
        source: Option<&'a str>,
        event: Option<&'a E>,
    ) -> Self {
        let of_event = || event.map_or_else(Self::default, Self::of_event);
        // An event describes itself. A panic of its code must not change what becomes of it.
        let of_event = panics::catch("describe message", of_event).unwrap_or_default();
        Self {
            service,
            pipeline: Some(pipeline).filter(|name| !name.is_empty() && *name != service),
            subscription: source,
            ..of_event
        }
    }

    fn of_event<E: Event>(event: &'a E) -> Self {
        let known = |text: &'a str| (!text.is_empty()).then_some(cut(text));
        let ingest_id = match event.ids().ingest_id {
            Cow::Borrowed(id) => Cow::Borrowed(cut(id)),
            Cow::Owned(id) => Cow::Owned(cut(&id).to_owned()),
        };
        Self {
            topic: known(event.origin()),
            message_id: known(event.id()),
            ingest_id: Some(ingest_id).filter(|id| !id.is_empty()),
            trace: event.trace(),
            ..Self::default()
        }
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_BYTES)]
}

/// Logs a line about a message: the level, the state that the lanes share, and the message, if it was
/// kept. The rest is as in `tracing::event!`.
///
/// A line below the level of the log costs one comparison: nothing of the message is read for it.
macro_rules! log_message {
    ($level:ident, $shared:expr, $event:expr, $($rest:tt)+) => {
        if tracing::enabled!(tracing::Level::$level) {
            let shared = $shared;
            let (pipeline, source) = (shared.shown.stage, shared.shown.source.as_deref());
            let fields = $crate::log_fields::MessageFields::of(
                shared.service,
                pipeline,
                source,
                $event,
            );
            $crate::log_fields::log_fields!($level, fields, $($rest)+);
        }
    };
}

/// Logs a line with these fields.
macro_rules! log_fields {
    ($level:ident, $fields:expr, $($rest:tt)+) => {{
        let fields = $fields;
        tracing::event!(
            tracing::Level::$level,
            service = fields.service,
            pipeline = fields.pipeline,
            subscription = fields.subscription,
            topic = fields.topic,
            message_id = fields.message_id,
            ingest_id = fields.ingest_id.as_deref(),
            trace = fields.trace.map(|trace| trace.trace_id),
            span_id = fields.trace.map(|trace| trace.span_id),
            trace_sampled = fields.trace.map(|trace| trace.is_sampled),
            $($rest)+
        );
    }};
}

pub(crate) use {log_fields, log_message};
