//! The timeline's page: what it carries, and what it does in a browser.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

use std::fs::File;
use std::path::Path;

use iced_x86::code_asm::*;
use scribe_log::{BookmarkList, Position};
use scribe_tests::bench::{Bench, made_up_host};
use scribe_tests::browser::Browser;
use scribe_tests::engines::{self, Under};
use scribe_tests::guests::{self, END_OF_INPUT};
use scribe_tests::lab::{Lab, figure, text};
use scribe_tests::png::Picture;
use scribe_tests::timeline::{Field, SIZE, command, is_drawn, lane, seen};
use scribe_tests::tiny::{self, Emitted, PIC_VECTORS};
use scribe_vmm::engine::{Answer, Exit};
use scribe_vmm::machine::observe::{Moment, Observer};
use scribe_vmm::session::choice::Wish;
use scribe_vmm::session::config::Moved;
use scribe_vmm::session::files::DigestCache;
use scribe_vmm::session::player::{Player, ReplayConfig};
use scribe_vmm::session::replay::Outcome;
use scribe_vmm::session::start::Connections;
use scribe_vmm::timeline::data::Collector;
use scribe_vmm::timeline::page::page;
use scribe_vmm::timeline::{self, Timeline};
use serde_json::{Value, json};

/// What a hostile guest writes, by lines, as the page must show it.
const HOSTILE: [&str; 4] = [
    "</script><script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "--><!--<![CDATA[ {{DATA}} ${name} &lt; \\u003c",
    "^[]0;title^G\\u{2028}end",
];
/// The same as it is sent.
const SENT: [&str; 4] = [HOSTILE[0], HOSTILE[1], HOSTILE[2], "\x1b]0;title\x07\x1b[31m\u{2028}end"];
/// Bookmarks of the guest, in order.
const BOOKMARKS: [&str; 3] = ["</script><b>bold</b>", "middle", "$(touch taken) 'x'"];

fn guest(a: &mut CodeAssembler) -> Emitted {
    SENT.iter().try_for_each(|line| {
        tiny::print(a, line)?;
        tiny::print(a, "\r\n")
    })?;
    for name in BOOKMARKS {
        tiny::spin(a, 3000)?;
        tiny::message(a, name)?;
        tiny::ask(a, 0x28, 0)?;
    }
    tiny::out8(a, 0x80, 0x5a)?; // nobody's port
    naps(a, 20)?;
    guests::echo(a)
}

/// Sleeps a millisecond so many times.
fn naps(a: &mut CodeAssembler, count: u32) -> Emitted {
    const MILLISECOND: u16 = 1193;
    let (mut again, mut tick, mut done) = (a.create_label(), a.create_label(), a.create_label());
    tiny::gate(a, PIC_VECTORS, tick)?;
    tiny::load_idt(a)?;
    tiny::pic(a, &[0])?;
    a.mov(r12d, count)?;
    a.set_label(&mut again)?;
    tiny::pit_once(a, MILLISECOND)?;
    a.sti()?;
    a.hlt()?;
    a.dec(r12d)?;
    a.jnz(again)?;
    a.jmp(done)?;
    a.set_label(&mut tick)?;
    tiny::end_of_interrupt(a)?;
    tiny::return_with_interrupts_off(a)?;
    a.set_label(&mut done)
}

/// A recording `a` of [`guest`] that types.
fn recorded() -> Bench {
    let bench = Bench::new();
    let guest = bench.guest(guest);
    let typed = bench.file("input", b"typed <b>&amp;</b>\n\x04");
    assert_eq!(b"typed <b>&amp;</b>\n\x04".last(), Some(&END_OF_INPUT));
    let connections = Connections { input: Some(File::open(typed).unwrap()), ..Connections::none() };
    bench.record("a", &guest, connections);
    bench
}

fn collected(bench: &Bench) -> Timeline {
    let config = ReplayConfig {
        counter: Err("not in tests".into()),
        directory: &bench.path("a"),
        moved: Moved::default(),
        engine: Wish::Soft,
        behaviour: None,
        quiet: true,
        perturb: None,
        snapshots: false,
    };
    let home = bench.path("");
    let player = Player::open(&config, &DigestCache::new(&home), &made_up_host(), &home, None);
    timeline::collect(&mut player.unwrap()).unwrap()
}

/// The page's data, as its script sees them.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

fn on_soft(name: &str, test: fn()) {
    engines::on(Under::Counted, name, test);
}

#[test]
fn a_page_carries_what_happened_and_no_markup_of_the_guests() {
    on_soft("a_page_carries_what_happened_and_no_markup_of_the_guests", || {
        let bench = recorded();
        let command = "scribe-vmm replay 'a'";
        let html = page(collected(&bench), &bench.path("a"), command).unwrap();
        assert_eq!(
            html,
            page(collected(&bench), &bench.path("a"), command).unwrap(),
            "equal data, equal page"
        );
        assert!(html.len() < 100_000, "{} bytes", html.len());
        assert_eq!(html.matches("</script").count(), 3, "the page's own");
        assert!(
            !html.contains("<!--")
                && !html.contains("<img")
                && !html.contains("http:")
                && !html.contains("https:")
        );
        let data = data(&html);
        let lines: Vec<&str> = data["console"]["head"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line[4].as_str().unwrap())
            .collect();
        assert_eq!(lines, [&HOSTILE[..], &["ready", "typed <b>&amp;</b>"]].concat());
        let lane = |id: &str| {
            let found = data["lanes"].as_array().unwrap().iter().find(|lane| lane["id"] == id);
            found.unwrap_or_else(|| panic!("no lane {id}")).clone()
        };
        assert_eq!(lane("bookmark")["texts"], json!(BOOKMARKS));
        assert_eq!(lane("input")["texts"], json!(["\"typed <b>&amp;</b>\\n\\x04\""]));
        for (id, least) in
            [("uart", 150), ("irq0", 20), ("irq4", 1), ("pic", 10), ("pit", 3), ("guest", 40), ("vcpu", 20)]
        {
            assert!(lane(id)["records"].as_u64().unwrap() >= least, "{id}: {}", lane(id));
        }
        assert_eq!((&lane("unmapped")["records"], &data["command"]), (&json!(1), &json!(command)));
        let exits = Position::exit(data["exits"].as_u64().unwrap());
        assert_eq!(bench.events("a").last().unwrap().position, exits);
    });
}

fn open(bench: &Bench, html: &str, scheme: &str, test: &str) -> Option<Browser> {
    let file = bench.file("page.html", html.as_bytes());
    let mut browser = Browser::start(test)?;
    browser.open(&file, SIZE, scheme);
    Some(browser)
}

#[test]
fn a_browser_shows_zooms_and_pins() {
    on_soft("a_browser_shows_zooms_and_pins", || {
        let bench = recorded();
        let timeline = collected(&bench);
        let bookmarks: Vec<_> = timeline.seen.lanes["bookmark"].records().to_vec();
        let inputs: Vec<_> = timeline.seen.lanes["input"].records().to_vec();
        let html = page(timeline, &bench.path("a"), "scribe-vmm replay a").unwrap();
        let Some(mut browser) = open(&bench, &html, "light", "a_browser_shows_zooms_and_pins") else {
            return;
        };
        let b = &mut browser;

        // What the guest has written is text.
        assert_eq!(b.text("document.title"), "a: timeline");
        assert_eq!(b.number("document.scripts.length"), 3.0);
        assert_eq!(b.number("document.querySelectorAll('img, #rows *:not(li, time, bdi)').length"), 0.0);
        let rows = b.text("document.getElementById('rows').textContent");
        HOSTILE.iter().for_each(|line| assert!(rows.contains(line), "{rows}"));
        let picture = seen(b, "light");
        is_drawn(b, &picture);
        assert!(picture.pixel(2, 2).iter().all(|channel| *channel > 200), "light");

        // Bookmarks: pointed at, clicked.
        let (y, _) = lane(b, "Bookmarks");
        let whole = Field::of(b);
        let tip = "document.getElementById('tip')";
        assert_eq!(b.evaluate(&format!("{tip}.hidden")), json!(true));
        for (bookmark, name) in bookmarks.iter().zip(BOOKMARKS) {
            // Near enough that no other is nearer.
            b.presses("0");
            b.wheels((whole.x(bookmark.time as f64), y), -600.0);
            b.wheels((whole.x(bookmark.time as f64), y), -600.0);
            let field = Field::of(b);
            let place = (field.x(bookmark.time as f64), y);
            b.points_at(place);
            assert_eq!(b.evaluate(&format!("{tip}.hidden")), json!(false));
            let said = b.text(&format!("{tip}.textContent"));
            assert!(said.contains(name) && said.contains(&bookmark.position.to_string()), "{said}");
            assert_eq!(b.number(&format!("{tip}.querySelectorAll('b').length")), 0.0);
            b.clicks(place);
            let place = if name == "middle" { name.to_owned() } else { bookmark.position.to_string() };
            assert_eq!(command(b), format!("scribe-vmm replay a --to {place}"));
        }
        b.presses("Escape");
        assert_eq!(command(b), "");

        // The wheel keeps what is under the pointer.
        b.presses("0");
        let field = Field::of(b);
        assert_eq!((field.from, field.to), (whole.from, whole.to));
        let x = field.left + field.width * 0.25;
        b.wheels((x, y), -200.0);
        let closer = Field::of(b);
        assert!(closer.span() < 0.7 * field.span());
        assert!((closer.time(x) - field.time(x)).abs() < field.span() / 1000.0);
        b.presses("Backspace");
        assert_eq!(Field::of(b).span(), field.span());

        // A range that is dragged is what is shown then.
        let (from, to) = (field.left + 200.0, field.left + 500.0);
        b.drags((from, y + 100.0), (to, y + 100.0));
        let dragged = Field::of(b);
        for (now, then) in [(dragged.from, field.time(from)), (dragged.to, field.time(to))] {
            assert!((now - then).abs() < field.span() / 500.0, "{now} {then}");
        }

        // Keys.
        b.presses("+");
        let half = Field::of(b);
        assert!((half.span() / dragged.span() - 0.5).abs() < 0.01);
        b.presses("ArrowRight");
        let moved = Field::of(b);
        assert!(moved.from > half.from && (moved.span() - half.span()).abs() < 1.0);
        b.presses("0");
        b.presses("b");
        assert!(command(b).ends_with(&format!("--to {}", bookmarks[0].position)));
        b.presses("b");
        assert!(command(b).ends_with("--to middle"));

        // An input, by its position between two exits.
        let (y, _) = lane(b, "Inputs");
        b.presses("0");
        let field = Field::of(b);
        b.clicks((field.x(inputs[0].time as f64), y));
        assert_eq!(command(b), format!("scribe-vmm replay a --to {}", inputs[0].position));
        b.presses("c");
        let copied = "['Copied', 'Selected'].includes(document.getElementById('copy').textContent)";
        b.waits_for(copied);

        // The search finds a line, and its place.
        b.presses("/");
        b.call("Input.insertText", json!({ "text": "ONERROR" }));
        assert_eq!(b.text("document.getElementById('found').textContent"), "1");
        b.presses("Enter");
        b.waits_for("document.querySelector('#rows .pinned mark')");
        assert_eq!(b.text("document.querySelector('#rows .pinned mark').textContent"), "onerror");
        assert!(command(b).contains("--to exit:"), "{}", command(b));
        b.was_quiet();
    });
}

#[test]
fn a_browser_shows_the_dark_page_and_prints() {
    on_soft("a_browser_shows_the_dark_page_and_prints", || {
        let bench = recorded();
        let html = page(collected(&bench), Path::new("/tmp/<b>&amp;"), "scribe-vmm replay a").unwrap();
        let test = "a_browser_shows_the_dark_page_and_prints";
        let Some(mut browser) = open(&bench, &html, "dark", test) else { return };
        assert_eq!(browser.text("document.title"), "<b>&amp;: timeline");
        assert_eq!(browser.text("document.getElementById('name').textContent"), "<b>&amp;");
        let picture = seen(&mut browser, "dark");
        is_drawn(&mut browser, &picture);
        assert!(picture.pixel(2, 2).iter().all(|channel| *channel < 60), "dark");
        // Paper is light.
        browser.evaluate("dispatchEvent(new Event('beforeprint'))");
        let paper = Picture::decode(&browser.screenshot());
        assert!(paper.pixel(2, 2).iter().all(|channel| *channel > 200), "{:?}", paper.pixel(2, 2));
        is_drawn(&mut browser, &paper);
        browser.evaluate("dispatchEvent(new Event('afterprint'))");
        let dark = Picture::decode(&browser.screenshot());
        assert_eq!(dark.pixel(2, 2), picture.pixel(2, 2));
        let pdf = browser.call("Page.printToPDF", json!({ "landscape": true }));
        assert!(pdf["data"].as_str().unwrap().len() > 10_000);
        browser.was_quiet();
    });
}

#[test]
fn the_command_of_a_spot_replays_to_it() {
    let test = "the_command_of_a_spot_replays_to_it";
    let Some(lab) = Lab::on_soft(test) else { return };
    let script =
        "bookmark here; echo '</script>'; sleep 0.2; cat /boot/vmlinux >/dev/null; bookmark here; exit 3";
    lab.record("it's", &["--pace", "max", "--", "sh", "-c", script]);
    let made =
        lab.call(&["timeline", "it's", "-o", "page.html"]).finish().ends_with(0).says("wrote page.html");
    assert!(made.stdout.is_empty());
    let size = std::fs::metadata(lab.path("page.html")).unwrap().len();
    assert!(size < 200_000, "{size} bytes");
    let Some(mut browser) = Browser::start(test) else { return };
    let b = &mut browser;
    b.open(&lab.path("page.html"), SIZE, "light");
    let mut places = Vec::new();
    let mut run = |b: &mut Browser| {
        let shown = command(b);
        let place =
            shown.strip_prefix("scribe-vmm replay 'it'\\''s' --to ").unwrap_or_else(|| panic!("{shown}"));
        let place = place.to_owned();
        let said = lab.call(&["replay", "it's", "-q", "--digest", "--to", &place]).finish().ends_with(0);
        let (_, at) = said.stderr.split_once("digest at ").unwrap_or_else(|| panic!("{said}"));
        let at = at.split_once(':').map(|_| at.split(": ").next().unwrap().to_owned()).unwrap();
        if place.starts_with("exit:") {
            assert_eq!(at, place);
        }
        places.push((place, at));
    };
    for _ in 0..2 {
        b.presses("b");
        run(b);
    }
    // A spot of the disk's, in the middle of what it does.
    let (y, _) = lane(b, "Disk requests");
    let field = Field::of(b);
    for part in [0.02, 0.5, 0.99] {
        b.clicks((field.left + field.width * part, y));
        run(b);
    }
    b.was_quiet();
    assert_eq!((places[0].0.as_str(), places[1].0.as_str()), ("here", "here#2"), "{places:?}");
    figure("places of a picture replayed to", format!("{places:?}"));
}

#[test]
fn a_page_that_cannot_be_made_is_one_clear_line() {
    let Some(lab) = Lab::on_soft("a_page_that_cannot_be_made_is_one_clear_line") else { return };
    lab.record("a", &["--pace", "max", "--", "true"]);
    let call = |arguments: &[&str]| lab.call(&[&["timeline"], arguments].concat()).finish();
    call(&["none", "-o", "page.html"]).ends_with(4).says_one_line();
    call(&["a", "-o", "a"]).ends_with(1).says_one_line().says("a directory");
    call(&["a", "-o", "no/such/page.html"]).ends_with(1).says_one_line();
    call(&["a"]).ends_with(2).says("--output");
    let image = lab.path("image");
    std::fs::copy(scribe_tests::lab::image(), &image).unwrap();
    File::options().append(true).open(&image).unwrap().set_len(60 << 20).unwrap();
    call(&["a", "-o", "page.html", "--image", text(&image)]).ends_with(4).says_one_line();
    let left: Vec<_> =
        std::fs::read_dir(lab.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("timeline")), "{left:?}");
    call(&["a", "-o", "page.html", "--quiet"]).ends_with(0);
    assert!(lab.path("page.html").is_file());
}

#[test]
fn a_page_that_is_not_whole_says_so() {
    on_soft("a_page_that_is_not_whole_says_so", || {
        let bench = recorded();
        let html = page(collected(&bench), &bench.path("a"), "scribe-vmm replay a").unwrap();
        let (head, tail) = html.split_once("id=\"events\">").unwrap();
        let cut = format!("{head}id=\"events\">{}", &tail[200..]);
        let file = bench.file("page.html", cut.as_bytes());
        let Some(mut browser) = Browser::start("a_page_that_is_not_whole_says_so") else { return };
        browser.call("Page.navigate", json!({ "url": format!("file://{}", file.display()) }));
        browser.waits_for("document.documentElement?.dataset.state === 'failed'");
        assert!(browser.text("document.querySelector('.failed').textContent").contains("cannot be shown"));
    });
}

#[test]
fn a_million_exits_stay_small_and_quick() {
    on_soft("a_million_exits_stay_small_and_quick", || {
        const EXITS: u64 = 1_000_000;
        let bench = recorded();
        let header = collected(&bench).header;
        let (mut collector, seen) = Collector::new(Moment::default(), &BookmarkList::default());
        let mut random = 1u64;
        let mut time = 0;
        for exit in 1..=EXITS {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            time += 2000 + (random >> 40) % 5000;
            let at = Moment { position: Position::exit(exit), guest_time: time };
            let value = random >> 56;
            let (port, read) =
                [(0x3f8, false), (0x3fd, true), (0x20, false), (0x40, true)][(random >> 33) as usize % 4];
            if read {
                collector.exit(at, &Exit::PortRead { port, size: 1 }, Answer::Value(value));
            } else {
                collector.exit(at, &Exit::PortWrite { port, size: 1, value: value as u32 }, Answer::Done);
            }
            if exit % 16 == 0 {
                collector.interrupt(at, 0x30, Some(0));
                collector.console(at, format!("line {exit}\n").as_bytes());
                collector.idle(at, time + 1000);
                time += 1000;
            }
        }
        let timeline = Timeline {
            header,
            outcome: Outcome::SealedEnd(Position::exit(EXITS)),
            seen: seen.take(),
            named: Vec::new(),
        };
        let html = page(timeline, Path::new("large"), "scribe-vmm replay large").unwrap();
        assert!(html.len() < 8 << 20, "{} bytes", html.len());
        let test = "a_million_exits_stay_small_and_quick";
        let Some(mut browser) = open(&bench, &html, "light", test) else { return };
        let shown = browser.text("document.getElementById('figures').textContent");
        assert!(shown.contains("1\u{202f}000\u{202f}000"), "{shown}");
        let (y, _) = lane(&mut browser, "Serial port");
        let mut worst = 0.0;
        for step in 0..40 {
            let field = Field::of(&mut browser);
            browser.wheels((field.left + field.width * 0.4, y), -200.0);
            let took = browser.number("document.getElementById('chart').dataset.took");
            worst = f64::max(worst, took);
            assert!(took < 1000.0, "step {step}: {took} ms");
        }
        figure(
            "timeline of a million exits",
            format!("{} bytes, a frame takes at most {worst} ms", html.len()),
        );
        browser.was_quiet();
    });
}
