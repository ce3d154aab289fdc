//! Stack traces of the guest kernel, which has no frame pointers: from wherever it is to where it was entered or began.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests, also outside of test functions")]

use scribe_log::Position;
use scribe_log::header::Host;
use scribe_tests::lab::{Lab, figure};
use scribe_vmm::session::choice::Wish;
use scribe_vmm::session::config::Moved;
use scribe_vmm::session::console::Console;
use scribe_vmm::session::files::DigestCache;
use scribe_vmm::session::player::{Player, ReplayConfig, Stay};
use scribe_vmm::session::replay::Target;
use scribe_vmm::symbols::paging::Virtual;
use scribe_vmm::symbols::stack::{Frame, Mode, StackTrace, trace};
use scribe_vmm::symbols::{anchor, find};

/// Exits between two traces.
const STRIDE: u64 = 5;
/// Where a kernel's own ways begin, and where for a few instructions it has not noted yet who came.
const BEGINNINGS: [&str; 5] =
    ["startup_64", "start_kernel", "x86_64_start_", "ret_from_fork", "entry_SYSCALL_64"];

fn has_an_end(trace: &StackTrace) -> bool {
    match trace.frames.last() {
        Some(Frame::Entered { .. }) => true,
        Some(Frame::Code { symbol: Some(symbol), .. }) => BEGINNINGS.iter().any(|name| symbol.contains(name)),
        _ => false,
    }
}

#[test]
fn each_place_of_a_boot_has_a_way_that_is_certain() {
    let Some(lab) = Lab::on_soft("each_place_of_a_boot_has_a_way_that_is_certain") else { return };
    lab.record("a", &["--pace", "max", "--", "/bin/true"]);
    let directory = lab.path("a");
    let config = ReplayConfig {
        counter: Err("not in tests".into()),
        directory: &directory,
        moved: Moved::default(),
        engine: Wish::Soft,
        behaviour: None,
        quiet: true,
        perturb: None,
        snapshots: false,
    };
    let home = lab.path("");
    let mut player = Player::open(&config, &DigestCache::new(&home), &Host::default(), &home, None).unwrap();
    let found = find::find(player.header()).unwrap();
    assert!(found.certain && found.symbols.len() > 10_000, "{} symbols", found.symbols.len());
    let (mut traces, mut frames, mut kernels) = (0, 0, 0);
    let mut place = Position::exit(STRIDE);
    // Some exits, and places between them.
    while let Stay::Paused = player.run(Target::Position(place), &mut Console::quiet()).unwrap() {
        let state = player.machine().cpu_state().unwrap();
        let ram = player.machine().ram();
        let symbols = anchor::place(found.clone(), &state, &Virtual::new(&state, ram)).unwrap();
        let trace = trace(&state, ram, Some(&symbols));
        let lines: Vec<String> = trace.frames.iter().map(ToString::to_string).collect();
        if trace.mode == Mode::Kernel {
            assert!(!lines.iter().any(|line| line.starts_with('?')), "{place}: {lines:#?}");
            assert!(has_an_end(&trace) && !trace.cut, "{place}: {lines:#?}");
            kernels += 1;
        }
        traces += 1;
        frames += lines.len();
        let exit = place.exit + STRIDE;
        place =
            Position { exit, branches: if exit.is_multiple_of(2) { exit % 300 } else { 0 }, steps: exit % 7 };
    }
    assert!(kernels > 100, "{kernels} of {traces} in the kernel");
    figure("stack traces", format!("{traces} places of a boot, {frames} lines, none of them guessed"));
}
