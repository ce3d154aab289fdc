//! Guests that spin and make no exits, in user mode and in the kernel, on the soft engine: timer ticks come at the rate that
//! the guest asks for, and what is typed is let in and answered without delay. How long that takes is said, not asserted.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests, also outside of test functions")]

use scribe_log::{Body, EndCause, StopReason};
use scribe_tests::guests::{self, END_OF_INPUT};
use scribe_tests::lab::{KICKS, Lab, Outcome, count, figure, image, in_checkout, text};
use scribe_tests::latency::{Conversation, Ended, median, spread};
use scribe_tests::tiny;
use scribe_vmm::host::clock;

/// No host is so slow that this says nothing (ns).
const FAR_TOO_LONG: u64 = 3_000_000_000;

/// What a guest is asked and answers.
struct Guest {
    name: &'static str,
    /// what `record` is told of it
    arguments: Vec<String>,
    /// it says so before it is asked
    ready: &'static str,
    /// its timer ticks, a second of guest time
    hz: u64,
    /// input number N, and what the guest answers; `None`: nothing while it spins
    question: fn(usize) -> String,
    answer: Option<fn(usize) -> String>,
    /// the last of the input and the guest's status then; `None`: it is stopped by a signal
    end: Option<(&'static [u8], u8)>,
}

/// A line that a shell takes.
fn line(number: usize) -> String {
    format!("{number}\n")
}

fn got(number: usize) -> String {
    format!("got {number} ")
}

const SHELL: &str = "echo ready; while read -r x; do [ \"$x\" = end ] && exit 0; echo \"got $x \"; done";

/// Records the guest while it is asked `questions` things; gives how it ended, when each was asked, when answered.
fn talk(lab: &Lab, guest: &Guest, questions: usize) -> (Ended, Vec<u64>, Vec<u64>) {
    let mut arguments =
        vec!["record", "--engine", "soft", "--log-level", "2", "--rtc", "2026-01-01", "--seed", "5c"];
    arguments.extend(["-o", guest.name]);
    arguments.extend(guest.arguments.iter().map(String::as_str));
    let mut talk = Conversation::start(lab.call(&arguments).into_command());
    talk.hears(guest.ready.as_bytes(), 0);
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    for number in 0..questions {
        // Anywhere between two ticks.
        clock::sleep_ns(10_000_000 + number as u64 * 7_919_317 % 15_000_000);
        let from = talk.heard();
        asked.push(talk.says((guest.question)(number).as_bytes()));
        if let Some(answer) = guest.answer {
            answered.push(talk.hears(answer(number).as_bytes(), from));
        }
    }
    clock::sleep_ns(200_000_000);
    match guest.end {
        Some((bytes, _)) => drop(talk.says(bytes)),
        None => talk.signal("INT"),
    }
    let ended = talk.finish();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    (ended, asked, answered)
}

/// Ticks of the timer with their guest time, as `log` finds them: all that came between the first input and the last.
fn ticks(lab: &Lab, guest: &Guest, (from, to): (u64, u64)) -> Vec<(u64, String)> {
    let arguments =
        ["log", "--expand", "--level", "2", "--kind", "interrupt", "--format", "json", guest.name];
    let said = lab.call(&arguments).finish().ends_with(0);
    let event = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let time = event["time"].as_u64().unwrap();
        let tick = event["irq"] == 0 && (from..=to).contains(&time);
        tick.then(|| (time, event["position"].as_str().unwrap().to_owned()))
    };
    said.console().lines().filter_map(event).collect()
}

