//! How a guest ends, recorded and replayed: tiny guests on each engine, through the library.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use iced_x86::code_asm::*;
use scribe_log::header::Pace;
use scribe_log::{Body, EndCause, Position, StopReason};
use scribe_tests::bench::{Bench, KICKS, Recorded};
use scribe_tests::guests;
use scribe_tests::tiny::{self, CODE, Emitted, PIC_VECTORS, kvm};
use scribe_tests::vcpu::emulates_kernels;
use scribe_vmm::session::replay::Outcome;
use scribe_vmm::session::start::Connections;

/// Records a guest, replays it with and without kicks, and gives how it ended.
fn ends(bench: &Bench, emit: impl FnOnce(&mut CodeAssembler) -> Emitted) -> Recorded {
    let guest = bench.guest(emit);
    let recorded = bench.record("a", &guest, Connections::none());
    bench.replay_equal("a", &recorded, 4);
    recorded
}

fn switched_off_with_a_status() {
    let recorded = ends(&Bench::new(), |a| tiny::power_off(a, 42));
    assert_eq!(recorded.report.cause, EndCause::PowerOff { status: 42 });
    assert_eq!((recorded.report.exits, recorded.report.guest_time), (2, 4000));
    let recorded = ends(&Bench::new(), |a| tiny::ask(a, 0x18, 5));
    assert_eq!(recorded.report.cause, EndCause::PowerOff { status: 0 });
}

fn reset_by_the_keyboard_controller() {
    let recorded = ends(&Bench::new(), |a| {
        tiny::print(a, "bye")?;
        tiny::out8(a, 0x64, 0xfe)
    });
    assert_eq!(recorded.report.cause, EndCause::Reset);
    assert_eq!(recorded.output, b"bye");
}

fn a_triple_fault_is_reached_again() {
    let recorded = ends(&Bench::new(), |a| {
        a.mov(ebx, 0x1234)?;
        tiny::print(a, "x")?;
        tiny::spin(a, 100)?;
        a.ud2()
    });
    let EndCause::TripleFault { last_exit, .. } = &recorded.report.cause else {
        panic!("{:?}", recorded.report.cause)
    };
    assert_eq!((last_exit.rbx, last_exit.rdx), (0x1234, 0x3f8));
    let end = recorded.report.recorded.unwrap().end;
    assert_eq!((end.exits, end.full), (1, None), "the state behind the last exit is gone on some hosts");
}

/// HLT with TF: the trap behind it wakes the processor, and no interrupt is needed.
fn a_traced_halt_goes_on_to_its_handler() {
    let recorded = ends(&Bench::new(), |a| {
        let mut handler = a.create_label();
        tiny::gate(a, 1, handler)?;
        tiny::load_idt(a)?;
        a.pushfq()?;
        a.or(qword_ptr(rsp), 0x100)?;
        a.popfq()?;
        a.hlt()?;
        tiny::power_off(a, 1)?;
        a.set_label(&mut handler)?;
        tiny::power_off(a, 7)
    });
    assert_eq!(recorded.report.cause, EndCause::PowerOff { status: 7 });
}

#[test]
fn a_refused_instruction_is_named() {
    const NAME: &str = "a_refused_instruction_is_named";
    if !kvm(NAME) {
        return;
    }
    if !emulates_kernels() {
        return tiny::skip(NAME, "KVM runs POPCNT; see tiny_state for what it refuses");
    }
    let recorded = ends(&Bench::new(), |a| a.popcnt(rax, rbx));
    let EndCause::RefusedInstruction { rip, bytes } = &recorded.report.cause else {
        panic!("{:?}", recorded.report.cause)
    };
    assert_eq!(*rip, CODE);
    assert!(bytes.starts_with(&[0xf3, 0x48, 0x0f, 0xb8, 0xc3]), "{bytes:02x?}");
    assert!(recorded.report.fault_detail.is_some());
}

