//! MSRs, and what the behaviours differ in.

use iced_x86::code_asm::*;
use scribe_types::stop::{Answer, Exit, Stop};

use super::{HANDLERS, KERNEL_DATA};
use crate::Behaviour;
use crate::testing::Bench;

fn wrmsr(index: u32, value: u64) -> Bench {
    Bench::kernel(|a| {
        a.mov(ecx, index)?;
        a.mov(eax, value as u32)?;
        a.mov(edx, (value >> 32) as u32)?;
        a.wrmsr()?;
        a.rdmsr()
    })
}

#[test]
fn what_efer_and_pat_cannot_hold_is_the_machines_to_deny() {
    for (index, value) in [(0xc000_0080, 0xd03), (0xc000_0080, 0xc01), (0x277, 2)] {
        let mut b = wrmsr(index, value);
        assert_eq!(b.run(9), Stop::Exit(Exit::MsrWrite { index, value }));
        b.cpu.answer(Answer::GeneralProtection);
        assert_eq!(b.cpu.finish(), None);
        assert_eq!(b.cpu.state().events.exception, Some((13, Some(0))));
    }
    wrmsr(0xc000_0080, 0xd01).steps(5);
}

#[test]
fn sysenter_msrs_have_32_bits_but_not_with_tcg() {
    for (behaviour, high) in [(Behaviour::Zen, 0), (Behaviour::Tcg, 1)] {
        let mut b = wrmsr(0x175, 0x1_2345_6789);
        b.cpu.cpu.profile.behaviour = behaviour;
        b.steps(5);
        assert_eq!((b.general(0), b.general(2)), (0x2345_6789, high));
    }
}

#[test]
fn lar_shows_the_limit_but_not_with_tcg() {
    for (behaviour, rights) in [(Behaviour::Zen, 0xcf_9200), (Behaviour::Tcg, 0xc0_9200)] {
        let mut b = Bench::kernel(|a| {
            a.mov(eax, u32::from(KERNEL_DATA))?;
            a.lar(ecx, eax)
        });
        b.cpu.cpu.profile.behaviour = behaviour;
        b.steps(2);
        assert_eq!(b.general(1), rights);
    }
}

#[test]
fn syscall_keeps_arithmetic_flags_but_not_with_tcg() {
    for (behaviour, flags) in [(Behaviour::Zen, 0x8d7), (Behaviour::Tcg, 2)] {
        let mut b = Bench::kernel(|a| a.syscall());
        b.change(|s| {
            s.registers.rflags = 0x8d7;
            for msr in &mut s.msrs {
                match msr.0 {
                    0xc000_0081 => msr.1 = 0x10 << 32,
                    0xc000_0082 => msr.1 = HANDLERS,
                    _ => {}
                }
            }
        });
        b.cpu.cpu.profile.behaviour = behaviour;
        b.steps(1);
        assert_eq!(b.cpu.state().registers.rflags, flags);
        assert_eq!(b.general(11), 0x8d7);
    }
}

#[test]
fn fxsave_over_the_edge_of_a_page() {
    // The area begins on the last page that there is.
    let start = 0x3f_ffe0_u64;
    for (behaviour, address, saved) in [(Behaviour::Zen, start + 511, 0), (Behaviour::Tcg, 0x40_0000, 0x37f)]
    {
        let mut b = Bench::kernel(|a| a.fxsave(ptr(rsi)));
        b.change(|s| s.registers.general[6] = start);
        b.cpu.cpu.profile.behaviour = behaviour;
        b.fault(14);
        assert_eq!(b.cpu.state().cr2, address);
        assert_eq!(u16::from_le_bytes(b.read(start)), saved);
    }
}

#[test]
fn reserved_bits_of_pae_pointers_are_found_when_paging_begins() {
    for (entry, paging) in [(0xe001_u64, true), (0xe003, false), (0xe002, true), (1 << 45 | 0xe001, false)] {
        let mut b = Bench::kernel(|a| a.mov(cr0, rax));
        b.write(0xd000, &entry.to_le_bytes());
        b.change(|s| {
            (s.efer, s.cr0, s.cr3, s.registers.general[0]) = (0, 0x11, 0xd000, 0x8000_0011);
            s.segments[1].attributes = 0xc09b;
        });
        b.run(1);
        assert_eq!(b.cpu.state().cr0 >> 31 == 1, paging, "{entry:#x}");
    }
}
