//! Runs cases on both processors and gathers what differs.

use super::case::{Case, Outcome};
use super::compare::{NAMES, Verdict, compare};
use super::generate::{Generator, Modes};
use super::layout::BATCH;
use super::minimise::minimise;
use super::native::Native;
use super::report;
use super::soft::Soft;
use super::values;
use std::collections::BTreeMap;
use std::io;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// seed
    pub seed: u64,
    /// first case
    pub first: u64,
    /// cases
    pub cases: u64,
    /// this part of so many: each runs every so many'th batch
    pub part: (u64, u64),
    /// modes
    pub modes: Modes,
    /// mnemonics or forms; all if empty
    pub only: Vec<String>,
    /// instructions a case, at most
    pub longest: u64,
    /// compare undefined flags too
    pub strict: bool,
    /// a second native process in place of the soft CPU
    pub native: bool,
    /// differences that are made small and shown, at most
    pub minimise: u64,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Report {
    /// cases compared
    pub compared: u64,
    /// cases not compared
    pub skipped: u64,
    /// cases that differ
    pub different: u64,
    /// differences by the last instruction of the case made small: how many, and the first
    pub groups: BTreeMap<String, (u64, String)>,
    /// how often each form was executed to its end, by mode
    pub coverage: [Vec<u64>; 2],
    /// the same, faults included
    pub begun: [Vec<u64>; 2],
}

/// The other side.
enum Other {
    Soft(Box<Soft>),
    Native(Native),
}

impl Other {
    fn run(&mut self, case: &Case) -> io::Result<Box<Outcome>> {
        match self {
            Self::Soft(soft) => Ok(soft.run(case)),
            Self::Native(native) => Ok(Box::new(native.run(case)?)),
        }
    }

    fn note(&mut self) -> String {
        match self {
            Self::Soft(soft) => std::mem::take(&mut soft.note),
            Self::Native(_) => String::new(),
        }
    }
}

/// Runs.
///
/// # Errors
/// No memory, or no process.
pub fn run(options: &Options) -> io::Result<Report> {
    let pool: &'static [u8] = Box::leak(values::pool());
    let mut native = Native::new(pool)?;
    let mut other = match options.native {
        true => Other::Native(Native::new(pool)?),
        false => Other::Soft(Box::new(Soft::new(pool)?)),
    };
    let mut generator = Generator::new(options.seed, options.modes, options.longest, &options.only);
    let mut report = Report::default();
    for mode in 0..2 {
        report.coverage[mode] = vec![0; generator.forms(mode).len()];
        report.begun[mode] = vec![0; generator.forms(mode).len()];
    }
    let mut left = options.minimise;
    let end = options.first + options.cases;
    let mut from = options.first + options.part.0 * BATCH as u64;
    while from < end {
        let cases: Vec<Case> =
            (from..end.min(from + BATCH as u64)).map(|number| generator.case(number)).collect();
        for (index, case) in cases.iter().enumerate() {
            native.shared().load(index, case);
        }
        native.start(0, cases.len());
        let mut outcomes = Vec::with_capacity(cases.len());
        for case in &cases {
            let outcome = other.run(case)?;
            outcomes.push((outcome, other.note()));
        }
        native.finish()?;
        let mut different = Vec::new();
        for (index, (case, (soft, note))) in cases.iter().zip(outcomes).enumerate() {
            let outcome = &native.shared().slot(index).outcome;
            match compare(case, outcome, &soft, options.strict) {
                Verdict::Same => report.compared += 1,
                Verdict::Skipped => report.skipped += 1,
                Verdict::Different(found) => {
                    report.compared += 1;
                    report.different += 1;
                    different.push((case, found, note));
                }
            }
            cover(&mut report, case, outcome);
        }
        for (case, found, note) in different {
            if left == 0 {
                continue;
            }
            left -= 1;
            explain(options, &mut report, (&mut native, &mut other), pool, (case, found, note))?;
        }
        from += options.part.1 * BATCH as u64;
    }
    Ok(report)
}

/// Makes a difference small, and keeps the first of its group.
fn explain(
    options: &Options,
    report: &mut Report,
    (native, other): (&mut Native, &mut Other),
    pool: &[u8],
    (case, found, note): (&Case, Vec<String>, String),
) -> io::Result<()> {
    let mut last = (found, note);
    let mut failed = None;
    let small = minimise(case, |case| {
        let outcomes = native.run(case).and_then(|native| Ok((native, other.run(case)?)));
        let note = other.note();
        match outcomes.map(|(native, soft)| compare(case, &native, &soft, options.strict)) {
            Ok(Verdict::Different(found)) => {
                last = (found, note);
                true
            }
            Ok(_) => false,
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let by = small.remaining().filter(|(_, piece)| piece.form.is_some()).last();
    let by = by.or_else(|| small.remaining().last());
    let name = by.map_or_else(String::new, |(_, piece)| format!("{:?}", piece.instruction.mnemonic()));
    let what = last.0.first().map_or("", |found| found.split([':', ' ']).next().unwrap_or_default());
    let what = match what {
        general if NAMES.contains(&general) => "register",
        other => other.trim_end_matches(|c: char| c.is_ascii_digit()),
    };
    let entry = report.groups.entry(format!("{name} ({what})")).or_default();
    entry.0 += 1;
    if entry.0 == 1 {
        entry.1 = report::difference(options.seed, &small, &last.0, &last.1, pool);
    }
    Ok(())
}

/// Counts the forms that a case came to.
fn cover(report: &mut Report, case: &Case, outcome: &Outcome) {
    let mode = usize::from(case.compatibility);
    let rip = outcome.machine.rip;
    for (at, piece) in case.remaining() {
        let Some(form) = piece.form else { continue };
        if at > rip {
            break;
        }
        report.begun[mode][form] += 1;
        report.coverage[mode][form] += u64::from(at < rip);
    }
}
