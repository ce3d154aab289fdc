//! Writes the page: one file with everything in it, which asks for nothing from anywhere.
//!
//! What comes from a guest or a recording is data to the page's script and never markup: it is JSON in an element that is
//! not executed, with every character escaped that could end the element, and the script makes text nodes of it. Behind
//! that stands a content security policy that runs no script but ours: it carries a number that covers all of the data, so
//! that no data can contain it.

use std::collections::BTreeMap;
use std::path::Path;

use scribe_log::header::Header;
use serde::Serialize;

use super::Timeline;
use super::lane::{Kind, Lane};
use super::pack;
use super::text::{Line, clean};
use crate::machine::observe::Moment;
use crate::session::choice;
use crate::session::replay::Outcome;

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
/// In one scope, in this order.
const SCRIPTS: [&str; 7] = [
    include_str!("page/format.js"),
    include_str!("page/decode.js"),
    include_str!("page/view.js"),
    include_str!("page/draw.js"),
    include_str!("page/inspect.js"),
    include_str!("page/console.js"),
    include_str!("page/main.js"),
];

/// The page could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// Its data could not be written as JSON.
    #[error("the page's data: {0}")]
    Json(#[from] serde_json::Error),
    /// Its data could not be packed.
    #[error("the page's events: {0}")]
    Pack(#[from] std::io::Error),
}

/// Groups of lanes, from top to bottom: where their lanes stand, and what they are called.
const LANES: [(&str, &str, &str); 17] = [
    ("bookmark", "marks", "Bookmarks"),
    ("input", "marks", "Inputs"),
    ("branch", "marks", "Branch"),
    ("vcpu", "vcpu", "vCPU"),
    ("captured", "vcpu", "Captured"),
    ("irq", "interrupts", "IRQ"),
    ("spurious", "interrupts", "Spurious"),
    ("uart", "devices", "Serial port"),
    ("disk", "devices", "Disk requests"),
    ("virtio", "devices", "Disk registers"),
    ("pit", "devices", "Timer"),
    ("pic", "devices", "PIC"),
    ("rtc", "devices", "Real-time clock"),
    ("guest", "devices", "Guest interface"),
    ("i8042", "devices", "Keyboard controller"),
    ("msr", "devices", "MSRs"),
    ("unmapped", "devices", "Unmapped"),
];
/// Behind all of them.
const CHECKS: (&str, &str, &str) = ("check", "checks", "Checks");

/// What drives a line of the interrupt controllers.
const IRQS: [(&str, &str); 3] = [("irq0", "timer"), ("irq4", "serial port"), ("irq5", "disk")];

#[derive(Serialize)]
struct Page<'a> {
    name: String,
    program: &'static str,
    command: &'a str,
    facts: Vec<(&'static str, String)>,
    begin: u64,
    end: u64,
    exits: u64,
    /// bookmarks that `--to` takes by their names
    named: Vec<String>,
    lanes: Vec<PageLane<'a>>,
    console: PageText,
}

#[derive(Serialize)]
struct PageLane<'a> {
    id: &'a str,
    group: &'static str,
    name: String,
    measure: &'static str,
    quantum: u64,
    records: usize,
    kinds: Vec<(&'a str, &'a str, u8)>,
    texts: &'a [String],
}

/// Lines are time, exit, branches, steps, text.
#[derive(Serialize)]
struct PageText {
    head: Vec<PageLine>,
    left_out: u64,
    tail: Vec<PageLine>,
}

type PageLine = (u64, u64, u64, u64, String);

/// Makes the page. `recording`: what it is called; `command`: what replays it, up to where `--to` goes, as a shell reads it.
///
/// # Errors
/// Its data cannot be encoded.
pub fn page(timeline: Timeline, recording: &Path, command: &str) -> Result<String, PageError> {
    let Timeline { header, outcome, seen, named } = timeline;
    let name = recording.file_name().unwrap_or(recording.as_os_str()).to_string_lossy();
    let name = clean(name.as_bytes());
    let (head, left_out, tail) = seen.text.finish();
    let lanes = in_order(&seen.lanes);
    let data = serde_json::to_string(&Page {
        program: env!("CARGO_PKG_VERSION"),
        command,
        facts: facts(&header, &outcome, seen.ending.as_deref()),
        begin: seen.begin.guest_time,
        end: seen.end.guest_time,
        exits: seen.exits,
        named,
        lanes: lanes.iter().map(|(id, lane, group, name)| page_lane(id, lane, group, name)).collect(),
        console: PageText { head: page_lines(head), left_out, tail: page_lines(tail) },
        name: name.clone(),
    })?;
    let data = harmless(&data);
    let events = pack::pack(lanes.iter().map(|(_, lane, ..)| *lane))?;
    let nonce = nonce(&[&data, &events]);
    Ok(fill(TEMPLATE, |marker| match marker {
        "TITLE" => escape(&name),
        "NONCE" => nonce.clone(),
        "STYLE" => STYLE.into(),
        "DATA" => data.clone(),
        "EVENTS" => events.clone(),
        "SCRIPT" => SCRIPTS.concat(),
        _ => String::new(),
    }))
}

