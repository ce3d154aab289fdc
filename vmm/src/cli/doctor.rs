//! `scribe-vmm doctor`: can this host's KVM run Linux deterministically, and if not, why and what to do.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::engine::pmu::{self, Counter, Verdict};
use crate::engine::probe::{self, Check, HostFacts, Report, Scope, Status};

/// Exit code for a host that cannot run the kvm engine.
const HOST_UNSUITABLE: u8 = 5;
/// Widest line of the text form.
const COLUMNS: usize = 100;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For scripts: one JSON object.
    Json,
}

/// Check whether this host's KVM can run Linux guests deterministically
///
/// Tiny guests find out what this KVM really does. Each check says what was found and, if it is not as it should be,
/// why it matters and what to do. The exit code is 0 if Linux guests can be recorded and replayed here, 5 if not.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  scribe-vmm doctor\n  scribe-vmm doctor --format json | jq .verdict\n  \
                  scribe-vmm doctor --pmu\n  scribe-vmm doctor --selftest")]
pub struct DoctorArgs {
    /// How to print the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Instead examine the processor's branch counter, which gives kvm sync points between two exits: which event it is, and
    /// whether it counts and interrupts as it must. The exit code is 0 if it can be used, 5 if not
    #[arg(long, conflicts_with = "selftest")]
    pub pmu: bool,
    /// Also record the demo guest, replay it ten times and compare: a report to send back from a new kind of host
    #[arg(long)]
    pub selftest: bool,
    /// The demo guest of the self-test
    #[arg(long, value_name = "FILE", default_value = "target/guest/demo.img")]
    pub image: PathBuf,
}

/// What `--selftest` runs: given the report so far, further checks to add to it.
pub type SelfTest<'a> = &'a dyn Fn(&Report) -> anyhow::Result<Vec<Check>>;

/// What `--format json` prints. Fields are only ever added.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    /// Version of this form.
    pub format: u32,
    /// Whether Linux guests can be recorded and replayed here.
    pub fit: bool,
    /// The same as a sentence, with the failing checks.
    pub verdict: String,
    /// `cpu_model`, `microcode`, `kernel_release`, `kvm_module`.
    pub host: &'a HostFacts,
    /// `name`, `status` (ok, warn or fail), `found`, `why`, `fix`.
    pub checks: &'a [Check],
}

impl<'a> Document<'a> {
    /// The form of a report.
    pub fn new(report: &'a Report) -> Self {
        let verdict = match report.fit_for_linux() {
            Ok(()) => "this host's KVM can run Linux guests deterministically".to_owned(),
            Err(unfit) => format!("{unfit}. The soft engine needs no KVM: --engine auto takes it here"),
        };
        Self {
            format: 1,
            fit: report.fit_for_linux().is_ok(),
            verdict,
            host: &report.host,
            checks: &report.checks,
        }
    }
}

/// Probes the host and prints the report on stdout. The exit code is 0 on a fit host and 5 on another.
///
/// # Errors
/// `--selftest` without a `selftest`, a self-test that could not run at all, or a failure to print.
pub fn run(args: &DoctorArgs, selftest: Option<SelfTest<'_>>) -> anyhow::Result<u8> {
    if args.pmu {
        return examine_counter(args.format);
    }
    let mut report = probe::probe(Scope::Full);
    if args.selftest {
        let Some(selftest) = selftest else { anyhow::bail!("this build has no self-test") };
        report.checks.extend(selftest(&report)?);
    }
    let text = match args.format {
        Format::Text => text(&report),
        Format::Json => serde_json::to_string_pretty(&Document::new(&report))? + "\n",
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(if report.fit_for_linux().is_ok() { 0 } else { HOST_UNSUITABLE })
}

/// What `--pmu --format json` prints. Fields are only ever added.
#[derive(Debug, Serialize)]
struct CounterDocument<'a> {
    /// Version of this form.
    format: u32,
    /// Whether the kvm engine uses the counter.
    usable: bool,
    /// The same as a sentence, and what there is instead.
    verdict: String,
    /// The counter, if it is used.
    counter: Option<CounterForm>,
    /// As in [`Document`].
    host: &'a HostFacts,
    /// As in [`Document`].
    checks: &'a [Check],
}

#[derive(Debug, Serialize)]
struct CounterForm {
    /// The processors it is of.
    model: &'static str,
    /// Code of the event, hexadecimal.
    event: String,
    /// Branches by which an overflow may come late.
    skid: u64,
}

