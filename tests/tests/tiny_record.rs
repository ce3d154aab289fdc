//! Record, replay, compare: tiny guests on each engine, through the library.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs::File;

use iced_x86::code_asm::*;
use scribe_log::{Body, EndCause};
use scribe_tests::bench::{Bench, KICKS};
use scribe_tests::guests::{self, END_OF_INPUT, TEN_MS, TICKS_STATUS};
use scribe_tests::tiny::{self, DATA, PIC_VECTORS, PIT_HZ};
use scribe_tests::vcpu::emulates_kernels;
use scribe_vmm::machine::platform::{GUEST_INTERFACE_PORT, UART_PORT};
use scribe_vmm::session::config::{ConfigError, Moved};
use scribe_vmm::session::start::{Connections, StartError};

fn ticks_are_replayed_twenty_times_under_kicks() {
    let bench = Bench::new();
    let mut guest = bench.guest(|a| guests::ticks(a, 300));
    guest.digest_every = 64;
    let first = bench.record("a", &guest, Connections::none());
    assert_eq!(first.report.cause, EndCause::PowerOff { status: TICKS_STATUS });
    assert_eq!(String::from_utf8_lossy(&first.output), ".........done\n");
    assert!(first.report.guest_time >= 300 * 9_900_000, "{} ns", first.report.guest_time);

    let kicked = Connections { perturb: Some(KICKS), ..Connections::none() };
    let second = bench.record("b", &guest, kicked);
    assert_eq!(second.output, first.output);
    assert!(bench.bytes("a") == bench.bytes("b"), "the same guest, another recording");

    let full = bench.events("a").iter().filter(|event| is_full_checkpoint(&event.body)).count();
    assert!(full >= 8, "{full} digests of RAM on the way");
    let kicks = bench.replay_equal("a", &first, 20);
    assert!(kicks > 0, "none was kicked");
    let once = bench.replay("b", None).unwrap();
    assert!(once.report.checks > full as u64, "{} comparisons", once.report.checks);
}

fn is_full_checkpoint(body: &Body) -> bool {
    matches!(body, Body::Checkpoint { full: Some(_), .. })
}

fn interrupts_that_wait_for_a_window_are_replayed() {
    const NAME: &str = "interrupts_that_wait_for_a_window_are_replayed";
    if emulates_kernels() {
        return tiny::skip(NAME, "windows of a KVM that emulates CPL 0 are not exact");
    }
    let bench = Bench::new();
    // Its timer is due many times while interrupts are off, and it computes where they are on.
    let guest = bench.guest(|a| {
        let (mut again, mut busy, mut tick) = (a.create_label(), a.create_label(), a.create_label());
        tiny::gate(a, PIC_VECTORS, tick)?;
        tiny::load_idt(a)?;
        tiny::pic(a, &[0])?;
        tiny::pit_periodic(a, 60)?; // 50 us
        a.mov(r12d, 0)?;
        a.mov(rsi, DATA)?;
        a.set_label(&mut again)?;
        a.cli()?;
        a.mov(ebp, 30)?;
        a.set_label(&mut busy)?;
        a.in_(al, 0x61)?;
        a.dec(ebp)?;
        a.jnz(busy)?;
        a.sti()?;
        a.inc(r8)?;
        a.inc(r9)?;
        tiny::spin(a, 50)?;
        a.cmp(r12d, 200)?;
        a.jb(again)?;
        tiny::power_off(a, 0)?;
        a.set_label(&mut tick)?;
        a.inc(r12d)?;
        a.mov(rdi, qword_ptr(rsp))?;
        a.mov(qword_ptr(rsi + r12 * 8), rdi)?; // where it was interrupted
        tiny::end_of_interrupt(a)?;
        a.iretq()
    });
    let recorded = bench.record("a", &guest, Connections::none());
    assert_eq!(recorded.report.cause, EndCause::PowerOff { status: 0 });
    bench.replay_equal("a", &recorded, 10);
}

fn an_input_file_is_echoed_and_repeats() {
    let bench = Bench::new();
    let text: Vec<u8> = (0..40_u8).map(|n| b' ' + n * 2).collect();
    let input = bench.file("input", &[&text[..], &[END_OF_INPUT], b"never read"].concat());
    let connections = || Connections { input: Some(File::open(&input).unwrap()), ..Connections::none() };
    for (name, busy) in [("idle", false), ("busy", true)] {
        let guest = bench.guest(|a| if busy { guests::busy_echo(a) } else { guests::echo(a) });
        let first = bench.record(name, &guest, connections());
        assert_eq!(first.report.cause, EndCause::PowerOff { status: 40 });
        assert!(first.output == [b"ready\n", &text[..]].concat(), "{name}");
        let again = format!("{name}-again");
        let kicked = Connections { perturb: Some(KICKS), ..connections() };
        bench.record(&again, &guest, kicked);
        assert!(bench.bytes(name) == bench.bytes(&again), "{name}");
        bench.replay_equal(name, &first, 4);
    }
}