fn halted_for_ever() {
    // With interrupts off, though a timer is running.
    let recorded = ends(&Bench::new(), |a| {
        tiny::pic(a, &[0])?;
        tiny::pit_periodic(a, guests::TEN_MS)?;
        a.hlt()
    });
    assert_eq!(recorded.report.cause, EndCause::HaltedForever);
    // With interrupts on, and nothing that could raise one: one tick has passed.
    let recorded = ends(&Bench::new(), |a| {
        let (mut again, mut tick) = (a.create_label(), a.create_label());
        tiny::gate(a, PIC_VECTORS, tick)?;
        tiny::load_idt(a)?;
        tiny::pic(a, &[0])?;
        tiny::pit_once(a, guests::TEN_MS)?;
        a.sti()?;
        a.set_label(&mut again)?;
        a.hlt()?;
        a.jmp(again)?;
        a.set_label(&mut tick)?;
        tiny::print(a, "tick")?;
        tiny::end_of_interrupt(a)?;
        a.iretq()
    });
    assert_eq!(recorded.report.cause, EndCause::HaltedForever);
    assert_eq!(recorded.output, b"tick");
    assert!(recorded.report.guest_time > 10_000_000);
}

fn a_panic_with_its_text_and_bookmarks_on_the_way() {
    let bench = Bench::new();
    let recorded = ends(&bench, |a| {
        tiny::message(a, "first")?;
        tiny::ask(a, 0x28, 0)?;
        tiny::print(a, "between")?;
        tiny::message(a, "second\n")?;
        tiny::ask(a, 0x28, 0)?;
        tiny::message(a, "out of luck")?;
        tiny::ask(a, 0x2c, 0)
    });
    assert_eq!(recorded.report.cause, EndCause::Panic { message: "out of luck".into() });
    let bookmarks: Vec<_> = bench
        .events("a")
        .into_iter()
        .filter_map(|event| match event.body {
            Body::Bookmark { name } => Some((event.position, name)),
            _ => None,
        })
        .collect();
    let expected =
        [(Position::exit(6), "first".to_owned()), (Position::exit(21), "second\u{fffd}".to_owned())];
    assert_eq!(bookmarks, expected);
}

fn a_limit_on_guest_time_is_exact() {
    let bench = Bench::new();
    let guest = bench.guest(|a| guests::ticks(a, 100));
    for limit in [1, 2_000, 5_000_000, 29_000_000, 39_000_000] {
        let name = format!("at-{limit}");
        let connections = Connections { guest_limit: Some(limit), ..Connections::none() };
        let recorded = bench.record(&name, &guest, connections);
        assert_eq!(recorded.report.cause, EndCause::Stopped { reason: StopReason::GuestTime });
        assert!(recorded.report.guest_time >= limit);
        if limit > 2_000 {
            assert_eq!(recorded.report.guest_time, limit, "it idles then");
        }
        bench.replay_equal(&name, &recorded, 2);
    }
    // Around a tick, and at its very moment.
    for limit in ticks_of(&bench).into_iter().flat_map(|tick| [tick - 1, tick, tick + 1, tick + 2_000]) {
        let name = format!("around-{limit}");
        let connections = Connections { guest_limit: Some(limit), ..Connections::none() };
        let recorded = bench.record(&name, &guest, connections);
        assert_eq!(recorded.report.cause, EndCause::Stopped { reason: StopReason::GuestTime });
        bench.replay_equal(&name, &recorded, 2);
    }
}

/// Guest times of the first three ticks of [`guests::ticks`].
fn ticks_of(bench: &Bench) -> Vec<u64> {
    // The least limit with which the guest makes more exits than with one long before the tick.
    let guest = bench.guest(|a| guests::ticks(a, 100));
    let exits = |limit: u64| {
        let name = format!("search-{limit}");
        let connections = Connections { guest_limit: Some(limit), ..Connections::none() };
        bench.record(&name, &guest, connections).report.exits
    };
    (1..=3)
        .map(|number| {
            let about = number * 10_000_150;
            let (mut before, mut after) = (about - 100_000, about + 200_000);
            let idle = exits(before);
            assert!(exits(after) > idle);
            while after - before > 1 {
                let middle = before.midpoint(after);
                if exits(middle) > idle { after = middle } else { before = middle }
            }
            after
        })
        .collect()
}

