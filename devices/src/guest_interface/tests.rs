//! Every register of `docs/guest-interface.md`, and arbitrary accesses.

use proptest::prelude::*;

use super::*;
use crate::testing::conforms;

fn interface(command: &[u8]) -> GuestInterface {
    GuestInterface::new(command.to_vec()).unwrap()
}

fn say(interface: &mut GuestInterface, message: &[u8]) {
    for byte in message {
        assert_eq!(interface.write(DATA, 1, u32::from(*byte), 0), None);
    }
}

#[test]
fn identification() {
    let mut interface = interface(b"");
    assert_eq!(interface.read(MAGIC_OFFSET, 4, 0).to_le_bytes(), *b"SCRB");
    assert_eq!(interface.read(VERSION, 4, 0), 1);
}

#[test]
fn the_time_is_latched_by_its_low_half() {
    let mut interface = interface(b"");
    assert_eq!(interface.read(TIME_LO, 4, 0x1_ffff_ffff), 0xffff_ffff);
    assert_eq!(interface.read(TIME_HI, 4, 0x2_0000_0000), 1);
    assert_eq!(interface.read(TIME_LO, 4, 0x2_0000_0000), 0);
    assert_eq!(interface.read(TIME_HI, 4, 0x2_0000_0000), 2);
}

#[test]
fn clock_page_status_and_power_off() {
    let mut interface = interface(b"");
    assert_eq!(interface.write(POWER_OFF, 4, 0, 0), Some(GuestRequest::PowerOff { status: 0 }));
    assert_eq!(interface.write(CLOCK_PAGE, 4, 0x1234, 0), Some(GuestRequest::ClockPage(Some(0x1234))));
    assert_eq!(interface.read(CLOCK_PAGE, 4, 0), 0x1234);
    assert_eq!(interface.write(CLOCK_PAGE, 4, 0, 0), Some(GuestRequest::ClockPage(None)));
    assert_eq!(interface.write(STATUS, 4, 0x1_07, 0), Some(GuestRequest::Status(7)));
    assert_eq!(interface.read(STATUS, 4, 0), 0x107);
    assert_eq!(interface.write(POWER_OFF, 4, 9, 0), Some(GuestRequest::PowerOff { status: 7 }));
    assert_eq!(interface.write(SYNC, 4, 0, 0), Some(GuestRequest::Sync));
}

#[test]
fn the_command_is_a_stream() {
    let mut interface = interface(b"echo\0hi\0");
    assert_eq!((interface.read(SELECT, 4, 0), interface.read(DATA, 4, 0)), (0, 0));
    interface.write(SELECT, 4, 1, 0);
    assert_eq!(interface.read(SELECT, 4, 0), 8);
    assert_eq!(interface.read(DATA, 4, 0).to_le_bytes(), *b"echo");
    assert_eq!(interface.read(DATA, 1, 0), 0);
    assert_eq!(interface.read(DATA, 2, 0), u32::from(u16::from_le_bytes(*b"hi")));
    assert_eq!(interface.read(SELECT, 4, 0), 1);
    assert_eq!((interface.read(DATA, 4, 0), interface.read(DATA, 4, 0)), (0, 0));
    assert_eq!(interface.read(SELECT, 4, 0), 0);
    interface.write(SELECT, 4, 1, 0);
    assert_eq!(interface.read(SELECT, 4, 0), 8);
    interface.write(SELECT, 4, 2, 0);
    assert_eq!(interface.read(SELECT, 4, 0), 0);
}

#[test]
fn a_command_has_a_longest_length() {
    assert!(GuestInterface::new(vec![b'x'; COMMAND_MAX]).is_ok());
    let error = GuestInterface::new(vec![b'x'; COMMAND_MAX + 1]).unwrap_err();
    assert_eq!(error.length, COMMAND_MAX + 1);
}

#[test]
fn bookmarks_take_the_message() {
    let mut interface = interface(b"");
    interface.write(DATA, 4, u32::from_le_bytes(*b"boot"), 0);
    interface.write(DATA, 2, u32::from(u16::from_le_bytes(*b"ed")), 0);
    say(&mut interface, b"!");
    assert_eq!(interface.write(BOOKMARK, 4, 0, 0), Some(GuestRequest::Bookmark("booted!".into())));
    assert_eq!(interface.write(BOOKMARK, 4, 0, 0), Some(GuestRequest::Bookmark(String::new())));
}

#[test]
fn bookmark_names_are_clean_and_short() {
    for (message, name) in [
        (&b"a\nb\x7f"[..], "a\u{fffd}b\u{fffd}"),
        (b"a\xffb", "a\u{fffd}b"),
        ("ü".repeat(40).as_bytes(), &"ü".repeat(32)),
        (&[&[b'x'; 63][..], "ü".as_bytes()].concat(), &"x".repeat(63)),
    ] {
        let mut interface = interface(b"");
        say(&mut interface, message);
        assert_eq!(interface.write(BOOKMARK, 4, 0, 0), Some(GuestRequest::Bookmark(name.into())));
    }
}

