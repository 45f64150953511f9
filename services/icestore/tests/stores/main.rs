//! Tests of the whole process with each store: what it archives, it reads again.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod create;
mod env;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "s3")]
#[expect(dead_code, reason = "the tests of the crate storage use the rest")]
#[path = "../../../../shared/storage/tests/stores/s3_double.rs"]
mod s3_double;

use std::fs;
use std::path::Path;

use env::{PAYLOADS, TestEnv, lines};

/// Returns the paths of all files below a folder, except for drafts.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with(".drafts") {
            found.extend(files(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_has_the_archive_and_replay_reads_it() {
    let env = TestEnv::new().await;
    env.create_resources().await;
    let folder = env.folder.path().join("archive");
    fs::create_dir(&folder).unwrap();
    let place = [("DATAFLOW__STORAGE__FOLDER", folder.to_str().unwrap().to_owned())];

    let service = env.start(&place);
    env.publish().await;
    let archived = env
        .until(&service, || {
            let contents = files(&folder).into_iter().map(|path| fs::read(path).unwrap());
            let archived: Vec<_> = contents.flat_map(|content| lines(&content)).collect();
            (archived.len() == PAYLOADS.len()).then_some(archived)
        })
        .await;
    service.stop();

    assert_eq!(archived, PAYLOADS);
    assert!(files(&folder)[0].starts_with(folder.join("archive")));
    let counted = env.tool(&["replay", "--dry-run"], &place);
    assert!(counted.contains("messages that would be sent: 3"), "{counted}");
    let sent = env.tool(&["replay", "--to-topic", "letters"], &place);
    assert!(sent.contains("messages sent: 3"), "{sent}");
    let explained = env.tool_with(&["explain"], &place, b"x");
    assert!(explained.contains(folder.to_str().unwrap()), "{explained}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_appears_later_is_waited_for() {
    let env = TestEnv::new().await;
    env.create_resources().await;
    let folder = env.folder.path().join("mount");
    let place = [("DATAFLOW__STORAGE__FOLDER", folder.to_str().unwrap().to_owned())];

    let service = env.start(&place);
    env.publish().await;
    env.until(&service, || service.log().contains("mount does not exist").then_some(())).await;
    let was_made = folder.exists();
    fs::create_dir(&folder).unwrap();
    env.until(&service, || (!files(&folder).is_empty()).then_some(())).await;
    service.stop();

    assert!(!was_made, "a disk that is not mounted is not replaced by a folder");
}

#[test]
fn the_settings_name_one_store() {
    let said = |variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_icestore"));
        command.arg("check").env_clear().envs(variables.iter().copied());
        let required = [
            ("DATAFLOW__PROJECT", "p"),
            ("DATAFLOW__SUBSCRIPTION__ID", "archive"),
            ("DATAFLOW__DEAD_LETTERS", "drop"),
        ];
        let checked = command.envs(required).output().unwrap();
        (checked.status.code(), String::from_utf8(checked.stderr).unwrap())
    };
    let (bucket, folder) =
        (("DATAFLOW__STORAGE__BUCKET", "b"), ("DATAFLOW__STORAGE__FOLDER", "/f"));
    let s3 = ("DATAFLOW__STORAGE__S3__BUCKET", "b");
    let drafts = ("DATAFLOW__ARCHIVE__PREFIX", ".drafts/a");

    assert_eq!(said(&[bucket]).0, Some(0));
    assert_eq!(said(&[folder]).0, Some(0));
    assert_eq!(said(&[bucket, drafts]).0, Some(0));
    for (variables, fault) in [
        (&[][..], "storage.bucket: required; or set storage.folder or storage.s3"),
        (
            &[bucket, folder],
            "storage: must have one of bucket, folder and s3, has bucket and folder",
        ),
        (&[("DATAFLOW__STORAGE__FOLDER", "f")], "storage.folder: must be an absolute path, is `f`"),
        (&[folder, s3], "storage: must have one of bucket, folder and s3, has folder and s3"),
        (
            &[folder, drafts],
            "archive.prefix: must not begin with .drafts, which storage.folder uses",
        ),
    ] {
        let (code, text) = said(variables);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.lines().any(|line| line.starts_with(fault)), "{fault} is not in: {text}");
    }
    let (code, text) = said(&[s3]);
    if cfg!(feature = "s3") {
        assert_eq!(code, Some(0), "{text}");
    } else {
        assert!(text.contains("storage.s3: this binary cannot use S3: build it with"), "{text}");
    }
}