fn a_long_input_file_is_offered_in_parts() {
    let bench = Bench::new();
    let text: Vec<u8> = (0..4200_u32).map(|n| b'0' + (n % 71).to_le_bytes()[0]).collect();
    let input = bench.file("input", &[&text[..], &[END_OF_INPUT]].concat());
    let guest = bench.guest(guests::echo);
    let connections = Connections { input: Some(File::open(&input).unwrap()), ..Connections::none() };
    let recorded = bench.record("a", &guest, connections);
    assert!(recorded.output == [b"ready\n", &text[..]].concat());
    assert_eq!(recorded.report.recorded.as_ref().unwrap().end.inputs, 2);
    bench.replay_equal("a", &recorded, 1);
}

fn running_without_recording_is_the_same_run() {
    let bench = Bench::new();
    let guest = bench.guest(|a| guests::ticks(a, 40));
    let recorded = bench.record("a", &guest, Connections::none());
    let run = bench.run(&guest, Connections { perturb: Some(KICKS), ..Connections::none() });
    assert!(run.report.recorded.is_none());
    assert_eq!((run.report.cause, &run.output), (recorded.report.cause, &recorded.output));
    assert_eq!(run.report.exits, recorded.report.exits);
    assert_eq!(run.report.guest_time, recorded.report.guest_time);
}

fn another_seed_clock_or_command_is_another_recording() {
    let bench = Bench::new();
    // Looks at all three.
    let guest = bench.guest(|a| {
        a.mov(ebx, dword_ptr(rsi + 0x250))?; // setup_data
        a.mov(rbx, qword_ptr(rbx + 16))?;
        for register in [0, 2, 4, 7, 8, 9] {
            tiny::out8(a, 0x70, register)?;
            a.in_(al, 0x71)?;
        }
        tiny::ask(a, 0x24, 1)?;
        for _ in 0..3 {
            a.mov(edx, u32::from(GUEST_INTERFACE_PORT) + 0x20)?;
            a.in_(eax, dx)?;
        }
        tiny::power_off(a, 0)
    });
    let mut seed = guest.clone();
    seed.seed[3] ^= 1;
    let mut rtc = guest.clone();
    rtc.rtc += 1;
    let mut command = guest.clone();
    command.command = vec![b"/bin/\xff".to_vec(), b"".to_vec()];
    let rolling = |name: &str, guest| {
        let recorded = bench.record(name, guest, Connections::none());
        bench.replay_equal(name, &recorded, 1);
        recorded.report.recorded.unwrap().end.registers
    };
    let mut all = [
        rolling("plain", &guest),
        rolling("seed", &seed),
        rolling("rtc", &rtc),
        rolling("command", &command),
    ];
    assert_eq!(rolling("again", &guest), all[0]);
    assert!(bench.bytes("plain") == bench.bytes("again"));
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:x?}");
}

fn a_changed_kernel_or_image_is_refused() {
    let bench = Bench::new();
    let mut guest = bench.guest(|a| tiny::power_off(a, 0));
    let image = bench.file("image", &[0; 65_536]);
    guest.image = Some(image.clone());
    let kernel = guest.kernel.clone().unwrap();
    let recorded = bench.record("a", &guest, Connections::none());
    bench.replay_equal("a", &recorded, 2);

    let moved_image = bench.file("moved-image", &[0; 65_536]);
    let moved_kernel = bench.file("moved-kernel", &std::fs::read(&kernel).unwrap());
    let other_size = bench.file("other-size", &[0; 66_048]);
    let mut bytes = vec![0; 65_536];
    bytes[40_000] = 1;
    let other_bytes = bench.file("other-bytes", &bytes);
    let other_kernel = bench.file("other-kernel", &tiny::kernel(|a| tiny::power_off(a, 1)));
    let replay = |image: &std::path::Path, kernel: &std::path::Path| {
        let moved = Moved { image: Some(image.into()), kernel: Some(kernel.into()), initrd: None };
        bench.replay_moved(&bench.path("a"), &moved, None)
    };
    replay(&moved_image, &moved_kernel).unwrap();
    for (image, kernel) in
        [(&other_size, &moved_kernel), (&other_bytes, &moved_kernel), (&moved_image, &other_kernel)]
    {
        match replay(image, kernel) {
            Err(StartError::Config(ConfigError::Changed { .. })) => {}
            other => panic!("{}, {}: {other:?}", image.display(), kernel.display()),
        }
    }
    let initrd = Moved { initrd: Some(moved_kernel), ..Moved::default() };
    let refused = bench.replay_moved(&bench.path("a"), &initrd, None);
    assert!(matches!(refused, Err(StartError::Config(ConfigError::Changed { .. }))), "{refused:?}");

    // In place, at the very path.
    std::fs::write(&image, &bytes).unwrap();
    assert!(matches!(bench.replay("a", None), Err(StartError::Config(ConfigError::Changed { .. }))));
    std::fs::write(&image, [0; 65_536]).unwrap();
    bench.replay("a", None).unwrap();
    std::fs::remove_file(&kernel).unwrap();
    assert!(matches!(bench.replay("a", None), Err(StartError::Config(ConfigError::Read { .. }))));
}