#[test]
fn a_panic_gives_its_text() {
    let mut interface = interface(b"");
    say(&mut interface, b"Attempted to kill init!\n");
    let expected = GuestRequest::Panic("Attempted to kill init!\n".into());
    assert_eq!(interface.write(PANIC, 4, 0, 0), Some(expected));
}

#[test]
fn the_message_is_bounded() {
    let mut interface = interface(b"");
    say(&mut interface, &[b'x'; MESSAGE_MAX - 1]);
    interface.write(DATA, 4, u32::from_le_bytes(*b"abcd"), 0);
    let Some(GuestRequest::Panic(text)) = interface.write(PANIC, 4, 0, 0) else { panic!("no text") };
    assert_eq!((text.len(), text.ends_with("xa")), (MESSAGE_MAX, true));
}

#[test]
fn other_accesses_read_ones_and_do_nothing() {
    let mut interface = interface(b"command\0");
    interface.write(SELECT, 4, 1, 0);
    let before = interface.save();
    for (offset, size, ones) in [
        (MAGIC_OFFSET, 1, 0xff),
        (MAGIC_OFFSET, 2, 0xffff),
        (2, 4, u32::MAX),
        (DATA + 1, 1, 0xff),
        (DATA + 2, 2, 0xffff),
        (DATA, 3, u32::MAX),
        (POWER_OFF, 4, u32::MAX),
        (SYNC, 4, u32::MAX),
        (BOOKMARK, 4, u32::MAX),
        (PANIC, 4, u32::MAX),
        (SIZE, 4, u32::MAX),
    ] {
        assert_eq!(interface.read(offset, size, 0), ones, "{offset:#x}/{size}");
    }
    for (offset, size) in
        [(POWER_OFF, 1), (STATUS, 2), (PANIC + 1, 4), (DATA + 1, 1), (SIZE, 4), (0, 4), (4, 4)]
    {
        assert_eq!(interface.write(offset, size, 0xffff_ffff, 0), None, "{offset:#x}/{size}");
    }
    assert_eq!(interface.save(), before);
}

#[test]
fn an_impossible_or_foreign_state_is_refused() {
    let mut interface = interface(b"ls\0");
    let good = interface.save();
    let spoilers: [fn(&mut GuestInterfaceState); 3] = [
        |state| state.message = vec![0; MESSAGE_MAX + 1],
        |state| state.read = 1,
        |state| (state.stream, state.read) = (1, 4),
    ];
    for spoil in spoilers {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(matches!(interface.restore(bad), Err(RestoreError::Invalid { .. })));
    }
    let mut foreign = good.clone();
    foreign.command = b"rm\0".to_vec();
    assert!(matches!(interface.restore(foreign), Err(RestoreError::Configuration { .. })));
    assert_eq!(interface.save(), good);
}

proptest! {
    #[test]
    fn any_access_is_survived_and_repeats(
        command in prop::collection::vec(any::<u8>(), 0..50),
        ops in prop::collection::vec((any::<bool>(), 0..0x34u16, 0..9u8, any::<u32>(), any::<u64>()), 1..200),
    ) {
        let (mut one, mut twin) = (interface(&command), interface(&command));
        for (write, offset, size, value, now) in ops {
            // Most offsets are aligned, and SELECT mostly selects the command.
            let offset = if value & 7 == 0 { offset } else { offset & !3 };
            let value = if offset == SELECT { value & 1 } else { value };
            if write {
                let request = one.write(offset, size, value, now);
                prop_assert_eq!(twin.write(offset, size, value, now), request.clone());
                if let Some(GuestRequest::Bookmark(name)) = request {
                    prop_assert!(name.len() <= BOOKMARK_NAME_MAX && !name.chars().any(char::is_control));
                }
            } else {
                prop_assert_eq!(one.read(offset, size, now), twin.read(offset, size, now));
            }
            let mut restored = interface(&command);
            restored.restore(one.save()).unwrap();
            prop_assert_eq!(restored.save(), twin.save());
            twin = restored;
        }
    }

    #[test]
    fn conformance(command in prop::collection::vec(any::<u8>(), 1..50), page: u32, now: u64) {
        let mut interface = interface(&command);
        interface.write(CLOCK_PAGE, 4, page, now);
        conforms(&mut interface, |interface| {
            interface.write(CLOCK_PAGE, 4, !page, now);
            interface.write(SELECT, 4, 1, now);
            interface.read(DATA, 1, now);
            interface.read(TIME_LO, 4, now);
            say(interface, b"text");
        });
    }
}
