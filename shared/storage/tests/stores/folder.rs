//! Tests of a folder as a store.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use pipeline::Recovery;
use service::create::{Created, NotCreated};
use service::tools::preflight::State;
use storage::{Folder, ObjectStore as _, Outage};
use tokio::task::JoinSet;

use super::object;

/// Returns the names of all files below a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(files(&path));
        } else {
            names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_writers_of_a_name_creates_the_whole_file() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::new(root.path());
    let contents: BTreeSet<_> = (0..16).map(|at| format!("{at:04}").repeat(50_000)).collect();

    let mut writers = JoinSet::new();
    for content in contents.clone() {
        let folder = folder.clone();
        writers.spawn(async move { folder.create(&object("2025/06/15/name", &content)).await });
    }
    let created = writers.join_all().await;

    assert_eq!(created.iter().filter(|created| created.is_ok()).count(), 1, "{created:?}");
    let content = fs::read_to_string(root.path().join("2025/06/15/name")).unwrap();
    assert!(contents.contains(&content));
    assert_eq!(files(root.path()), ["name"], "no draft stays");
}

#[tokio::test]
async fn a_folder_that_is_away_is_an_outage_and_is_not_made() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("mount");
    let folder = Folder::new(&root);

    let created = folder.create(&object("a/b", "content")).await.unwrap_err();

    assert_eq!(created.recovery(), Recovery::Retry);
    assert!(
        matches!(folder.find().await, Err(Outage::Missing(why)) if why.contains("mount does not exist"))
    );
    let state = folder.dependency().await.state;
    assert!(matches!(state, State::Missing(_)), "{state:?}");
    assert!(!root.exists());
    assert_eq!(folder.ensure("p").await.unwrap(), Created::Now);
    folder.create(&object("a/b", "content")).await.unwrap();
    assert_eq!(folder.ensure("p").await.unwrap(), Created::Before);
    assert_eq!(folder.dependency().await.state, State::Ready);
}

#[tokio::test]
async fn a_folder_in_the_place_of_the_first_one_gets_no_files() {
    let parent = tempfile::tempdir().unwrap();
    let (root, away) = (parent.path().join("mount"), parent.path().join("away"));
    fs::create_dir(&root).unwrap();
    let folder = Folder::new(&root);
    assert_eq!(folder.find().await, Ok(()));
    folder.create(&object("2025/06/15/a", "a")).await.unwrap();

    fs::rename(&root, &away).unwrap();
    fs::create_dir(&root).unwrap();
    // If the first attempt forgot its folders, the next one would make them again.
    for _ in 0..3 {
        let refused = folder.create(&object("2025/06/15/b", "b")).await.unwrap_err();
        assert_eq!(refused.recovery(), Recovery::Retry);
        assert!(format!("{refused:#}").contains("is another one"), "{refused:#}");
    }
    let found = folder.find().await;
    let state = folder.dependency().await.state;
    let made = fs::read_dir(&root).unwrap().count();
    fs::remove_dir_all(&root).unwrap();
    fs::rename(&away, &root).unwrap();

    assert!(
        matches!(&found, Err(Outage::Missing(why)) if why.contains("is another one")),
        "{found:?}"
    );
    assert!(matches!(state, State::Missing(_)), "{state:?}");
    assert_eq!(made, 0);
    assert_eq!(folder.find().await, Ok(()));
    folder.create(&object("2025/06/15/b", "b")).await.unwrap();
    assert_eq!(folder.read("2025/06/15/b").await.unwrap(), "b");
}

#[tokio::test]
async fn a_folder_that_is_mounted_before_the_first_check_is_taken() {
    let parent = tempfile::tempdir().unwrap();
    let (root, away) = (parent.path().join("mount"), parent.path().join("away"));
    fs::create_dir(&root).unwrap();
    let folder = Folder::new(&root);
    folder.create(&object("2025/06/15/a", "a")).await.unwrap();

    fs::rename(&root, &away).unwrap();
    fs::create_dir(&root).unwrap();
    let gone = folder.find().await;
    let found = folder.find().await;
    folder.create(&object("2025/06/15/b", "b")).await.unwrap();

    assert!(matches!(gone, Err(Outage::Unreachable(_))), "the folder of drafts: {gone:?}");
    assert_eq!(found, Ok(()));
    assert!(root.join("2025/06/15/b").is_file());
}