fn a_spinning_guest_is_stopped_and_replays_to_its_last_position() {
    for (name, silence) in [("host-time", false), ("silence", true)] {
        let bench = Bench::new();
        let guest = bench.guest(|a| {
            let mut forever = a.create_label();
            tiny::print(a, "so far")?;
            a.set_label(&mut forever)?;
            a.inc(rbx)?;
            a.jmp(forever)
        });
        let limit = Some(1_000_000_000);
        let (host_limit, max_silence) = if silence { (None, limit) } else { (limit, None) };
        let connections =
            Connections { host_limit, max_silence, perturb: Some(KICKS), ..Connections::none() };
        let recorded = bench.record(name, &guest, connections);
        let reason = if silence { StopReason::Silence } else { StopReason::HostTime };
        assert_eq!(recorded.report.cause, EndCause::Stopped { reason });
        assert_eq!((recorded.report.exits, &recorded.output[..]), (6, &b"so far"[..]));
        bench.replay_equal(name, &recorded, 2);
    }
}

fn a_guest_that_idles_at_the_hosts_pace_is_stopped_there() {
    let bench = Bench::new();
    let mut guest = bench.guest(|a| guests::ticks(a, u32::MAX));
    guest.pace = Pace::Real;
    let connections = Connections { host_limit: Some(300_000_000), ..Connections::none() };
    let recorded = bench.record("a", &guest, connections);
    assert_eq!(recorded.report.cause, EndCause::Stopped { reason: StopReason::HostTime });
    let time = recorded.report.guest_time;
    assert!(time < 300_000_000_000, "{time} ns of guest time: it ran ahead of the host");
    bench.replay_equal("a", &recorded, 4);
}

fn a_busy_guest_is_stopped_at_a_sync_point() {
    let bench = Bench::new();
    let guest = bench.guest(guests::busy_echo);
    let connections = Connections { host_limit: Some(300_000_000), ..Connections::none() };
    let recorded = bench.record("a", &guest, connections);
    assert_eq!(recorded.report.cause, EndCause::Stopped { reason: StopReason::HostTime });
    let end = recorded.report.recorded.as_ref().unwrap().end.clone();
    assert!(end.full.is_some(), "{end:?}");
    bench.replay_equal("a", &recorded, 2);
    let replayed = bench.replay("a", None).unwrap();
    assert_eq!(replayed.report.outcome, Outcome::Complete(end));
}

scribe_tests::each_engine!(
    switched_off_with_a_status,
    reset_by_the_keyboard_controller,
    a_triple_fault_is_reached_again,
    halted_for_ever,
    a_panic_with_its_text_and_bookmarks_on_the_way,
    a_limit_on_guest_time_is_exact,
    a_spinning_guest_is_stopped_and_replays_to_its_last_position,
    a_guest_that_idles_at_the_hosts_pace_is_stopped_there,
    a_busy_guest_is_stopped_at_a_sync_point,
);

scribe_tests::each_engine!(
    counted:
    a_traced_halt_goes_on_to_its_handler,
    switched_off_with_a_status,
    reset_by_the_keyboard_controller,
    a_triple_fault_is_reached_again,
    halted_for_ever,
    a_panic_with_its_text_and_bookmarks_on_the_way,
    a_limit_on_guest_time_is_exact,
    a_spinning_guest_is_stopped_and_replays_to_its_last_position,
    a_guest_that_idles_at_the_hosts_pace_is_stopped_there,
    a_busy_guest_is_stopped_at_a_sync_point,
);