fn page_lane<'a>(id: &'a str, lane: &'a Lane, group: &'static str, name: &str) -> PageLane<'a> {
    PageLane {
        id,
        group,
        name: name.into(),
        measure: lane.measure.name(),
        quantum: lane.quantum(),
        records: lane.records().len(),
        kinds: lane
            .kinds()
            .iter()
            .map(|Kind { verb, name, write }| (*verb, name.as_ref(), u8::from(*write)))
            .collect(),
        texts: lane.texts(),
    }
}

fn page_lines(lines: Vec<Line>) -> Vec<PageLine> {
    let line = |Line { at: Moment { position, guest_time }, text }| {
        (guest_time, position.exit, position.branches, position.steps, text)
    };
    lines.into_iter().map(line).collect()
}

type Placed<'a> = (&'a str, &'a Lane, &'static str, String);

/// The lanes from top to bottom: name, lane, group, title.
fn in_order(lanes: &BTreeMap<String, Lane>) -> Vec<Placed<'_>> {
    let mut out = Vec::new();
    for (id, group, title) in LANES.into_iter().chain([CHECKS]) {
        if id == "irq" {
            let number = |id: &str| id.strip_prefix("irq").and_then(|number| number.parse::<u8>().ok());
            let mut irqs: Vec<_> =
                lanes.iter().filter_map(|(id, lane)| Some((number(id)?, id, lane))).collect();
            irqs.sort_unstable_by_key(|(number, ..)| *number);
            for (number, id, lane) in irqs {
                let source = IRQS.iter().find(|(known, _)| known == id).map_or("", |(_, source)| source);
                out.push((id.as_str(), lane, group, format!("{title} {number} {source}").trim_end().into()));
            }
        } else if let Some((id, lane)) = lanes.get_key_value(id) {
            out.push((id.as_str(), lane, group, title.to_owned()));
        }
    }
    out
}

/// What stands under the title.
fn facts(header: &Header, outcome: &Outcome, ending: Option<&str>) -> Vec<(&'static str, String)> {
    let shown =
        |path: &Path| clean(path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().as_bytes());
    let words: Vec<String> =
        header.command.iter().map(|word| String::from_utf8_lossy(word).escape_debug().to_string()).collect();
    let behaviour =
        header.behaviour.as_deref().map_or_else(String::new, |name| format!(", behaves as {name}"));
    let end = match (ending, outcome) {
        (Some(ending), _) => ending.to_owned(),
        (None, Outcome::SealedEnd(position)) => format!("its recorder was killed; sealed up to {position}"),
        (None, _) => "not reached".into(),
    };
    let mut out = vec![
        ("image", header.image.as_ref().map_or_else(|| "none".into(), |image| shown(&image.path))),
        ("kernel", shown(&header.kernel.path)),
    ];
    if !words.is_empty() {
        out.push(("command", clean(words.join(" ").as_bytes())));
    }
    out.push(("engine", clean(format!("{}{behaviour}", choice::name(header.engine)).as_bytes())));
    out.push(("machine", clean(format!("{}, {} MiB", header.platform, header.memory >> 20).as_bytes())));
    out.push(("end", end));
    out
}

/// JSON that can stand in any element: these characters are only found in its strings.
fn harmless(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out
}

/// Text for the inside of an element.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A number that nothing in `data` can contain but by breaking BLAKE3. Equal data give equal pages.
fn nonce(data: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in data {
        hasher.update(part.as_bytes());
    }
    hasher.finalize().as_bytes()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fills in what stands between `{{` and `}}` of the template; what is filled in is not looked at again.
fn fill(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut parts = template.split("{{");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (marker, rest) = part.split_once("}}").unwrap_or((part, ""));
        out += &value(marker);
        out += rest;
    }
    out
}

/// A word as a POSIX shell reads it.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_cannot_end_its_element() {
        let hostile = "</script><!--&\u{2028}\u{2029}";
        let json = harmless(&serde_json::to_string(hostile).unwrap());
        assert!(json.is_ascii() && !json.contains(['<', '>', '&']), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), hostile);
    }

    #[test]
    fn what_is_filled_in_is_not_a_template() {
        let filled = fill("a{{X}}b{{Y}}c", |marker| format!("<{marker}{{{{X}}}}>"));
        assert_eq!(filled, "a<X{{X}}>b<Y{{X}}>c");
    }

    #[test]
    fn the_template_has_every_marker_and_no_other() {
        let mut markers: Vec<&str> =
            TEMPLATE.split("{{").skip(1).map(|part| part.split_once("}}").unwrap().0).collect();
        markers.sort_unstable();
        markers.dedup();
        assert_eq!(markers, ["DATA", "EVENTS", "NONCE", "SCRIPT", "STYLE", "TITLE"]);
    }

    #[test]
    fn scripts_make_text_and_no_markup() {
        for script in SCRIPTS {
            for banned in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "Function(",
                "fetch(",
                "XMLHttpRequest",
                "import(",
                "http:",
                "https:",
                "</script",
                "<!--",
            ] {
                assert!(!script.contains(banned), "{banned}");
            }
        }
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import") && !STYLE.contains("</style"));
    }

    #[test]
    fn shells_read_the_word_that_was_meant() {
        for (word, shown) in [
            ("demo-1", "demo-1"),
            ("/tmp/a b", "'/tmp/a b'"),
            ("it's $(x)", "'it'\\''s $(x)'"),
            ("", "''"),
            ("~root", "'~root'"),
        ] {
            assert_eq!(shell_word(word), shown);
        }
    }
}
