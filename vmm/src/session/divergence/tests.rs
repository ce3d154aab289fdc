//! Verdicts, causes and texts.

use scribe_log::header::{Engine, Header, Host};
use scribe_log::{Position, Register};

use super::causes::{Here, differences, likely};
use super::guest::{Guest, Near};
use super::open::Open;
use super::verdict::{End, Pass, Seen, Verdict, judge};
use super::{Command, Divergence};
use crate::engine::cpu::Registers;
use crate::symbols::stack::{Frame, Mode, StackTrace};

fn seen(rolling: u64) -> Seen {
    Seen {
        found_at: Position::exit(2048),
        found: ("the rolling digest of exits and registers".into(), format!("{rolling:016x}")),
        rolling,
        full: None,
        registers: vec![Register { name: "rip".into(), bytes: 8, value: 0x1000 }],
        pages: vec![(1, 10), (2, 20)],
    }
}

fn differs(seen: Seen) -> End {
    End::Differs(Box::new(seen))
}

/// A pass from power-on, or from a snapshot at exit 1000.
fn pass(end: End, from_snapshot: bool) -> Pass {
    let from = if from_snapshot { Position::exit(1000) } else { Position::START };
    Pass { from, from_snapshot, end, trail: Vec::new() }
}

#[test]
fn replays_that_agree_speak_against_the_recording() {
    let one = || pass(differs(seen(1)), false);
    assert_eq!(judge(&one(), &[one(), one()]), Verdict::Recording { from: Position::START });
    let begun_later = pass(differs(seen(1)), true);
    assert_eq!(
        judge(&begun_later, &[begun_later.clone(), one()]),
        Verdict::Recording { from: Position::exit(1000) }
    );
    assert!(matches!(judge(&one(), &[]), Verdict::Unknown { .. }));
}

#[test]
fn replays_that_differ_are_unstable_and_say_where() {
    let mut others = [pass(differs(seen(2)), false), pass(differs(seen(1)), false)];
    let at = |exit, value| (Position::exit(exit), value);
    others[0].trail = vec![at(1025, 7), at(1026, 8), at(1027, 9)];
    others[1].trail = vec![at(1025, 7), at(1026, 5)];
    if let End::Differs(seen) = &mut others[0].end {
        seen.pages[1].1 = 21;
    }
    let Verdict::Unstable { passes, first_at, differs } = judge(&pass(End::Passed, false), &others) else {
        panic!()
    };
    assert_eq!(first_at, Some(Position::exit(1026)));
    let page = "the page at guest physical address 0x2000: its hash is 0000000000000015 in one replay, its hash is \
                0000000000000014 in another";
    assert_eq!(differs.as_deref(), Some(page));
    assert_eq!(passes[0], "no difference");
    assert!(passes[1].ends_with("differs at exit:2048: 0000000000000002"), "{passes:?}");
    // A register says more than a page.
    if let End::Differs(seen) = &mut others[0].end {
        seen.registers[0].value = 0x2000;
    }
    let Verdict::Unstable { differs, .. } = judge(&others[1], &others) else { panic!() };
    assert!(
        differs.unwrap().starts_with("register rip: 0x0000000000001000 in one replay, 0x0000000000002000")
    );
    // One of three is enough, and so is another way there.
    let alike = pass(differs_elsewhere(), false);
    assert!(matches!(judge(&alike, &[alike.clone(), pass(End::Passed, false)]), Verdict::Unstable { .. }));
}

fn differs_elsewhere() -> End {
    differs(Seen { found_at: Position::exit(3000), ..seen(1) })
}

#[test]
fn a_snapshot_is_to_blame_if_only_what_begins_with_one_differs() {
    let with = || pass(differs(seen(1)), true);
    let without = |end| pass(end, false);
    let expected = Verdict::Snapshot { at: Position::exit(1000), without: "no difference".into() };
    assert_eq!(judge(&with(), &[with(), without(End::Passed)]), expected);
    let Verdict::Snapshot { without: text, .. } = judge(&with(), &[with(), without(differs_elsewhere())])
    else {
        panic!()
    };
    assert!(text.contains("exit:3000"), "{text}");
    let unstable = judge(&with(), &[pass(differs(seen(2)), true), without(End::Passed)]);
    assert!(matches!(unstable, Verdict::Unstable { .. }), "{unstable:?}");
    let unstable = judge(&without(differs(seen(1))), &[with(), with(), without(End::Passed)]);
    assert!(matches!(unstable, Verdict::Unstable { .. }), "{unstable:?}");
}