impl<'a> CounterDocument<'a> {
    fn new(host: &'a HostFacts, found: &'a Verdict) -> Self {
        let verdict = match &found.counter {
            Ok(_) => "the kvm engine counts branches here: recordings have sync points between two exits, and counted \
                      recordings replay on kvm"
                .to_owned(),
            Err(why) => format!(
                "{why}. So kvm has sync points at exits only here, and captured ones where a guest computes for long; \
                 --engine soft counts exactly on every host, and replays counted recordings"
            ),
        };
        let counter = found.counter.as_ref().ok().map(|Counter { model, event, skid, .. }| CounterForm {
            model,
            event: format!("{:#x}", event.config),
            skid: *skid,
        });
        let usable = counter.is_some();
        Self { format: 1, usable, verdict, counter, host, checks: &found.checks }
    }
}

/// `--pmu`.
fn examine_counter(format: Format) -> anyhow::Result<u8> {
    let (host, found) = (HostFacts::read(), pmu::examine());
    let document = CounterDocument::new(&host, &found);
    let printed = match format {
        Format::Text => page(&host, &found.checks, &document.verdict),
        Format::Json => serde_json::to_string_pretty(&document)? + "\n",
    };
    io::stdout().lock().write_all(printed.as_bytes())?;
    Ok(if document.usable { 0 } else { HOST_UNSUITABLE })
}

/// The report for people.
fn text(report: &Report) -> String {
    page(&report.host, &report.checks, &Document::new(report).verdict)
}

fn page(host: &HostFacts, checks: &[Check], verdict: &str) -> String {
    let mut out = String::new();
    paragraph(&mut out, "processor  ", &format!("{}, microcode {}", host.cpu_model, host.microcode));
    paragraph(&mut out, "kernel     ", &host.kernel_release);
    paragraph(&mut out, "KVM        ", &host.kvm_module);
    out.push('\n');
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut last_fix = "";
    for check in checks {
        paragraph(&mut out, &format!("{:<4}  {:<width$}  ", check.status, check.name), &check.found);
        if check.status != Status::Ok {
            paragraph(&mut out, "        why: ", check.why);
            let fix = if check.fix == last_fix { "as above" } else { &check.fix };
            paragraph(&mut out, "        fix: ", fix);
            last_fix = &check.fix;
        }
    }
    out.push('\n');
    paragraph(&mut out, "", verdict);
    out
}

