//! Whole machines: every way in which a guest or its recording can end.

use scribe_log::{EndCause, State, StopReason};
use scribe_tests::lab::{KICKS, Lab, MEMORY, Outcome, image, in_checkout, text, wait_until};

/// Records a guest that ends with `code`, replays it under host kicks, and gives what recording it said.
fn ends(lab: &Lab, name: &str, guest: &[&str], code: i32) -> Outcome {
    let guest = [&[MEMORY, "--pace", "max"], guest].concat();
    let recorded = lab.recorder(name, &guest).finish().ends_with(code);
    lab.replays(name, &recorded, &KICKS);
    recorded
}

#[test]
fn a_panic_is_6() {
    let Some(lab) = Lab::anywhere("a_panic_is_6") else { return };
    ends(&lab, "panic", &["--", "/bin/panic"], 6).says("sysrq triggered crash");
    assert!(matches!(lab.end("panic").cause, EndCause::Panic { message } if message.contains("sysrq")));
    lab.call(&["info", "panic"]).finish().ends_with(0).shows("sysrq triggered crash");
}

#[test]
fn a_triple_fault_is_6_with_the_last_exits_registers() {
    let Some(lab) = Lab::anywhere("a_triple_fault_is_6_with_the_last_exits_registers") else { return };
    let guest = ["--append", "reboot=t", "--", "reboot", "-f"];
    let recorded =
        ends(&lab, "triple", &guest, 6).says("triple").says("registers at its last exit: ").says("rip=0x");
    let EndCause::TripleFault { rip, last_exit, .. } = lab.end("triple").cause else { panic!("{recorded}") };
    assert_eq!(rip, last_exit.rip);
    assert!(rip >= 0xffff_ffff_8000_0000, "{rip:#x} is not in the kernel");
}

#[test]
fn a_refused_instruction_is_5_with_its_bytes() {
    let Some(lab) = Lab::enter("a_refused_instruction_is_5_with_its_bytes") else { return };
    let recorded = ends(&lab, "refused", &["--", "/bin/refuse"], 5).says("66 0f 51");
    assert!(!recorded.console().contains("not refused"));
    let EndCause::RefusedInstruction { rip, bytes } = lab.end("refused").cause else { panic!("{recorded}") };
    assert!(bytes.starts_with(&[0x66, 0x0f, 0x51]), "{bytes:02x?} are not SQRTPD");
    recorded.says(&format!("rip {rip:#x}"));
}

#[test]
fn a_reset_ends_the_machine() {
    let Some(lab) = Lab::anywhere("a_reset_ends_the_machine") else { return };
    ends(&lab, "reset", &["--", "reboot", "-f"], 0).says("reset");
    assert_eq!(lab.end("reset").cause, EndCause::Reset);
}

#[test]
fn a_silent_guest_is_named_and_can_be_stopped() {
    let Some(lab) = Lab::enter("a_silent_guest_is_named_and_can_be_stopped") else { return };
    let call = lab.recorder("silent", &[MEMORY, "--pace", "max", "--", "/bin/spin"]).start();
    call.waits_for("silent from here on");
    call.waits_for_message("no exit for 2 s");
    call.signal("INT");
    let recorded = call.finish().ends_with(0).says("stopped by a signal");
    let end = lab.end("silent");
    assert_eq!(end.cause, EndCause::Stopped { reason: StopReason::Signal });
    lab.replays("silent", &recorded, &KICKS);

    let guest = [MEMORY, "--pace", "max", "--max-silence", "1s", "--", "/bin/spin"];
    let recorded = lab.record("limited", &guest).says("no exit for too long");
    assert_eq!(lab.end("limited").cause, EndCause::Stopped { reason: StopReason::Silence });
    assert_eq!(lab.end("limited").exits, end.exits, "it is the same guest");
    lab.replays("limited", &recorded, &KICKS);
}

#[test]
fn limits_of_time_end_a_run() {
    let Some(lab) = Lab::anywhere("limits_of_time_end_a_run") else { return };
    let forever = ["--", "sh", "-c", "while :; do echo on; sleep 0.1; done"];
    let guest = [&[MEMORY, "--pace", "max", "--guest-time", "1500ms"], &forever[..]].concat();
    let recorded = lab.record("guest", &guest).says("limit on guest time");
    let end = lab.end("guest");
    assert_eq!(end.cause, EndCause::Stopped { reason: StopReason::GuestTime });
    assert!((1_500_000_000..1_600_000_000).contains(&end.guest_time), "{} ns", end.guest_time);
    lab.replays("guest", &recorded, &KICKS);
    // The limit is a place in the guest's execution, so it repeats.
    lab.record("again", &guest);
    assert_eq!(lab.end("again"), end);

    let guest = [&[MEMORY, "--pace", "real", "--for", "8s"], &forever[..]].concat();
    let recorded = lab.record("host", &guest).says("limit on host time");
    assert_eq!(lab.end("host").cause, EndCause::Stopped { reason: StopReason::HostTime });
    lab.replays("host", &recorded, &KICKS);
}

