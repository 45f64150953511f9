//! Test of the memory that closing a Parquet file takes. It has its own test binary, because it
//! measures the whole process.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use bytes::Bytes;
use icestore::archive::Line;
use icestore::config::Settings;
use icestore::format::Format;
use icestore::sink::Sink;
use message::Message;
use pipeline::{Sink as _, Step, Transform as _};
use storage::{Bucket, Endpoint};

/// Returns the peak memory of this process, in KiB.
fn peak_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Returns bytes that do not compress.
fn noise(bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..bytes.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(bytes).collect::<Vec<_>>().into()
}

async fn line(data: Bytes) -> Line {
    let archive = icestore::archive::Archive::new(
        icestore::key::Template::default(),
        message::envelope::Input::Raw,
    );
    match archive.apply(&Message::new(data)).await.unwrap() {
        Step::Pass(line) => line,
        Step::Skip(why) => panic!("skipped: {why}"),
    }
}

#[tokio::test]
async fn closing_takes_no_more_than_the_settings_say() {
    service::install_crypto();
    let mut settings = Settings::default();
    settings.archive.format = Format::Parquet;
    settings.archive.compression_level = 9;
    let shares = service::Settings::memory(&settings);
    let share = shares.iter().find(|share| share.setting == "archive.format").unwrap();
    let endpoint = Endpoint { endpoint: Some("http://127.0.0.1:1".into()), ..Endpoint::default() };
    let bucket = Bucket::new(&"bucket".parse().unwrap(), &endpoint).await.unwrap();
    let sink = Sink::new(bucket, &settings.archive);
    let mut state = sink.lane_state();

    let mut noise = noise(30_000_000);

    // Messages of a usual size, then messages of the largest size that Pub/Sub accepts.
    for data_bytes in [500, 10_000_000] {
        let mut group = sink.open(&"2025/06/15".to_owned());
        let mut bytes = 0;
        while bytes < settings.pipeline.batch.max_bytes {
            let line = line(noise.split_to(data_bytes)).await;
            bytes = sink.push(&mut group, line, &mut state).unwrap();
        }
        let before = peak_kib();

        let _upload = sink.encode(group, &mut state);

        let taken = (peak_kib() - before) as u64 * 1024;
        println!("messages of {data_bytes} bytes: {} KiB", taken / 1024);
        assert!(taken <= share.bytes, "{taken} of {} for {data_bytes}", share.bytes);
    }
}
