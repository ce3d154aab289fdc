//! Interrupts and kicks of a vCPU without an in-kernel interrupt controller, whose KVM_INTERRUPT never refuses.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use iced_x86::code_asm::*;
use scribe_tests::tiny::{self, Emitted};
use scribe_tests::vcpu::{Vcpu, emulates_kernels, general, mark};
use scribe_vmm::engine::cpu::Registers;
use scribe_vmm::engine::{Answer, Exit, Stop};
use scribe_vmm::host::kick::Target;
use scribe_vmm::host::perturb::Perturbation;

const VECTOR: u8 = 0x30;

/// The body, with a handler for [`VECTOR`] that marks 0x30, counts in R9 and clobbers AL.
fn with_handler(a: &mut CodeAssembler, body: impl FnOnce(&mut CodeAssembler) -> Emitted) -> Emitted {
    let mut handler = a.create_label();
    tiny::gate(a, VECTOR, handler)?;
    tiny::load_idt(a)?;
    body(a)?;
    a.hlt()?;
    a.set_label(&mut handler)?;
    a.inc(r9)?;
    mark(a, VECTOR)?;
    a.iretq()
}

const R9: usize = 9;

fn with_interrupts_off_none_can_be_injected() {
    let mut vcpu = Vcpu::new(|a| {
        with_handler(a, |a| {
            mark(a, 1)?;
            mark(a, 2)
        })
    });
    assert_eq!(vcpu.mark(), 1);
    assert!(!vcpu.engine.can_inject());
    assert!(vcpu.engine.inject(VECTOR).is_err());
    assert_eq!(vcpu.mark(), 2, "and none was");
    vcpu.expect(Exit::Halt, Answer::Done);
    assert_eq!(vcpu.general(R9), 0);
}

/// Where the window opens of a guest that turns interrupts on and computes. It takes one interrupt there.
fn window(kicks: usize) -> Registers {
    let mut vcpu = Vcpu::new(|a| {
        with_handler(a, |a| {
            let mut after = a.create_label();
            a.lea(rbx, ptr(after))?;
            mark(a, 1)?;
            a.sti()?;
            a.inc(r8)?; // in the shadow
            a.set_label(&mut after)?;
            a.inc(r8)?;
            tiny::spin(a, 5000)?;
            mark(a, 2)
        })
    });
    assert_eq!(vcpu.mark(), 1);
    vcpu.engine.request_window(true);
    for _ in 0..kicks {
        vcpu.kick();
        assert_eq!(vcpu.run(), Stop::Kicked);
    }
    assert_eq!(vcpu.run(), Stop::InterruptWindow);
    let opened = vcpu.registers();
    assert!(vcpu.engine.can_inject());
    vcpu.engine.inject(VECTOR).unwrap();
    assert!(!vcpu.engine.can_inject());
    assert!(vcpu.engine.inject(VECTOR + 1).is_err(), "it would replace the first");
    vcpu.engine.request_window(false);
    assert_eq!(vcpu.mark(), u32::from(VECTOR));
    assert!(!vcpu.engine.can_inject(), "an interrupt gate clears IF");
    let frame = vcpu.memory(vcpu.general(general::RSP), 8);
    assert_eq!(u64::from_le_bytes(frame.try_into().unwrap()), opened.rip);
    assert_eq!(vcpu.mark(), 2);
    assert_eq!((vcpu.general(general::R8), vcpu.general(R9)), (2, 1));
    assert!(vcpu.engine.can_inject());
    opened
}

fn the_window_opens_behind_the_shadow_of_sti() {
    let exact = !emulates_kernels();
    let first = window(0);
    for kicks in 0..4 {
        let opened = window(kicks);
        if exact {
            assert_eq!((opened.rip, opened.general[general::R8]), (opened.general[general::RBX], 1));
            assert_eq!(opened, first, "kicks moved the window");
        } else {
            // Somewhere behind it, sooner or later: such a KVM is no place for recordings.
            assert!(opened.rip >= opened.general[general::RBX], "{opened}");
        }
    }
}

