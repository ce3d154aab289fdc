//! `scribe-vmm diff`: where two recordings differ.

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::exit::{self, Failure};
use super::log::FormatChoice;
use super::recorded;
use crate::inspect::diff::{self, Key, Outcome, Parting, Placed};
use crate::inspect::list::Form;
use crate::inspect::state::Difference;
use crate::inspect::{json, text};

/// Exit code for recordings that differ.
const DIFFERENT: u8 = 1;

/// Show where two recordings differ
///
/// First the keys of their headers with different values, then the first event that differs, with some events before and
/// after it. Seals and bookmarks that the guest has not set are not compared; of recordings of different levels the events
/// of the lower level are. The exit code is 0 if nothing differs and 1 if something does.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm diff good bad\n  \
                        scribe-vmm diff demo-1 demo-2 --context 10\n  \
                        scribe-vmm diff good bad --format json | jq .events.a[0].position")]
pub(super) struct DiffArgs {
    /// A recording: a directory, a name below the recordings' home, or a packed file
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The recording to compare it with
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Events shown before and after the first that differs
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=1000))]
    context: u16,
    /// How to print
    #[arg(long, value_enum, default_value_t = FormatChoice::Text)]
    format: FormatChoice,
}

pub(super) fn run(args: &DiffArgs) -> Result<u8, Failure> {
    let (a, b) = (recorded::open(Some(&args.a))?, recorded::open(Some(&args.b))?);
    let keys = diff::headers(a.header(), b.header());
    let level = a.header().level.min(b.header().level);
    let outcome = diff::events(a.events(), b.events(), level, args.context.into())
        .map_err(|error| Failure::new(exit::RECORDING, error))?;
    let output = match args.format.form() {
        Form::Text => in_text(&keys, &outcome),
        Form::Json => in_json(&keys, &outcome),
    };
    match io::stdout().lock().write_all(output.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let error = anyhow::Error::new(error).context("writing to standard output");
            return Err(Failure::new(exit::ERROR, error));
        }
        _ => {}
    }
    Ok(if keys.is_empty() && outcome.parting.is_none() { 0 } else { DIFFERENT })
}

fn in_text(keys: &[Key], outcome: &Outcome) -> String {
    let mut out = String::new();
    for Key { name, a, b } in keys {
        out += &format!("header {name}: {a} / {b}\n");
    }
    let equal = outcome.equal;
    let Some(Parting { before, a, b, detail }) = &outcome.parting else {
        out += &format!("all {equal} events are equal\n");
        return out;
    };
    out += &format!("{equal} events are equal, then they differ:\n");
    let lines = |mark: &str, events: &[Placed]| {
        let lines: String =
            events.iter().map(|placed| format!("{mark} {}", line(placed, text::line))).collect();
        if lines.is_empty() { format!("{mark} the recording ends\n") } else { lines }
    };
    if !before.is_empty() {
        out += &lines(" ", before);
    }
    out += &lines("<", a);
    out += &lines(">", b);
    if let Some(Difference { what, recorded, found }) = detail {
        out += &format!("the first difference of the two states is {what}: {recorded} / {found}\n");
    }
    out
}

fn in_json(keys: &[Key], outcome: &Outcome) -> String {
    let header: Vec<Value> =
        keys.iter().map(|Key { name, a, b }| json!({ "key": name, "a": a, "b": b })).collect();
    let objects = |events: &[Placed]| -> Vec<Value> {
        events
            .iter()
            .map(|placed| serde_json::from_str(&line(placed, json::line)).unwrap_or_default())
            .collect()
    };
    let mut events = json!({ "equal": outcome.equal });
    if let Some(Parting { before, a, b, detail }) = &outcome.parting {
        events["before"] = objects(before).into();
        events["a"] = objects(a).into();
        events["b"] = objects(b).into();
        if let Some(Difference { what, recorded, found }) = detail {
            events["detail"] = json!({ "what": what, "a": recorded, "b": found });
        }
    }
    let equal = keys.is_empty() && outcome.parting.is_none();
    format!("{}\n", json!({ "equal": equal, "header": header, "events": events }))
}

/// The line of an event, with its line feed.
fn line(placed: &Placed, form: impl Fn(&mut Vec<u8>, &crate::inspect::row::Row)) -> String {
    let mut out = Vec::new();
    form(&mut out, &placed.rows.clone().row(&placed.event, None));
    String::from_utf8_lossy(&out).into_owned()
}
