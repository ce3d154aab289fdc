//! The home of recordings: names, `latest`, and finding what the user means.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use scribe_log::store::LATEST;
use scribe_log::{Store, StoreError};
use tempfile::tempdir;

fn env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
    move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
}

fn store(home: &Path) -> Store {
    Store::locate(Some(home), |_| None).unwrap()
}

#[test]
fn the_home_is_the_first_that_is_named() {
    let both = [("SCRIBE_VMM_HOME", "/recordings"), ("HOME", "/home/user")];
    let located = |explicit: Option<&Path>, pairs: &[(&str, &str)]| {
        Store::locate(explicit, env(pairs)).map(|store| store.home().to_owned())
    };
    assert_eq!(located(Some(Path::new("/given")), &both).unwrap(), Path::new("/given"));
    assert_eq!(located(None, &both).unwrap(), Path::new("/recordings"));
    let empty = [("SCRIBE_VMM_HOME", ""), ("HOME", "/home/user")];
    assert_eq!(located(None, &empty).unwrap(), Path::new("/home/user/.local/share/scribe-vmm"));
    assert!(matches!(located(None, &[]).unwrap_err(), StoreError::NoHome));
}

#[test]
fn names_are_numbered_by_image() {
    let home = tempdir().unwrap();
    let home = home.path().join("made/on/demand");
    let store = store(&home);
    let mut names = Vec::new();
    for image in ["images/demo.img", "demo.img", "debian.img", "/"] {
        names.push(store.reserve(Path::new(image)).unwrap());
    }
    assert_eq!(names, ["demo-1", "demo-2", "debian-1", "recording-1"].map(|name| home.join(name)));
    for name in ["demo-9", "demo-x", "demo-", "demo-3.old", "demo-99999999999999999999"] {
        fs::create_dir(home.join(name)).unwrap();
    }
    fs::remove_dir(home.join("demo-1")).unwrap();
    assert_eq!(store.reserve(Path::new("demo.img")).unwrap(), home.join("demo-10"));
}

#[test]
fn callers_at_once_get_different_names() {
    let home = tempdir().unwrap();
    let reserve =
        || (0..20).map(|_| store(home.path()).reserve(Path::new("demo.img")).unwrap()).collect::<Vec<_>>();
    let mut names: Vec<PathBuf> = std::thread::scope(|scope| {
        let threads = [scope.spawn(reserve), scope.spawn(reserve), scope.spawn(reserve)];
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 60);
}

#[test]
fn latest_follows_the_newest() {
    let home = tempdir().unwrap();
    let store = store(home.path());
    assert!(matches!(store.resolve(None).unwrap_err(), StoreError::NoLatest { .. }));
    let first = store.reserve(Path::new("demo.img")).unwrap();
    store.set_latest(&first).unwrap();
    assert_eq!(fs::read_link(home.path().join(LATEST)).unwrap(), Path::new("demo-1"));
    assert_eq!(store.resolve(None).unwrap(), first);

    let elsewhere = tempdir().unwrap();
    // The rest of a killed process is no obstacle.
    fs::write(home.path().join(format!(".latest-{}", std::process::id())), "").unwrap();
    store.set_latest(elsewhere.path()).unwrap();
    assert_eq!(store.resolve(None).unwrap(), elsewhere.path());
    assert_eq!(store.resolve(Some(Path::new(LATEST))).unwrap(), home.path().join(LATEST));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
    elsewhere.close().unwrap();
    assert!(matches!(store.resolve(None).unwrap_err(), StoreError::LatestGone { .. }));

    let own = tempdir().unwrap();
    fs::create_dir(own.path().join(LATEST)).unwrap();
    let error = Store::locate(Some(own.path()), |_| None).unwrap().set_latest(&first).unwrap_err();
    assert!(matches!(error, StoreError::Io { action: "replace", .. }), "{error}");
    assert_eq!(fs::read_dir(own.path()).unwrap().count(), 1);
}

#[test]
fn a_recording_is_found_by_path_or_by_name() {
    let home = tempdir().unwrap();
    let store = store(home.path());
    let made = store.reserve(Path::new("demo.img")).unwrap();
    assert_eq!(store.resolve(Some(&made)).unwrap(), made);
    assert_eq!(store.resolve(Some(Path::new("demo-1"))).unwrap(), made);
    // This test runs in the package's directory: a directory here goes before one in the home.
    fs::create_dir(home.path().join("tests")).unwrap();
    assert_eq!(store.resolve(Some(Path::new("tests"))).unwrap(), Path::new("tests"));
    // A file is found, so that opening it can say what it is.
    assert_eq!(store.resolve(Some(Path::new("Cargo.toml"))).unwrap(), Path::new("Cargo.toml"));
    for name in ["demo-2", "./demo-1", "../demo-1", "x/demo-1"] {
        let error = store.resolve(Some(Path::new(name))).unwrap_err();
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    }
}
