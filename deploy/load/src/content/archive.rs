//! Messages of an archive that icestore wrote, in the order of their event times.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use icestore::format::Format;
use icestore::tools::replay::line::ArchivedLine;
use icestore::tools::replay::lines;
use message::attribute::{DEVICE_ID, HTTP_SOURCE};
use message::envelope::Input;
use message::{Envelope, Message as PubsubMessage, Payload};
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use storage::{Bucket, BucketName, Endpoint, ObjectStore as _};
use time::OffsetDateTime;

use super::AddressKind;
use crate::args::Amount;

/// Most bytes of payloads that are held.
const MAX_BYTES: usize = 1 << 30;

/// Messages of an archive, by device.
#[derive(Debug)]
pub(crate) struct Archive {
    /// Number of all messages.
    pub count: u64,
    /// Time from the first event to the last.
    pub span: Duration,
    /// Messages of each device, in order.
    pub devices: Vec<Vec<Archived>>,
}

/// Message of an archive.
#[derive(Debug, Clone)]
pub(crate) struct Archived {
    /// Number over all devices.
    pub number: u64,
    /// Time from the first event to this one.
    pub after: Duration,
    /// Topic over MQTT, or source over HTTP.
    pub address: String,
    /// Payload of the device.
    pub payload: Bytes,
    /// Properties of MQTT 5.
    pub properties: PublishProperties,
    /// Event time, if one was written.
    pub time: Option<OffsetDateTime>,
}

/// Messages that were read, with the bytes of their payloads.
#[derive(Debug, Default)]
struct Found {
    all: Vec<Archived>,
    bytes: usize,
    objects: usize,
}

/// Reads all objects of a folder, or of `gs://BUCKET/PREFIX`. The messages of a topic are those of one
/// device, so they keep their order.
///
/// # Errors
/// Fails for an object that cannot be read, a message without an address, and an archive that is too
/// large.
pub(crate) async fn read(
    from: &str,
    amount: &Amount,
    kind: AddressKind,
) -> anyhow::Result<Archive> {
    let mut found = Found::default();
    match from.strip_prefix("gs://") {
        Some(place) => found.read_bucket(place, kind).await?,
        None => found.read_folder(Path::new(from), kind)?,
    }
    if found.objects == 0 {
        bail!("--archive {from} has no objects of the archive, such as NAME.jsonl.gz");
    }
    Ok(sort(found.all, amount))
}

/// Sorts messages by time, and gives each its device.
fn sort(mut all: Vec<Archived>, amount: &Amount) -> Archive {
    // A message without a time follows its neighbour.
    let mut last = None;
    for one in &mut all {
        last = one.time.or(last);
        one.time = last;
    }
    all.sort_by_key(|one| one.time);
    let limit = amount.messages.and_then(|limit| usize::try_from(limit).ok());
    all.truncate(limit.unwrap_or(usize::MAX));
    let first = all.iter().find_map(|one| one.time);
    let mut devices = vec![Vec::new(); amount.devices as usize];
    let (mut count, mut span) = (0, Duration::ZERO);
    for one in all {
        let after = one.time.zip(first).map(|(time, first)| time - first);
        let after = after.and_then(|after| after.try_into().ok()).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        one.address.hash(&mut hasher);
        let device = usize::try_from(hasher.finish() % devices.len() as u64).unwrap_or(0);
        devices[device].push(Archived { number: count, after, ..one });
        count += 1;
        span = after;
    }
    Archive { count, span, devices }
}

impl Found {
    fn read_folder(&mut self, folder: &Path, kind: AddressKind) -> anyhow::Result<()> {
        let mut folders = VecDeque::from([folder.to_owned()]);
        while let Some(folder) = folders.pop_front() {
            let shown = folder.display().to_string();
            let entries = std::fs::read_dir(&folder).with_context(|| format!("read {shown}"))?;
            let mut paths = entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<Vec<PathBuf>, _>>()
                .with_context(|| format!("read {shown}"))?;
            paths.sort();
            for path in paths {
                let name = path.display().to_string();
                if path.is_dir() {
                    folders.push_back(path);
                } else if let Some(format) = Format::of(&name) {
                    let object = std::fs::read(&path).with_context(|| format!("read {name}"))?;
                    self.add(&name, format, object.into(), kind)?;
                }
            }
        }
        Ok(())
    }