/// Clock page before an exit that reads guest time, that time, clock page after it.
type Reading = [u64; 3];

fn guest_time_moves_at_sync_points_only() {
    const TICKS: usize = 40;
    const PAGE: u64 = DATA + 0x2000;
    let bench = Bench::new();
    let guest = bench.guest(|a| {
        let (mut again, mut tick) = (a.create_label(), a.create_label());
        tiny::gate(a, PIC_VECTORS, tick)?;
        tiny::load_idt(a)?;
        tiny::pic(a, &[0])?;
        tiny::pit_periodic(a, TEN_MS)?;
        tiny::ask(a, 0x10, u32::try_from(PAGE / 4096).unwrap())?;
        a.mov(rbx, PAGE)?;
        a.mov(r12d, 0)?;
        a.set_label(&mut again)?;
        a.sti()?;
        a.hlt()?;
        a.cmp(r12d, 40)?;
        a.jb(again)?;
        tiny::power_off(a, 0)?;
        a.set_label(&mut tick)?;
        a.inc(r12d)?;
        a.mov(rdi, DATA)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(qword_ptr(rdi), rax)?;
        tiny::spin(a, 200)?; // takes no guest time
        a.mov(edx, u32::from(GUEST_INTERFACE_PORT) + 8)?;
        a.in_(eax, dx)?;
        a.mov(r9, qword_ptr(rbx))?;
        a.mov(qword_ptr(rdi + 16), r9)?;
        a.mov(dword_ptr(rdi + 8), eax)?;
        a.add(edx, 4)?;
        a.in_(eax, dx)?;
        a.mov(dword_ptr(rdi + 12), eax)?;
        a.mov(rsi, DATA)?;
        a.mov(ecx, 24)?;
        a.mov(edx, u32::from(UART_PORT))?;
        a.rep().outsb()?;
        tiny::end_of_interrupt(a)?;
        tiny::return_with_interrupts_off(a)
    });
    let recorded = bench.record("a", &guest, Connections::none());
    let readings: Vec<Reading> = recorded
        .output
        .as_chunks::<24>()
        .0
        .iter()
        .map(|chunk| [0, 8, 16].map(|at| u64::from_le_bytes(*chunk[at..].first_chunk().unwrap())))
        .collect();
    assert_eq!(readings.len(), TICKS);
    let period = u64::from(TEN_MS) * 1_000_000_000 / PIT_HZ;
    for [before, time, after] in &readings {
        assert_eq!(*time, before + 2000, "one exit");
        assert_eq!(after, time);
    }
    for pair in readings.windows(2) {
        let passed = pair[1][0] - pair[0][0];
        assert!(passed.abs_diff(period) <= 1, "{passed} ns from tick to tick, not {period}");
    }
    let last = readings[TICKS - 1][2];
    assert!(recorded.report.guest_time > last && recorded.report.guest_time < last + 1_000_000);
    bench.replay_equal("a", &recorded, 2);
}

scribe_tests::each_engine!(
    ticks_are_replayed_twenty_times_under_kicks,
    interrupts_that_wait_for_a_window_are_replayed,
    an_input_file_is_echoed_and_repeats,
    a_long_input_file_is_offered_in_parts,
    running_without_recording_is_the_same_run,
    another_seed_clock_or_command_is_another_recording,
    a_changed_kernel_or_image_is_refused,
    guest_time_moves_at_sync_points_only,
);

scribe_tests::each_engine!(
    counted:
    ticks_are_replayed_twenty_times_under_kicks,
    interrupts_that_wait_for_a_window_are_replayed,
    an_input_file_is_echoed_and_repeats,
    a_long_input_file_is_offered_in_parts,
    running_without_recording_is_the_same_run,
    another_seed_clock_or_command_is_another_recording,
    a_changed_kernel_or_image_is_refused,
);