#[tokio::test]
async fn a_day_on_another_disk_is_listed_and_read_through_its_link() {
    let (root, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = Folder::new(root.path());
    folder.create(&object("2025/06/14/a", "a")).await.unwrap();
    folder.create(&object("2025/06/15/b", "b")).await.unwrap();
    let day = root.path().join("2025/06/14");

    fs::create_dir(disk.path().join("14")).unwrap();
    fs::copy(day.join("a"), disk.path().join("14/a")).unwrap();
    fs::remove_dir_all(&day).unwrap();
    symlink(disk.path().join("14"), &day).unwrap();
    let (names, next) = folder.list("", None).await.unwrap();

    assert_eq!(names, ["2025/06/14/a", "2025/06/15/b"]);
    assert_eq!(next, None);
    assert_eq!(folder.read("2025/06/14/a").await.unwrap(), "a");
}

#[tokio::test]
async fn an_object_with_the_name_of_the_drafts_is_beside_them() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::new(root.path());
    let named = object(&format!("{}/hall/a", Folder::DRAFTS), "content");

    folder.create(&named).await.unwrap();
    folder.create(&named).await.unwrap();
    let (names, _) = folder.list("", None).await.unwrap();

    assert_eq!(fs::read_dir(root.path().join(Folder::DRAFTS)).unwrap().count(), 0);
    assert_eq!(folder.read(&named.name).await.unwrap(), "content");
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(folder.read(&names[0]).await.unwrap(), "content");
}

#[tokio::test]
async fn a_file_in_the_place_of_the_folder_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("file");
    fs::write(&root, "").unwrap();
    let folder = Folder::new(&root);

    assert!(
        matches!(folder.find().await, Err(Outage::Missing(why)) if why.ends_with("is not a folder"))
    );
    assert!(matches!(folder.ensure("p").await, Err(NotCreated::Ever(_))));
}

#[tokio::test]
async fn a_day_that_somebody_removes_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::new(root.path());
    folder.create(&object("2025/06/15/a", "a")).await.unwrap();

    fs::remove_dir_all(root.path().join("2025")).unwrap();
    let first = folder.create(&object("2025/06/15/b", "b")).await;
    folder.create(&object("2025/06/15/b", "b")).await.unwrap();

    assert_eq!(first.unwrap_err().recovery(), Recovery::Retry);
    assert_eq!(folder.read("2025/06/15/b").await.unwrap(), "b");
}

#[tokio::test]
async fn names_that_leave_the_folder_touch_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("root");
    fs::create_dir(&root).unwrap();
    let folder = Folder::new(&root);

    for name in ["../out", "/out", ".drafts/../out"] {
        assert!(folder.create(&object(name, "content")).await.is_err(), "{name}");
        assert!(folder.read(name).await.is_err(), "{name}");
    }

    assert!(files(parent.path()).is_empty());
}

#[tokio::test]
async fn a_full_disk_is_an_outage_without_half_a_file() {
    let root = tempfile::tempdir().unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=1m", "dataflow-test"];
    let mounted = Command::new("mount").args(mount).arg(root.path()).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        // Writes to stderr directly, because the test runner captures printed output.
        std::io::stderr().write_all(b"SKIPPED: no right to mount a disk\n").unwrap();
        return;
    }
    let folder = Folder::new(root.path());
    let large = object("2025/06/15/large", &"x".repeat(700_000));
    fs::write(root.path().join("other"), "x".repeat(600_000)).unwrap();

    let refused = folder.create(&large).await.unwrap_err();
    let during = files(root.path());
    fs::remove_file(root.path().join("other")).unwrap();
    folder.create(&large).await.unwrap();
    let content = folder.read("2025/06/15/large").await.unwrap();
    Command::new("umount").arg("--lazy").arg(root.path()).status().unwrap();

    assert_eq!(refused.recovery(), Recovery::Retry);
    assert!(format!("{refused:#}").contains("No space left"), "{refused:#}");
    assert_eq!(during, ["other"], "no part of the object is left");
    assert_eq!(content, large.content);
}
