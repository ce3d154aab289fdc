//! Places in a recording of a whole machine: the machine that is there is the same however one comes there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests, also outside of test functions")]

use scribe_log::Position;
use scribe_tests::bench;
use scribe_tests::lab::{Chance, Lab, Load, MEMORY, count, figure};
use scribe_tests::places::{Seen, Theatre, Way, places};
use scribe_vmm::session::console::Console;
use scribe_vmm::session::player::Stay;
use scribe_vmm::session::replay::{Outcome, Target};

const FROM_SNAPSHOTS: Way = Way { snapshots: true, perturb: None };
const FROM_THE_START: Way = Way { snapshots: false, perturb: None };

/// `way`, every other time under kicks.
fn at_times_kicked(way: Way, number: usize) -> Way {
    Way { perturb: (number % 2 == 1).then_some(bench::KICKS), ..way }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_place_is_the_same_however_one_comes_there() {
    const NAME: &str = "a_place_is_the_same_however_one_comes_there";
    let Some(lab) = Lab::on_soft(NAME) else { return };
    lab.record("demo", &["--pace", "max", "--snapshot-every", "300ms", "--", "/bin/demo"]).shows("demo: ok");
    let theatre = Theatre::new(&lab, "demo");
    let wanted = count("SCRIBE_TEST_PLACES", 12);
    lab.record("every-exit", &["--pace", "max", "--log-level", "3", "--", "/bin/demo"]);
    let (positions, times) =
        places(&mut Chance::new(NAME), &theatre.end(), &lab.events("every-exit"), wanted);
    // Whoever looks at many places in one run sees what whoever comes for one does, and the run goes on as if nobody had.
    let mut all = Vec::new();
    for targets in [&positions, &times] {
        let seen = theatre.see_all(targets, FROM_THE_START);
        all.extend(targets.iter().copied().zip(seen));
    }
    let (mut counted, mut restored) = (0, 0);
    let mut load: Vec<Load> = Vec::new();
    for (number, (target, expected)) in all.iter().enumerate() {
        // The last of them on processors that others want too.
        if number == all.len() * 4 / 5 {
            load.extend((0..count("SCRIBE_TEST_LOAD", 1)).map(|_| Load::start()));
        }
        let way = if number % 4 < 2 { FROM_SNAPSHOTS } else { FROM_THE_START };
        restored += usize::from(way.snapshots);
        let found = theatre.see(*target, at_times_kicked(way, number));
        assert!(found == *expected, "{target:?} {way:?}\nexpected {expected:x?}\nfound    {found:x?}");
        if let Seen::Paused(sight) = found {
            counted += usize::from(!sight.position.is_exit());
        }
    }
    assert!(counted > wanted / 4, "{counted}");
    figure(
        "places in the demo",
        format!(
            "{} ({} positions, {} guest times; {counted} between two exits), {restored} from snapshots, half under \
             kicks, a fifth beside programs that want the processors: digests of everything equal to those of one uninterrupted replay",
            all.len(),
            positions.len(),
            times.len()
        ),
    );
}

/// Continues from each snapshot of recording `name` to its end, where everything is compared; gives how many there are.
fn continue_from_each(lab: &Lab, name: &str) -> usize {
    let theatre = Theatre::new(lab, name);
    // Adds the automatic ones.
    assert_eq!(
        theatre.see(Target::End, Way { perturb: None, snapshots: true }),
        Seen::Ended(Outcome::Complete(theatre.end()))
    );
    let snapshots = theatre.snapshots();
    for (number, info) in snapshots.iter().enumerate() {
        let target = Target::Position(info.position);
        let mut player = theatre.player(Some(target), at_times_kicked(FROM_SNAPSHOTS, number));
        assert_eq!(player.machine().position(), info.position, "it does not start from the snapshot");
        let stay = player.run(Target::End, &mut Console::quiet()).unwrap();
        assert_eq!(stay, Stay::Ended(Outcome::Complete(theatre.end())), "from {}", info.position);
        assert!(player.checks() >= 2, "from {}: {} digests compared", info.position, player.checks());
    }
    snapshots.len()
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn each_snapshot_leads_to_the_end() {
    let Some(lab) = Lab::on_soft("each_snapshot_leads_to_the_end") else { return };
    let mut found = Vec::new();
    let levels = ["0", "3", "1"].into_iter().take(count("SCRIBE_TEST_LEVELS", 2));
    for level in levels {
        let digests = ["--digest-every", "8192", "--log-level", level];
        let guest = ["--pace", "max", "--snapshot-every", "800ms", "--", "/bin/demo"];
        lab.record(level, &[&digests[..], &guest].concat());
        found.push(continue_from_each(&lab, level));
    }
    assert!(found.iter().all(|count| *count >= 2), "{found:?}");
    figure(
        "snapshots of the demo",
        format!(
            "{found:?} at levels 0, 3 (and 1): from each the rest of the recording is replayed, all digests equal"
        ),
    );
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn exits_are_the_same_on_kvm_however_one_comes_there() {
    const NAME: &str = "exits_are_the_same_on_kvm_however_one_comes_there";
    let Some(lab) = Lab::enter(NAME) else { return };
    let guest = ["--pace", "max", "--snapshot-every", "1ms", "--", "sh", "-c", "forks && floats && entropy"];
    lab.record("kvm", &[&[MEMORY], &guest[..]].concat());
    let theatre = Theatre::new(&lab, "kvm");
    let end = theatre.end();
    let mut chance = Chance::new(NAME);
    let mut exits: Vec<u64> =
        (0..20).map(|_| chance.below(usize::try_from(end.exits).unwrap()) as u64).collect();
    exits.sort_unstable();
    let targets: Vec<Target> = exits.iter().map(|exit| Target::Position(Position::exit(*exit))).collect();
    let seen = theatre.see_all(&targets, FROM_THE_START);
    let mut differ = Vec::new();
    for (number, (target, expected)) in targets.iter().zip(&seen).enumerate() {
        let way = if number % 2 == 0 { FROM_SNAPSHOTS } else { FROM_THE_START };
        let way = at_times_kicked(way, number / 2);
        let found = theatre.see(*target, way);
        if found != *expected {
            differ.push(format!("{target:?} {way:?}\nexpected {expected:x?}\nfound    {found:x?}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    let snapshots = continue_from_each(&lab, "kvm");
    figure(
        "places on KVM",
        format!(
            "20 exits of {}, half from snapshots: digests equal; from each of {snapshots} snapshots on to the end",
            end.exits
        ),
    );
}
