//! The guests do what their classes say: counted by the soft engine, and on this machine's KVM as far as it goes.

use scribe_soft_cpu::Behaviour;

use super::*;
use crate::engine::cpu::{CpuState, Fpu, Registers, Segment};
use crate::engine::soft::Soft;
use crate::engine::{Answer, Engine, Exit as Made, Fault, Stop};
use crate::machine::cpuid;

const ALL: [Class; 13] = [
    Class::Taken,
    Class::User,
    Class::NotTaken,
    Class::Jrcxz,
    Class::Loop,
    Class::Jumps,
    Class::Moves,
    Class::Strings,
    Class::Atomics,
    Class::Exits,
    Class::Interrupts,
    Class::Faulting,
    Class::FaultBehind,
];

fn is_fault(class: Class) -> bool {
    matches!(class, Class::Faulting | Class::FaultBehind)
}

/// 64-bit mode over the first 2 MiB, no IDT.
fn long_mode(ram: &GuestRam, turns: u64) -> CpuState {
    for (at, entry) in [(0x2000u64, 0x3003u64), (0x3000, 0x4003), (0x4000, 0x83)] {
        ram.write(at, &entry.to_le_bytes()).unwrap();
    }
    let data = Segment { base: 0, limit: 0xffff_ffff, selector: 0x18, attributes: 0xc093 };
    let code = Segment { selector: 0x10, attributes: 0xa09b, ..data };
    let ldt = Segment { attributes: 1 << 16, ..Segment::default() };
    let tss = Segment { limit: 0x67, attributes: 0x8b, ..Segment::default() };
    let mut registers = Registers { rip: 0x10000, rflags: 2, ..Registers::default() };
    registers.general[4] = 0x30000;
    registers.general[6] = 0x70800;
    registers.general[7] = 0x70000;
    registers.general[8] = turns;
    let [a, b, c, d, e] = [data; 5];
    CpuState {
        registers,
        segments: [a, code, b, c, d, e, ldt, tss],
        cr0: 0x8005_0033,
        cr3: 0x2000,
        cr4: 0x6a0,
        efer: 0xd01,
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        fpu: Fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Fpu::default() },
        ..CpuState::default()
    }
}

/// The conditional branches that a class's guest retires, as the soft engine counts them.
fn counted(class: Class, turns: u64) -> u64 {
    let ram = GuestRam::new(2 << 20).unwrap();
    let mut assembler = CodeAssembler::new(64).unwrap();
    program(&mut assembler, class).unwrap();
    ram.write(0x10000, &assembler.assemble(0x10000).unwrap()).unwrap();
    ram.write(LAST_BYTE, &[0x75]).unwrap();
    let mut soft = Soft::new(&ram, cpuid::profile(cpuid::SCRIBE_V1).unwrap(), Behaviour::Zen);
    soft.set_state(&long_mode(&ram, turns)).unwrap();
    let mut branches = 0;
    loop {
        match soft.run(None).unwrap() {
            Stop::Exit(Made::PortWrite { port, .. }) => {
                branches += soft.progress().branches;
                if port == u16::from(END) {
                    return branches;
                }
                soft.answer(Answer::Done);
                soft.finish().unwrap();
            }
            // Nobody serves the fault.
            Stop::Fault(Fault::TripleFault) if is_fault(class) => return branches + soft.progress().branches,
            other => panic!("{class:?}: {other:?}"),
        }
    }
}

#[test]
fn each_class_has_as_many_branches_as_it_says() {
    for class in ALL {
        let turns = if is_fault(class) { 1 } else { 77 };
        assert_eq!(counted(class, turns), class.expected(turns), "{class:?}");
    }
}

#[test]
fn each_class_comes_to_its_end_on_this_kvm() {
    let Ok(system) = System::new() else {
        eprintln!("SKIPPED: no /dev/kvm on this machine");
        return;
    };
    kick::prepare().unwrap();
    let mut guest = Guest::new(&system).unwrap();
    guest.let_kicks_in().unwrap();
    for class in ALL {
        start(&mut guest, class, 9).unwrap();
        run(&mut guest, class).unwrap_or_else(|reason| panic!("{class:?}: {reason}"));
    }
}

#[test]
fn a_signal_brings_the_guest_back() {
    let Ok(system) = System::new() else {
        eprintln!("SKIPPED: no /dev/kvm on this machine");
        return;
    };
    kick::prepare().unwrap();
    let mut guest = Guest::new(&system).unwrap();
    guest.let_kicks_in().unwrap();
    start(&mut guest, Class::User, u64::MAX).unwrap();
    kick::Target::current().kick();
    assert_eq!(guest.run_to_signal().unwrap(), None);
    kick::take();
    start(&mut guest, Class::User, 3).unwrap();
    assert_eq!(guest.run_to_signal().unwrap(), Some(Exit::Mark(END)));
}