/// Appends `words` after `first`, wrapped at [`COLUMNS`], further lines indented as wide as `first`.
fn paragraph(out: &mut String, first: &str, words: &str) {
    let indent = first.chars().count();
    let mut column = indent;
    out.push_str(first);
    for word in words.split_whitespace() {
        let length = word.chars().count();
        if column > indent {
            if column + 1 + length > COLUMNS {
                // Writing to a String cannot fail.
                let _ = write!(out, "\n{:indent$}", "");
                column = indent;
            } else {
                out.push(' ');
                column += 1;
            }
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let check = |name, status, found: &str, fix: &str| Check {
            name,
            status,
            found: found.into(),
            why: "It is what every guest needs.",
            fix: fix.into(),
        };
        Report {
            host: HostFacts {
                cpu_model: "Test CPU".into(),
                microcode: "0x2a".into(),
                kernel_release: "6.1.0-test".into(),
                kvm_module: "kvm_test".into(),
            },
            checks: vec![
                check("dev-kvm", Status::Ok, "it opens", ""),
                check("long-name", Status::Fail, &"several words ".repeat(12), "Get another."),
                check("c", Status::Fail, "it does not", "Get another."),
                check("d", Status::Warn, "less so", "Do nothing."),
            ],
        }
    }

    #[test]
    fn text_has_a_line_per_check_and_a_verdict() {
        let expected = "\
processor  Test CPU, microcode 0x2a
kernel     6.1.0-test
KVM        kvm_test

ok    dev-kvm    it opens
fail  long-name  several words several words several words several words several words several words
                 several words several words several words several words several words several words
        why: It is what every guest needs.
        fix: Get another.
fail  c          it does not
        why: It is what every guest needs.
        fix: as above
warn  d          less so
        why: It is what every guest needs.
        fix: Do nothing.

this host's KVM cannot run a Linux guest: several words several words several words several words
several words several words several words several words several words several words several words
several words (long-name); also failing: c. The soft engine needs no KVM: --engine auto takes it
here
";
        assert_eq!(text(&report()), expected);
    }

    #[test]
    fn a_fit_host_is_told_so() {
        let mut report = report();
        report.checks.retain(|check| check.status != Status::Fail);
        assert!(text(&report).ends_with("\nthis host's KVM can run Linux guests deterministically\n"));
    }

    #[test]
    fn json_keeps_its_form() {
        let mut report = report();
        report.checks.truncate(1);
        let expected = concat!(
            r#"{"format":1,"fit":true,"verdict":"this host's KVM can run Linux guests deterministically","#,
            r#""host":{"cpu_model":"Test CPU","microcode":"0x2a","kernel_release":"6.1.0-test","#,
            r#""kvm_module":"kvm_test"},"checks":[{"name":"dev-kvm","status":"ok","found":"it opens","#,
            r#""why":"It is what every guest needs.","fix":""}]}"#
        );
        assert_eq!(serde_json::to_string(&Document::new(&report)).unwrap(), expected);
    }

    fn verdict(counter: Result<Counter, String>) -> Verdict {
        let check = |name, status, found: &str, fix: &str| Check {
            name,
            status,
            found: found.into(),
            why: "It must count.",
            fix: fix.into(),
        };
        let mut checks = vec![check("pmu-model", Status::Ok, "it is in the table", "")];
        if counter.is_err() {
            checks.push(check("pmu-open", Status::Fail, "it may not be opened", "Allow it."));
        }
        Verdict { checks, counter }
    }

    fn counter() -> Counter {
        let event = crate::host::perf::Event { pmu: 4, config: 0x5111c4 };
        Counter { model: "Ice Lake", event, skid: 100, processors: None }
    }

    #[test]
    fn a_counter_that_is_not_used_is_told_with_what_there_is_instead() {
        let (host, found) =
            (report().host, verdict(Err("this host's branch counter cannot be used: no".into())));
        let document = CounterDocument::new(&host, &found);
        let expected = "\
processor  Test CPU, microcode 0x2a
kernel     6.1.0-test
KVM        kvm_test

ok    pmu-model  it is in the table
fail  pmu-open   it may not be opened
        why: It must count.
        fix: Allow it.

this host's branch counter cannot be used: no. So kvm has sync points at exits only here, and
captured ones where a guest computes for long; --engine soft counts exactly on every host, and
replays counted recordings
";
        assert_eq!(page(&host, &found.checks, &document.verdict), expected);
        assert!(!document.usable);
        let json = serde_json::to_string(&document).unwrap();
        assert!(json.starts_with(r#"{"format":1,"usable":false,"verdict":"this host"#), "{json}");
        assert!(json.contains(r#""counter":null,"host":{"cpu_model":"#), "{json}");
    }

    #[test]
    fn a_counter_that_is_used_is_named() {
        let (host, found) = (report().host, verdict(Ok(counter())));
        let document = CounterDocument::new(&host, &found);
        assert!(
            page(&host, &found.checks, &document.verdict).contains("\nthe kvm engine counts branches here: ")
        );
        let json = serde_json::to_string(&document).unwrap();
        let expected = r#""counter":{"model":"Ice Lake","event":"0x5111c4","skid":100}"#;
        assert!(json.contains(r#""usable":true"#) && json.contains(expected), "{json}");
    }

    #[test]
    fn this_hosts_counter_is_examined_in_time() {
        let begun = crate::host::clock::monotonic_ns();
        let (host, found) = (HostFacts::read(), pmu::examine());
        let document = CounterDocument::new(&host, &found);
        assert!(crate::host::clock::monotonic_ns() - begun < 60_000_000_000);
        assert_eq!(document.usable, found.checks.iter().all(|check| check.status == Status::Ok));
        assert!(
            page(&host, &found.checks, &document.verdict)
                .lines()
                .all(|line| line.chars().count() <= COLUMNS + 60)
        );
        for check in &found.checks {
            assert_eq!(check.status == Status::Ok, check.fix.is_empty(), "{check:?}");
        }
        let code = examine_counter(Format::Json).unwrap();
        assert_eq!(code, if document.usable { 0 } else { HOST_UNSUITABLE });
    }

    #[test]
    fn lines_fit_the_page() {
        assert!(text(&report()).lines().all(|line| line.chars().count() <= COLUMNS));
    }
}
