//! Whatever a guest executes, the processor neither panics nor hangs.

use proptest::prelude::*;
use scribe_types::stop::{Answer, Stop};

use super::*;

/// Segment registers, modes and privileges of all kinds, and an instruction of the system more often than by chance.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![
        any::<[u8; 1]>().prop_map(|b| b.to_vec()),
        any::<u8>().prop_map(|b| vec![0x0f, b]),
        prop::sample::select(vec![
            vec![0x0f, 0x00],
            vec![0x0f, 0x01],
            vec![0x0f, 0x20],
            vec![0x0f, 0x21],
            vec![0x0f, 0x22],
            vec![0x0f, 0x23],
            vec![0x0f, 0x02],
            vec![0x0f, 0x03],
            vec![0x8e],
            vec![0x8c],
            vec![0xcf],
            vec![0xcb],
            vec![0xca],
            vec![0xcd],
            vec![0xff],
            vec![0x9a],
            vec![0xea],
            vec![0xc4],
            vec![0x9d],
            vec![0x0f, 0xb2],
            vec![0x0f, 0x07],
            vec![0x0f, 0x05],
            vec![0x0f, 0x30],
        ]),
    ];
    let prefix =
        prop::collection::vec(prop::sample::select(vec![0x66u8, 0x67, 0x48, 0x4c, 0x2e, 0x64]), 0..2);
    (prefix, opcode, any::<[u8; 7]>()).prop_map(|(mut bytes, opcode, rest)| {
        bytes.extend(opcode);
        bytes.extend(rest);
        bytes
    })
}

/// Registers that are often a selector, an address in RAM or an edge.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..0x80u64,
        (0..RAM_END).prop_map(|at| at & !7),
        Just(1 << 47),
        Just(u64::MAX),
        Just(0xc000_0080),
    ]
}

const RAM_END: u64 = crate::testing::RAM;

proptest! {
    #[test]
    fn random_code_stops_in_an_orderly_way(
        code in prop::collection::vec(instruction(), 1..6),
        general in prop::array::uniform16(value()),
        mode in 0..6u8,
        flags: u64,
        garbage in prop::collection::vec(value(), 16),
        limits: [u16; 3],
        dr7: u32,
    ) {
        let mut b = if mode == 1 {
            Bench::user_bytes(&code.concat(), false)
        } else if mode == 2 {
            Bench::user_bytes(&code.concat(), true)
        } else {
            let mut b = Bench::with_code(&code.concat());
            b.tables();
            b
        };
        for (n, word) in (0..).zip(&garbage) {
            b.write(DATA + 8 * n, &word.to_le_bytes());
            b.write(USER_STACK + 8 * n, &word.to_le_bytes());
            b.write(GDT + 0x80 + 8 * n, &word.to_le_bytes());
        }
        b.change(|s| {
            s.registers.general = general;
            s.registers.general[4] = if flags & 1 == 0 { USER_STACK } else { general[4] };
            s.registers.rflags = flags & 0x24_7fd5 | 2;
            s.idt.limit = limits[0];
            s.gdt.limit = limits[1] | 0x7f;
            s.segments[7].limit = limits[2].into();
            if flags & 0x600_0000 == 0 {
                s.dr7 = u64::from(dr7) | 0x400;
                s.debug = [DATA, CODE + 3, USER + 2, 0x70];
            }
            if mode >= 3 {
                (s.cr0, s.cr4, s.efer) = (0x33, 0x600, u64::from(flags as u32 & 1));
                s.segments[1].attributes = 0xc09b;
            }
            if mode == 4 {
                s.cr0 = 0x30;
                for segment in &mut s.segments[..6] {
                    segment.limit = 0xffff;
                    segment.attributes &= !0xc000;
                }
                s.segments[1].base = CODE & !0xffff;
                s.segments[1].selector = (CODE >> 4) as u16;
                s.registers.rip = CODE & 0xffff;
            }
            if mode == 5 {
                s.registers.rflags |= 1 << 17;
                for segment in &mut s.segments[..6] {
                    *segment = Segment { base: CODE, limit: 0xffff, selector: (CODE >> 4) as u16, attributes: 0xf3 };
                }
                s.registers.rip = 0;
            }
        });
        for _ in 0..20 {
            match b.run(5) {
                Stop::Exit(_) => {
                    let mut left = 100;
                    b.cpu.answer(Answer::Value(general[7]));
                    while b.cpu.finish().is_some() && left > 0 {
                        b.cpu.answer(Answer::Value(general[6]));
                        left -= 1;
                    }
                    if left == 0 {
                        break;
                    }
                }
                Stop::Fault(_) => break,
                _ => {}
            }
        }
        let state = b.cpu.state();
        prop_assert!(b.cpu.set_state(&state).is_ok());
    }
}
