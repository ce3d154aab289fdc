//! Ring-0 behaviour ([`scribe_tests::ring0`]): the same on the processor in software and on the lab's `kvm_amd`, but for
//! the differences that are listed here.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::io::Write;

use scribe_soft_cpu::Behaviour;
use scribe_tests::lab::in_checkout;
use scribe_tests::ring0::{DEADLY, On, cases, is_deadly, run};

/// What begins the reason of a record that differs (ring0-lab.txt).
const BECAUSE: &str = "because: ";

/// Cases by name, as the file has them or as they have just come out.
type Records = BTreeMap<String, String>;

fn golden(file: &str) -> Records {
    let text = std::fs::read_to_string(in_checkout("tests/golden").join(file)).unwrap_or_default();
    let mut records = Records::new();
    for record in text.split("\n[").map(|record| record.trim_start_matches('[')) {
        if let Some((name, body)) = record.split_once("]\n") {
            let body = if body.starts_with(BECAUSE) { body.split_once('\n').unwrap().1 } else { body };
            records.insert(name.to_owned(), body.trim_end().to_owned());
        }
    }
    records
}

/// Runs every case, and leaves the records in a file under target/lab/out for whom it may concern.
fn all(on: On, file: &str) -> Records {
    let mut text = String::new();
    let mut records = Records::new();
    let trace = std::env::var_os("SCRIBE_RING0_TRACE").is_some();
    let only = std::env::var("SCRIBE_RING0_ONLY").unwrap_or_default();
    for case in cases() {
        if on == On::Kvm && is_deadly(&case.name) || !case.name.contains(&only) {
            continue;
        }
        if trace {
            say(&case.name); // the last one before the lab dies
        }
        let record = run(&case, on);
        let body = record.split_once("]\n").unwrap().1.trim_end().to_owned();
        text.push_str(&record);
        records.insert(case.name, body);
    }
    let folder = in_checkout("target/lab/out");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(file), text).unwrap();
    records
}

/// Fails with what differs from `expected`.
fn same(records: &Records, expected: &Records) {
    let mut report = String::new();
    let mut count = 0;
    for name in records.keys().chain(expected.keys().filter(|name| !records.contains_key(*name))) {
        let (got, wanted) = (records.get(name), expected.get(name));
        if got != wanted {
            count += 1;
            let none = String::from("(no such case)");
            let (got, wanted) = (got.unwrap_or(&none), wanted.unwrap_or(&none));
            report += &format!("[{name}]\n--- expected\n{wanted}\n--- got\n{got}\n\n");
        }
    }
    assert!(count == 0, "{count} of {} cases differ:\n{report}", records.len());
}

fn in_lab() -> bool {
    std::env::var_os("SCRIBE_LAB").is_some()
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[test]
fn the_soft_processor_as_tcg_does_what_the_file_says() {
    same(&all(On::Soft(Behaviour::Tcg), "ring0-tcg.txt"), &golden("ring0.txt"));
}

#[test]
fn the_soft_processor_as_zen_does_what_its_file_says() {
    let mut expected = golden("ring0.txt");
    expected.extend(golden("ring0-zen.txt"));
    same(&all(On::Soft(Behaviour::Zen), "ring0-zen.txt"), &expected);
}

#[test]
fn the_labs_kvm_does_what_the_file_says() {
    if !in_lab() {
        say("SKIPPED (not in the lab): the_labs_kvm_does_what_the_file_says");
        return;
    }
    let records = all(On::Kvm, "ring0-kvm.txt");
    let mut expected = golden("ring0.txt");
    let differences = golden("ring0-lab.txt");
    for (name, record) in &differences {
        assert_ne!(expected.get(name), Some(record), "{name} does not differ any more");
    }
    expected.extend(differences.clone());
    for (name, _) in DEADLY {
        assert!(expected.remove(name).is_some(), "no case is called {name}");
    }
    same(&records, &expected);
    say(&format!(
        "figure: ring-0 cases: {}, identical on soft and kvm_amd{}",
        records.len() - differences.len(),
        if differences.is_empty() {
            String::new()
        } else {
            format!(" (and {} that differ as listed)", differences.len())
        },
    ));
}
