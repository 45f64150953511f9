//! Hops of the messages of one pipeline.

use time::OffsetDateTime;

use super::dead_letters::{MAX_PAYLOAD_BYTES, RecentDeadLetter};
use super::{Hop, HopStep, Hops, Ids, RecordText, WaitingBytes};
use crate::log_fields::{MessageFields, log_fields};
use crate::{DeadLetter, Event, panics};

/// Identity of a message that somebody may watch. It stays when the message itself is gone.
#[derive(Debug)]
pub(crate) struct Owner {
    ingest_id: String,
    device_id: String,
    message_id: String,
    source: String,
    /// Memory of an identity that its message keeps.
    kept: Option<WaitingBytes>,
}

impl Owner {
    /// Returns the identity of a message with these ids. `source` is the name of the source, if it
    /// has one.
    fn of(event: &impl Event, ids: &Ids<'_>, source: Option<&str>) -> Self {
        Self {
            ingest_id: ids.ingest_id.clone().into_owned(),
            device_id: ids.device_id.clone().into_owned(),
            message_id: event.id().to_owned(),
            source: source.unwrap_or_else(|| event.origin()).to_owned(),
            kept: None,
        }
    }

    /// Bytes of memory, about.
    fn size(&self) -> usize {
        let texts = [&self.ingest_id, &self.device_id, &self.message_id, &self.source];
        size_of::<Self>() + texts.into_iter().map(String::capacity).sum::<usize>()
    }

    fn ids(&self) -> Ids<'_> {
        Ids { ingest_id: (&*self.ingest_id).into(), device_id: (&*self.device_id).into() }
    }
}

/// Parts of a hop beside the identity of its message.
#[derive(Debug, Default)]
pub(crate) struct Told<'a> {
    pub destination: Option<&'a str>,
    pub reason: Option<&'static str>,
    pub detail: Option<&'a str>,
    pub record: Option<RecordText>,
    /// Time of the step, if it is not now.
    pub at: Option<OffsetDateTime>,
}

/// Hops of one pipeline.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub hops: Hops,
    /// Name of the pipeline.
    pub stage: &'static str,
    /// Name of its source, if it has one.
    pub source: Option<String>,
}

impl Shown {
    /// Returns true while somebody watches.
    pub(crate) fn is_watched(&self) -> bool {
        self.hops.is_watched()
    }

    /// Returns the identity of a message if some viewer may want to see it.
    ///
    /// A stage describes its messages itself. If that panics, the message is not shown.
    pub(crate) fn owner<'a, E: Event>(
        &self,
        event: &'a E,
        ids: impl FnOnce() -> Ids<'a>,
    ) -> Option<Box<Owner>> {
        let describe = || {
            let ids = ids();
            let is_wanted = self.hops.may_take(&ids);
            is_wanted.then(|| Box::new(Owner::of(event, &ids, self.source.as_deref())))
        };
        panics::catch("describe message", describe).ok().flatten()
    }

    /// Returns the identity if its message has to keep it for later steps.
    pub(crate) fn kept(&self, mut owner: Box<Owner>) -> Option<Box<Owner>> {
        owner.kept = Some(self.hops.reserve(&owner.ids(), owner.size())?);
        Some(owner)
    }

    /// Returns true if the message gets its ids by the transform.
    pub(crate) fn is_new(&self, event: &impl Event) -> bool {
        let is_new = panics::catch("describe message", || event.lacks_ids());
        is_new.unwrap_or_default()
    }

    /// Tells the viewers a step of a message. `told` is called if one of them wants it.
    pub(crate) fn tell<'a>(&self, owner: &Owner, step: HopStep, told: impl FnOnce() -> Told<'a>) {
        self.hops.send(&owner.ids(), step, || {
            let told = panics::catch("describe record", told).unwrap_or_default();
            Hop {
                stage: self.stage,
                step,
                at: told.at.unwrap_or_else(OffsetDateTime::now_utc),
                ingest_id: owner.ingest_id.clone(),
                device_id: owner.device_id.clone(),
                message_id: owner.message_id.clone(),
                source: owner.source.clone(),
                destination: told.destination.map(str::to_owned),
                reason: told.reason,
                detail: told.detail.map(str::to_owned),
                record: told.record,
                room: WaitingBytes::default(),
            }
        });
    }

    /// Keeps a dead letter, and tells the viewers. A panic of the message's own code must not change
    /// what becomes of the message, which is durable in the dead letters.
    pub(crate) fn dead_lettered<'a, E: Event>(
        &self,
        dead_letter: &DeadLetter<'a, E>,
        ids: impl FnOnce() -> Ids<'a>,
    ) {
        let shown = panics::catch("show dead letter", || self.show_dead_letter(dead_letter, ids));
        if let Err(error) = shown {
            let (service, message) = (dead_letter.service, Some(dead_letter.message));
            let source = self.source.as_deref();
            let fields = MessageFields::of(service, self.stage, source, message);
            let error = format!("{error:#}");
            log_fields!(WARN, fields, error, "viewers do not see a dead letter");
        }
    }

    fn show_dead_letter<'a, E: Event>(
        &self,
        dead_letter: &DeadLetter<'a, E>,
        ids: impl FnOnce() -> Ids<'a>,
    ) {
        let DeadLetter { reason, ref detail, message: event, .. } = *dead_letter;
        let ids = panics::catch("describe message", ids).unwrap_or_default();
        if self.is_watched() {
            let owner = Owner::of(event, &ids, self.source.as_deref());
            let (reason, detail) = (Some(reason.as_str()), Some(&**detail));
            self.tell(&owner, HopStep::DeadLettered, || Told {
                reason,
                detail,
                record: event.show(super::MAX_RECORD_BYTES),
                ..Told::default()
            });
        }
        let record = panics::catch("describe message", || event.show(MAX_PAYLOAD_BYTES));
        self.hops.keep(RecentDeadLetter {
            stage: self.stage,
            reason: reason.as_str(),
            why: reason.about(),
            detail: detail.clone(),
            at: OffsetDateTime::now_utc(),
            ingest_id: ids.ingest_id.into_owned(),
            device_id: ids.device_id.into_owned(),
            message_id: event.id().to_owned(),
            record: record.unwrap_or_default(),
        });
    }
}