    async fn read_bucket(&mut self, place: &str, kind: AddressKind) -> anyhow::Result<()> {
        let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
        let name: BucketName =
            name.parse().map_err(|wrong| anyhow::anyhow!("--archive: the bucket {wrong}"))?;
        let host = std::env::var(Endpoint::VARIABLE.name).ok();
        let endpoint = host.map(|host| match host.contains("://") {
            true => host.as_str().into(),
            false => format!("http://{host}").as_str().into(),
        });
        let bucket = Bucket::new(&name, &Endpoint { endpoint, credentials: None }).await?;
        let mut page = None;
        loop {
            let (names, next) = bucket.list(prefix, page.as_deref()).await?;
            for name in names {
                if let Some(format) = Format::of(&name) {
                    self.add(&name, format, bucket.read(&name).await?, kind)?;
                }
            }
            page = next;
            if page.is_none() {
                return Ok(());
            }
        }
    }

    /// Adds the messages of an object.
    fn add(
        &mut self,
        name: &str,
        format: Format,
        object: Bytes,
        kind: AddressKind,
    ) -> anyhow::Result<()> {
        self.objects += 1;
        for line in lines::all(format, object).with_context(|| name.to_owned())? {
            let one =
                line.and_then(|line| archived(&line, kind)).with_context(|| name.to_owned())?;
            self.bytes += one.payload.len();
            if self.bytes > MAX_BYTES {
                bail!(
                    "--archive has more than {MAX_BYTES} bytes of payloads: name a folder below it"
                );
            }
            self.all.push(one);
        }
        Ok(())
    }
}

/// Returns the message of a line, as the device sent it.
fn archived(line: &ArchivedLine, kind: AddressKind) -> anyhow::Result<Archived> {
    let (address, payload, properties) = match kind {
        AddressKind::Topic => {
            let publication = line.for_mqtt()?;
            (publication.topic, publication.payload, publication.properties)
        }
        AddressKind::Source => {
            let names = [HTTP_SOURCE, DEVICE_ID];
            let source = names.iter().find_map(|name| line.attributes.get(*name));
            let source = source.context("a message has neither http_source nor device_id")?;
            let envelope = Envelope::of(&PubsubMessage::new(line.data()), Input::Auto)?;
            let payload = envelope.payload.as_ref().map(Payload::bytes).unwrap_or_default();
            (source.clone(), payload, PublishProperties::default())
        }
    };
    let (number, after) = (0, Duration::ZERO);
    Ok(Archived { number, after, address, payload, properties, time: line.time() })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn one(address: &str, time: Option<OffsetDateTime>) -> Archived {
        let (payload, properties) = (Bytes::new(), PublishProperties::default());
        let (number, after) = (0, Duration::ZERO);
        Archived { number, after, address: address.into(), payload, properties, time }
    }

    fn amount(devices: u32, messages: Option<u64>) -> Amount {
        Amount { devices, messages, duration: None, rate: None, device_rate: None }
    }

    #[test]
    fn messages_are_sent_in_the_order_of_their_times() {
        let (early, late) = (datetime!(2026-11-30 10:00 UTC), datetime!(2026-11-30 10:05 UTC));
        let all = [one("b", Some(late)), one("follows b", None), one("a", Some(early))];

        let archive = sort(all.to_vec(), &amount(1, None));

        let order = archive.devices[0].iter().map(|one| (&*one.address, one.after.as_secs()));
        assert_eq!(order.collect::<Vec<_>>(), [("a", 0), ("b", 300), ("follows b", 300)]);
        assert_eq!((archive.count, archive.span.as_secs()), (3, 300));
    }

    #[test]
    fn a_topic_belongs_to_one_device_and_a_limit_keeps_the_earliest() {
        let at = |second| Some(datetime!(2026-11-30 10:00 UTC) + Duration::from_secs(second));
        let all: Vec<_> = (0..100).map(|n| one(&format!("t{}", n % 10), at(100 - n))).collect();

        let archive = sort(all, &amount(4, Some(50)));

        assert_eq!(archive.count, 50);
        assert_eq!(archive.span.as_secs(), 49);
        for address in (0..10).map(|n| format!("t{n}")) {
            let holds = |device: &&Vec<Archived>| device.iter().any(|one| one.address == address);
            assert_eq!(archive.devices.iter().filter(holds).count(), 1);
        }
    }
}