fn header(engine: Engine) -> Header {
    Header { program: "0.1.0".into(), engine, host: host("zen", "1"), ..crate::session::tests::header() }
}

fn host(cpu: &str, microcode: &str) -> Host {
    Host {
        cpu_model: cpu.into(),
        microcode: microcode.into(),
        kernel_release: "6.12".into(),
        kvm_module: "kvm_amd".into(),
    }
}

fn divergence(verdict: Option<Verdict>) -> Divergence {
    Divergence {
        agreed: Position::exit(1024),
        last_exit: None,
        found_at: Position::exit(2048),
        what: "register rbx".into(),
        expected: "0x0000000000000003".into(),
        found: "0x0000000000000099".into(),
        verdict,
        differences: Vec::new(),
        causes: Vec::new(),
        guest: None,
        events: vec!["exit:1024 checkpoint".into(), "exit:1500 input 2 bytes: \"l\\n\"".into()],
        exits: vec!["exit:2047 in8 0x3fd -> 0x60".into(), "exit:2048 out8 0x3f8 <- 0x61".into()],
        commands: vec![Command {
            command: "scribe-vmm replay demo --to exit:1024".into(),
            purpose: "stops where both were last equal".into(),
        }],
    }
}

fn guest(near: &[(Open, &str, &'static str)]) -> Guest {
    let code = |address, symbol: &str, certain| Frame::Code { address, symbol: Some(symbol.into()), certain };
    let frames = vec![
        code(0xffff_ffff_8130_1234, "io_serial_out+0x14/0x20", true),
        code(0xffff_ffff_813f_bf83, "default_idle+0x13/0x20", false),
        Frame::Interrupted,
        Frame::Code { address: 0xffff_ffff_8105_ce60, symbol: None, certain: true },
        Frame::Entered { rip: 0x40_1000, rsp: 0x7ffe_0000_1000 },
    ];
    let rip = 0xffff_ffff_8130_1234;
    Guest {
        registers: Registers { rip, rflags: 0x46, general: std::array::from_fn(|n| n as u64) },
        trace: StackTrace { mode: Mode::Kernel, rip, rsp: 4, frames, cut: false },
        symbols: Some("/boot/vmlinux".into()),
        no_symbols: None,
        near: (near.iter())
            .map(|(open, instruction, says)| Near {
                open: *open,
                instruction: (*instruction).into(),
                at: "fls+0x4".into(),
                says,
            })
            .collect(),
    }
}

/// The causes in order.
fn causes(divergence: &mut Divergence, header: &Header, here: &Here<'_>) -> Vec<String> {
    divergence.differences = differences(header, here);
    divergence.causes = likely(divergence, header, here);
    divergence.causes.iter().map(|cause| cause.cause.clone()).collect()
}

const RECORDING: Verdict = Verdict::Recording { from: Position::START };

fn unstable() -> Verdict {
    Verdict::Unstable { passes: vec!["no difference".into(); 3], first_at: None, differs: None }
}

#[test]
fn causes_come_in_the_order_of_what_speaks_for_them() {
    let same = host("zen", "1");
    let soft = Here { engine: Engine::Soft, behaviour: None, host: &same, program: "0.1.0", changed: &[] };
    let kvm = Here { engine: Engine::Kvm, ..soft };
    let bug = "a bug in scribe-vmm";
    let changed = "the recording was changed after it was made, or made by another program";
    let found = causes(&mut divergence(Some(RECORDING)), &header(Engine::Soft), &soft);
    assert_eq!(found, [changed, bug]);

    let files = ["/images/demo.img".to_owned()];
    let here = Here { changed: &files, program: "0.2.0", ..soft };
    let found = causes(&mut divergence(Some(RECORDING)), &header(Engine::Soft), &here);
    let image = "/images/demo.img is not what was recorded any more";
    assert_eq!(found, [image, "another version of scribe-vmm", changed, bug]);

    let mut on_other = divergence(Some(RECORDING));
    on_other.guest = Some(guest(&[(Open::Value, "bsf eax, ecx", "the result for 0, and flags")]));
    let here = Here { behaviour: Some("zen"), ..soft };
    let found = causes(&mut on_other, &header(Engine::Kvm), &here);
    let noise_then = "the guest read the host's clock or noise when it was recorded";
    assert_eq!(found, ["a result that the manuals leave open", "another engine", noise_then, changed, bug]);
    let because = &on_other.causes[0].because;
    assert!(
        because.starts_with(
            "recorded on kvm, replayed on soft; near the place there is `bsf eax, ecx` at fls+0x4"
        )
    );

    // An open result is no cause where everything is the same.
    let found = causes(&mut on_other, &header(Engine::Kvm), &kvm);
    assert_eq!(found, [changed, bug]);

    let other = host("milan", "2");
    let found = causes(&mut on_other, &header(Engine::Kvm), &Here { host: &other, ..kvm });
    assert_eq!(found, ["a result that the manuals leave open", "another host", changed, bug]);

    let found = causes(&mut divergence(Some(unstable())), &header(Engine::Soft), &soft);
    assert_eq!(found, ["this host computes wrongly: its memory or its processor", bug]);
    let mut on_kvm = divergence(Some(unstable()));
    on_kvm.guest = Some(guest(&[(Open::Noise, "rdrand eax", "random numbers of the host")]));
    let found = causes(&mut on_kvm, &header(Engine::Kvm), &kvm);
    assert_eq!(found[0], "the guest reads the host's clock or noise");
    assert!(on_kvm.causes[0].because.contains("`rdrand eax` at fls+0x4 (random numbers of the host)"));

    let snapshot = Verdict::Snapshot { at: Position::exit(1000), without: "no difference".into() };
    let found = causes(&mut divergence(Some(snapshot)), &header(Engine::Soft), &soft);
    assert_eq!(found[0], "the snapshot at exit:1000 is not what the recording is there");
    let found = causes(&mut divergence(None), &header(Engine::Soft), &soft);
    assert_eq!(found, ["the recording was changed after it was made", bug]);
}

#[test]
fn a_recording_that_is_wrong_reads_like_this() {
    let other = host("milan", "2");
    let here =
        Here { engine: Engine::Soft, behaviour: Some("zen"), host: &other, program: "0.1.0", changed: &[] };
    let mut divergence = divergence(Some(RECORDING));
    divergence.guest = Some(guest(&[(Open::Value, "bsf eax, ecx", "the result for 0, and flags")]));
    causes(&mut divergence, &header(Engine::Kvm), &here);
    insta::assert_snapshot!(divergence);
}

#[test]
fn an_unstable_replay_reads_like_this() {
    let same = host("zen", "1");
    let here = Here { engine: Engine::Kvm, behaviour: None, host: &same, program: "0.1.0", changed: &[] };
    let verdict = Verdict::Unstable {
        passes: vec![
            "the rolling digest of exits and registers differs at exit:2048: 0000000000000001".into(),
            "the rolling digest of exits and registers differs at exit:2048: 0000000000000002".into(),
            "no difference".into(),
        ],
        first_at: Some(Position::exit(1026)),
        differs: Some("register rax: 0x01 in one replay, 0x02 in another".into()),
    };
    let mut divergence = divergence(Some(verdict));
    causes(&mut divergence, &header(Engine::Kvm), &here);
    divergence.last_exit = Some(Position::exit(1500));
    divergence.events.push(format!("exit:2048 state {}", "rip ffffffff8101703c ".repeat(20)));
    insta::assert_snapshot!(divergence);
}

#[test]
fn nothing_of_a_guest_reaches_the_terminal_as_it_is() {
    let mut divergence = divergence(None);
    divergence.found = "\x1b[2J\u{9b}".into();
    divergence.events.push("bookmark \x07".into());
    let text = divergence.to_string();
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
}

#[test]
fn scripts_get_all_of_it() {
    let mut divergence = divergence(Some(unstable()));
    divergence.guest = Some(guest(&[]));
    let json = serde_json::to_value(&divergence).unwrap();
    assert_eq!(json["agreed"], "exit:1024");
    assert_eq!(
        (&json["recorded"], &json["replayed"]),
        (&"0x0000000000000003".into(), &"0x0000000000000099".into())
    );
    assert_eq!(
        (&json["verdict"]["is"], &json["verdict"]["first_at"]),
        (&"unstable".into(), &serde_json::Value::Null)
    );
    assert_eq!(json["guest"]["trace"]["frames"][0]["symbol"], "io_serial_out+0x14/0x20");
    assert_eq!(json["guest"]["registers"]["rbx"], "0x3");
    assert_eq!(json["commands"][0]["command"], "scribe-vmm replay demo --to exit:1024");
}