fn shows(guest: &Guest) {
    let Some(lab) = Lab::on_soft(guest.name) else { return };
    let questions = count("SCRIBE_TEST_QUESTIONS", 20);
    let (ended, asked, answered) = talk(&lab, guest, questions);
    let end = lab.end(guest.name);
    assert_eq!(
        end.cause,
        match guest.end {
            Some((_, status)) => EndCause::PowerOff { status },
            None => EndCause::Stopped { reason: StopReason::Signal },
        }
    );

    let admissions = ended.admissions();
    let window = (admissions.first().unwrap().guest, admissions.last().unwrap().guest);
    let ticks = ticks(&lab, guest, window);
    let (first, last) = (ticks.first().unwrap(), ticks.last().unwrap());
    let between = ticks.len() as u64 - 1;
    let rate = between * 1_000_000_000 * 100 / (last.0 - first.0);
    assert!((guest.hz * 99..=guest.hz * 101).contains(&rate), "{rate} hundredths: {ticks:?}");
    let inside = ticks.iter().filter(|(_, position)| position.contains('+')).count();
    figure(
        &format!("ticks, {}", guest.name),
        format!(
            "{} in {} ms of guest time: {}.{:02} a second of it ({} configured); {inside} between two exits, such as {}",
            ticks.len(),
            (last.0 - first.0) / 1_000_000,
            rate / 100,
            rate % 100,
            guest.hz,
            ticks.iter().map(|(_, position)| position).find(|position| position.contains('+')).unwrap()
        ),
    );

    let inputs: Vec<String> = lab
        .events(guest.name)
        .iter()
        .filter(|event| matches!(event.body, Body::ConsoleInput { .. }))
        .map(|event| event.position.to_string())
        .collect();
    let admitted: Vec<String> = admissions.iter().map(|admission| admission.position.clone()).collect();
    assert_eq!(inputs, admitted, "the log has other positions");
    let late: Vec<u64> =
        asked.iter().zip(&admissions).map(|(asked, at)| at.host.saturating_sub(*asked)).collect();
    let inside = inputs.iter().filter(|position| position.contains('+')).count();
    figure(
        &format!("input to admission, {}", guest.name),
        format!(
            "{} (2 ms wanted); {inside} inputs between two exits, such as {}",
            spread(&late),
            inputs.iter().find(|position| position.contains('+')).unwrap()
        ),
    );
    assert!(median(&late) < FAR_TOO_LONG, "{late:?}");
    if guest.answer.is_some() {
        let late: Vec<u64> = answered.iter().zip(&asked).map(|(heard, asked)| heard - asked).collect();
        figure(
            &format!("input to answer, {}", guest.name),
            format!("{}, the guest's own computing included (10 ms wanted beside it)", spread(&late)),
        );
        assert!(median(&late) < FAR_TOO_LONG, "{late:?}");
    }

    let replays = count("SCRIBE_TEST_SYNC_REPLAYS", 3);
    let recorded = Outcome::of(guest.name, ended.code, ended.stdout.clone(), ended.stderr.clone());
    for replay in 0..replays {
        lab.replays(guest.name, &recorded, if replay % 2 == 1 { &KICKS } else { &[] });
    }
    figure(
        &format!("replays, {}", guest.name),
        format!("{replays} of {replays} equal, half of them under kicks"),
    );
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn spinning_in_user_mode() {
    let script = format!("while :; do :; done & {SHELL}");
    let image = image();
    let arguments = words(&["--memory", "64M", "--image", text(&image), "--", "sh", "-c", &script]);
    let guest = Guest {
        name: "a user program that spins",
        arguments,
        ready: "ready",
        hz: 100,
        question: line,
        answer: Some(got),
        end: Some((b"end\n", 0)),
    };
    shows(&guest);
}

/// Debian's kernel and initramfs, with these arguments.
fn debian(append: &str, script: &str) -> Vec<String> {
    let path = |name: &str| text(&in_checkout("target/guest/debian").join(name)).to_owned();
    let (kernel, initrd) = (path("vmlinuz"), path("initrd.img"));
    words(&["--kernel", &kernel, "--initrd", &initrd, "--append", append, "--", "sh", "-c", script])
}

#[test]
#[ignore = "takes a minute: make show-sync, make soak-sync"]
fn spinning_in_user_mode_of_debians_kernel() {
    let script = format!("spin >/dev/null & {SHELL}");
    let guest = Guest {
        name: "a user program that spins, Debian's kernel",
        arguments: debian("quiet", &script),
        ready: "ready",
        hz: 250,
        question: line,
        answer: Some(got),
        end: Some((b"end\n", 0)),
    };
    shows(&guest);
}

#[test]
#[ignore = "takes a minute: make show-sync, make soak-sync"]
fn spinning_on_jiffies_in_a_kernel() {
    // For each line of the boot printk waits in a loop until jiffies has come so far (boot_delay); lpj says how often at
    // most, while there are no ticks yet. Nobody reads the console then.
    let guest = Guest {
        name: "Debian's kernel that spins on jiffies",
        arguments: debian("loglevel=7 boot_delay=9 lpj=300000", SHELL),
        ready: "smpboot: Total of 1 processors",
        hz: 250,
        question: line,
        answer: None,
        end: None,
    };
    shows(&guest);
}

#[test]
fn spinning_in_a_hand_made_kernel() {
    let Some(lab) = Lab::on_soft("spinning_in_a_hand_made_kernel") else { return };
    let kernel = lab.path("kernel");
    std::fs::write(&kernel, tiny::kernel(|a| guests::jiffies(a, 4773, 0))).unwrap();
    let guest = Guest {
        name: "a hand-made kernel that spins on its jiffies",
        arguments: words(&["--memory", "2M", "--kernel", text(&kernel)]),
        ready: "ready",
        hz: 250,
        question: letter,
        answer: Some(letter),
        end: Some((&[END_OF_INPUT], u8::try_from(count("SCRIBE_TEST_QUESTIONS", 20)).unwrap())),
    };
    shows(&guest);
}

/// A letter for each number, `a` again after `z`.
fn letter(number: usize) -> String {
    char::from(b'a' + u8::try_from(number % 26).unwrap()).to_string()
}