#[test]
fn an_interrupted_recording_is_closed() {
    let Some(lab) = Lab::anywhere("an_interrupted_recording_is_closed") else { return };
    // Idle for good, and busy with exits.
    for (name, script) in
        [("idle", "echo rea''dy; sleep 100000"), ("busy", "echo rea''dy; cat /dev/zero | tr '\\0' x")]
    {
        let call = lab.recorder(name, &[MEMORY, "--pace", "real", "--", "sh", "-c", script]).start();
        call.waits_for("ready");
        call.signal("TERM");
        let recorded = call.finish().ends_with(0).says("stopped by a signal");
        assert_eq!(lab.recording(name).state(), State::Complete);
        lab.replays(name, &recorded, &KICKS);
    }
}

#[test]
fn a_killed_recording_replays_to_its_last_seal() {
    let Some(lab) = Lab::anywhere("a_killed_recording_replays_to_its_last_seal") else { return };
    let guest = [MEMORY, "--pace", "max", "--", "sh", "-c", "while :; do clock; done"];
    let call = lab.recorder("killed", &guest).start();
    call.waits_for("clock: ");
    // While it is being made: readable, locked against another recorder.
    lab.call(&["info", "killed"]).finish().ends_with(0).shows("being recorded");
    let second = lab.recorder("killed", &["--overwrite", MEMORY, "--", "true"]).finish().ends_with(1);
    second.says("being made");
    let sealed = || lab.recording("killed").sealed_end().is_some_and(|(at, _)| at.exit > 2000);
    assert!(wait_until(60, sealed), "nothing sealed");
    call.signal("KILL");
    let recorded = call.finish().ends_with(-1);
    assert_eq!(lab.recording("killed").state(), State::Crashed);
    lab.call(&["info", "killed"]).finish().ends_with(0).shows("crashed");
    lab.call(&["log", "killed"]).finish().ends_with(0);
    for options in [&[][..], &KICKS] {
        let replayed =
            lab.replay("killed", options).ends_with(0).says("not closed").says("last sealed position");
        // What was printed before the kill and after the last seal is not replayed.
        let common = recorded.stdout.len().min(replayed.stdout.len());
        assert_eq!(recorded.stdout[..common], replayed.stdout[..common]);
        assert!(replayed.console().contains("clock: "), "{replayed}");
    }
    // The rest of it is no obstacle to a new one.
    lab.record("killed", &["--overwrite", MEMORY, "--", "true"]);
    assert_eq!(lab.recording("killed").state(), State::Complete);
}

#[test]
fn status_with_and_without_return() {
    let Some(lab) = Lab::anywhere("status_with_and_without_return") else { return };
    let image = image();
    let run = |options: &[&str], command: &[&str]| {
        let arguments = ["run", MEMORY, "--image", text(&image), "--pace", "max"];
        lab.call(&[&arguments[..], options, &["--"], command].concat()).finish()
    };
    run(&[], &["sh", "-c", "exit 3"]).ends_with(0).says("status 3");
    run(&["--return"], &["sh", "-c", "exit 3"]).ends_with(3);
    run(&["--return"], &["sh", "-c", "kill -9 $$"]).ends_with(137);
    run(&["--return"], &["no-such-program"]).ends_with(127);
    run(&["--return"], &["/bin/panic"]).ends_with(130);
    run(&["--return", "--vcpus", "2"], &["true"]).ends_with(125);
}

#[test]
fn the_command_arrives_byte_for_byte() {
    let Some(lab) = Lab::anywhere("the_command_arrives_byte_for_byte") else { return };
    let odd = "a  b\t\"c\" '$d' \\e\n\u{1}\u{7f}\u{e9}*";
    let long = "x".repeat(60_000);
    let guest =
        [MEMORY, "--pace", "max", "--", "sh", "-c", "printf %s \"$1\" | od -An -tx1 -v; echo ${#2}", "sh"];
    let recorded = lab.record("words", &[&guest[..], &[odd, &long]].concat()).shows("60000");
    let hex: String = odd.bytes().map(|byte| format!("{byte:02x}")).collect();
    let seen: String = recorded.console().lines().take_while(|line| *line != "60000").collect();
    assert_eq!(seen.replace([' ', '\r'], ""), hex);
    lab.replays("words", &recorded, &KICKS);
    let too_long = "x".repeat(70_000);
    lab.recorder("long", &["--", "echo", &too_long]).finish().ends_with(1).says_one_line();
}

#[test]
fn a_bzimage_boots_and_a_kernel_without_the_note_is_5() {
    let Some(lab) = Lab::enter("a_bzimage_boots_and_a_kernel_without_the_note_is_5") else { return };
    let bzimage = in_checkout("target/guest/bzImage");
    let guest = ["--kernel", text(&bzimage), "--", "sh", "-c", "echo the kernel is up"];
    ends(&lab, "bzimage", &guest, 0).shows("the kernel is up");
    let debian = in_checkout("target/lab/kernel/vmlinuz");
    let refused =
        lab.recorder("debian", &["--engine", "kvm", "--kernel", text(&debian), "--", "true"]).finish();
    refused.ends_with(5).says_one_line().says("no ELF note");
    assert!(!lab.path("debian").exists(), "nothing was begun");
}