fn no_window_opens_that_was_not_asked_for() {
    let mut vcpu = Vcpu::new(|a| {
        with_handler(a, |a| {
            mark(a, 1)?;
            a.sti()?;
            a.nop()?;
            a.nop()?;
            mark(a, 2)
        })
    });
    assert_eq!(vcpu.mark(), 1);
    vcpu.engine.request_window(true);
    vcpu.engine.request_window(false);
    assert_eq!(vcpu.mark(), 2); // a window would be a failure
}

fn an_interrupt_wakes_a_halted_guest_behind_its_hlt() {
    let mut vcpu = Vcpu::new(|a| {
        with_handler(a, |a| {
            a.sti()?;
            a.hlt()?;
            mark(a, 2)
        })
    });
    vcpu.expect(Exit::Halt, Answer::Done);
    let behind = vcpu.registers().rip;
    assert!(vcpu.engine.can_inject(), "the shadow ends with HLT");
    vcpu.engine.inject(VECTOR).unwrap();
    assert_eq!(vcpu.mark(), u32::from(VECTOR));
    let frame = vcpu.memory(vcpu.general(general::RSP), 8);
    assert_eq!(u64::from_le_bytes(frame.try_into().unwrap()), behind);
    assert_eq!(vcpu.mark(), 2);
    assert_eq!(vcpu.general(R9), 1);
}

fn a_kick_neither_loses_nor_repeats_an_injection() {
    let mut vcpu = Vcpu::new(|a| {
        with_handler(a, |a| {
            a.sti()?;
            a.nop()?;
            mark(a, 1)?;
            mark(a, 2)
        })
    });
    assert_eq!(vcpu.mark(), 1);
    vcpu.engine.inject(VECTOR).unwrap();
    vcpu.kick();
    assert_eq!(vcpu.run(), Stop::Kicked);
    assert!(!vcpu.engine.can_inject(), "the first still waits");
    assert!(vcpu.engine.inject(VECTOR).is_err());
    assert_eq!(vcpu.mark(), u32::from(VECTOR));
    assert_eq!(vcpu.mark(), 2);
    assert_eq!(vcpu.general(R9), 1);
}

fn each_injection_runs_the_handler_once_under_kicks() {
    let mut vcpu = Vcpu::new(|a| {
        with_handler(a, |a| {
            let mut again = a.create_label();
            a.sti()?;
            a.set_label(&mut again)?;
            a.inc(r8)?;
            tiny::spin(a, 200)?;
            mark(a, 1)?;
            a.jmp(again)
        })
    });
    let perturbation = Perturbation::start(Target::current(), 50, 1500);
    let (mut injected, mut handled) = (0, 0);
    while injected < 300 || vcpu.kicks < 20 {
        if vcpu.mark() == u32::from(VECTOR) {
            handled += 1;
            continue;
        }
        assert_eq!(handled, injected, "the handler came before the next turn");
        assert_eq!(vcpu.general(R9), injected);
        assert!(vcpu.engine.can_inject());
        vcpu.engine.inject(VECTOR).unwrap();
        injected += 1;
    }
    drop(perturbation);
}

fn a_kick_that_waits_returns_at_once_and_changes_nothing() {
    let mut vcpu = Vcpu::new(|a| {
        mark(a, 1)?;
        mark(a, 2)
    });
    assert_eq!(vcpu.mark(), 1);
    let before = vcpu.registers();
    for _ in 0..3 {
        vcpu.kick();
        vcpu.kick(); // two that wait are one
        assert_eq!(vcpu.run(), Stop::Kicked);
        assert_eq!(vcpu.registers(), before);
    }
    assert_eq!(vcpu.mark(), 2);
    assert_eq!(vcpu.kicks, 0, "none was left over");
}

fn a_kick_while_an_exit_is_served_loses_nothing() {
    let mut vcpu = Vcpu::new(|a| {
        a.mov(rdi, tiny::DATA)?;
        a.mov(ecx, 5)?;
        a.mov(edx, 0x1f0)?;
        a.rep().insb()?;
        a.mov(rbx, tiny::MMIO)?;
        a.add(dword_ptr(rbx), 5)?;
        mark(a, 1)
    });
    let mut served = Vec::new();
    let mut kicked = 0;
    while served.len() < 8 {
        vcpu.kick();
        let exit = loop {
            match vcpu.run() {
                Stop::Exit(exit) => break exit,
                Stop::Kicked => kicked += 1,
                other => panic!("{other:?}"),
            }
        };
        let mut next = Some(exit);
        while let Some(exit) = next {
            served.push(exit);
            vcpu.kick(); // waits while the instruction is retired
            next = vcpu.answer(Answer::Value(served.len() as u64));
        }
    }
    let (bytes, rest) = served.split_at(5);
    assert!(bytes.iter().all(|exit| *exit == Exit::PortRead { port: 0x1f0, size: 1 }), "{served:?}");
    assert_eq!(
        rest,
        [
            Exit::MmioRead { address: tiny::MMIO, size: 4 },
            Exit::MmioWrite { address: tiny::MMIO, size: 4, value: 6 + 5 },
            Exit::PortWrite { port: 0x80, size: 1, value: 1 },
        ]
    );
    assert_eq!(vcpu.memory(tiny::DATA, 6), [1, 2, 3, 4, 5, 0]);
    assert!(kicked >= 3, "{kicked} kicks came back: one before each instruction's exit");
}

/// Exits and the registers behind each, of a guest that computes between them.
fn trace(perturb: bool, kicks: u64) -> (Vec<(Exit, Registers)>, u64) {
    let mut total = 0;
    loop {
        let mut vcpu = Vcpu::new(|a| {
            let mut again = a.create_label();
            a.mov(rdi, tiny::MMIO)?;
            a.mov(ebx, 30)?;
            a.set_label(&mut again)?;
            tiny::spin(a, 500)?;
            a.add(rsi, rbx)?;
            a.mov(eax, esi)?;
            a.out(0x80, eax)?;
            a.in_(al, 0x60)?;
            a.add(dword_ptr(rdi), ebx)?;
            a.dec(ebx)?;
            a.jnz(again)?;
            a.hlt()
        });
        let perturbation = perturb.then(|| Perturbation::start(Target::current(), 20, 700));
        let mut trace = Vec::new();
        loop {
            let exit = vcpu.exit();
            let mut next = Some(exit);
            while let Some(exit) = next {
                next = vcpu.answer(Answer::Value(trace.len() as u64));
                trace.push((exit, vcpu.registers()));
            }
            if exit == Exit::Halt {
                break;
            }
        }
        drop(perturbation);
        total += vcpu.kicks;
        if total >= kicks {
            return (trace, total);
        }
    }
}

fn kicks_at_any_moment_change_no_exit_and_no_register() {
    let (quiet, none) = trace(false, 0);
    assert_eq!((quiet.len(), none), (30 * 4 + 1, 0));
    for _ in 0..5 {
        let (kicked, kicks) = trace(true, 10);
        assert!(kicks >= 10);
        assert!(kicked == quiet, "a kick changed the guest");
    }
}

scribe_tests::each_engine!(
    with_interrupts_off_none_can_be_injected,
    the_window_opens_behind_the_shadow_of_sti,
    no_window_opens_that_was_not_asked_for,
    an_interrupt_wakes_a_halted_guest_behind_its_hlt,
    a_kick_neither_loses_nor_repeats_an_injection,
    each_injection_runs_the_handler_once_under_kicks,
    a_kick_that_waits_returns_at_once_and_changes_nothing,
    a_kick_while_an_exit_is_served_loses_nothing,
    kicks_at_any_moment_change_no_exit_and_no_register,
);
