//! Single steps on KVM, one thing that could show them a guest: after each step CPU and RAM are those of the soft engine.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use iced_x86::code_asm::*;
use scribe_tests::steps::{Ended, Pair};
use scribe_tests::tiny::{self, DATA, Emitted, kvm};
use scribe_tests::vcpu::emulates_kernels;
use scribe_vmm::engine::{Exit, Stop};

/// The end: a HLT that nothing wakes.
fn end(a: &mut CodeAssembler) -> Emitted {
    a.cli()?;
    a.hlt()
}

/// Runs the guest to its end, step by step; gives how many branches it had.
#[track_caller]
fn goes(name: &str, emit: impl FnOnce(&mut CodeAssembler) -> Emitted) -> Option<Pair> {
    if !kvm(name) {
        return None;
    }
    let mut pair = Pair::tiny(emit);
    match pair.run(20_000) {
        Ok(Ended::Halted) => {
            pair.compare_all().unwrap();
            Some(pair)
        }
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn branches_are_counted_as_positions_count_them() {
    let Some(pair) = goes("branches_are_counted_as_positions_count_them", |a| {
        let mut again = a.create_label();
        let mut next = a.create_label();
        let mut out = a.create_label();
        a.mov(ecx, 5)?;
        a.set_label(&mut again)?;
        a.inc(rax)?;
        a.loop_(again)?; // 5, the last not taken
        a.jrcxz(next)?; // 1, taken
        a.nop()?;
        a.set_label(&mut next)?;
        a.mov(ecx, 1)?;
        a.jrcxz(out)?; // 1, not taken
        a.cmp(eax, 3)?;
        a.cmovne(ebx, eax)?;
        a.sete(bl)?;
        a.jne(out)?; // 1
        a.ud2()?;
        a.set_label(&mut out)?;
        end(a)
    }) else {
        return;
    };
    assert_eq!(pair.branches, 8);
}

#[test]
fn rep_is_as_many_steps_as_it_has_iterations() {
    if kvm("rep_is_as_many_steps_as_it_has_iterations") && emulates_kernels() {
        return tiny::skip("rep_is_as_many_steps_as_it_has_iterations", "this KVM emulates REP as a whole");
    }
    let Some(pair) = goes("rep_is_as_many_steps_as_it_has_iterations", |a| {
        a.mov(rsi, tiny::CODE)?;
        a.mov(rdi, DATA + 0xfff)?; // some of it across a page's end
        a.mov(ecx, 40)?;
        a.rep().movsb()?;
        a.mov(rdi, DATA + 0x1ff4)?;
        a.mov(eax, 0x1234_5678)?;
        a.mov(ecx, 5)?;
        a.rep().stosd()?;
        a.mov(ecx, 0)?;
        a.rep().stosd()?; // none, but a step
        a.mov(rsi, DATA + 0x1000)?;
        a.mov(rdi, tiny::CODE + 1)?;
        a.mov(ecx, 39)?;
        a.repe().cmpsb()?; // to its end
        a.mov(rdi, DATA + 0x1ff4)?;
        a.mov(ecx, 9)?;
        a.repe().scasd()?; // not to its end
        end(a)
    }) else {
        return;
    };
    assert_eq!(pair.steps, 12 + 40 + 5 + 1 + 39 + 6 + 1, "and a CLI");
}

#[test]
fn string_io_and_devices_are_exits_as_ever() {
    let Some(pair) = goes("string_io_and_devices_are_exits_as_ever", |a| {
        a.mov(rsi, DATA)?;
        a.mov(dword_ptr(rsi), 0x4433_2211)?;
        a.mov(edx, 0x1f0)?;
        a.mov(ecx, 3)?;
        a.rep().outsb()?;
        a.outsb()?;
        a.mov(rdi, DATA + 0x1ffd)?;
        a.mov(ecx, 9)?;
        a.rep().insb()?;
        a.in_(eax, dx)?;
        a.mov(rbx, tiny::MMIO)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.add(rax, qword_ptr(rbx + 8))?;
        a.mov(ecx, 0xc001_0010_u32)?;
        a.nop()?;
        end(a)
    }) else {
        return;
    };
    assert!(pair.exits.len() > 3 + 1 + 9 + 1 + 2, "{:?}", pair.exits);
}

#[test]
fn pushed_flags_show_nothing() {
    goes("pushed_flags_show_nothing", |a| {
        a.pushfq()?;
        a.pop(rax)?;
        a.pushf()?;
        a.pop(bx)?;
        a.lahf()?;
        a.push(rax)?;
        a.popfq()?;
        a.pushfq()?;
        end(a)
    });
}

/// What BT leaves open depends, on QEMU's processor, on the block that it is in: it is the same in steps and without.
#[test]
fn flags_behind_bt_are_the_same_in_steps_and_without() {
    let name = "flags_behind_bt_are_the_same_in_steps_and_without";
    if !kvm(name) {
        return;
    }
    let guest = || {
        Pair::tiny(|a| {
            a.mov(ecx, 5)?;
            for value in [0x8000_0001_u32, 0x4000_0000, 0xffff_ffff, 3, 0] {
                a.out(0x80, al)?;
                a.mov(ebx, value)?;
                a.add(ebx, ebx)?;
                a.nop()?;
                a.bt(ecx, 1)?;
                a.pushfq()?;
                a.add(bl, bl)?;
                a.mov(edx, ebx)?;
                a.bts(edx, 3)?;
                a.pushfq()?;
            }
            end(a)
        })
    };
    let mut free = guest();
    while !free.exits.contains(&Exit::Halt) {
        free.free().unwrap();
    }
    let mut stepped = guest();
    assert_eq!(stepped.run(200), Ok(Ended::Halted));
    for pair in [&free, &stepped] {
        pair.compare_all().unwrap();
    }
}

/// A handler for `vector` that keeps what it finds on the stack, skips `skip` bytes of code, and returns.
fn handled(
    a: &mut CodeAssembler,
    vectors: &[(u8, bool, u32)],
    body: impl FnOnce(&mut CodeAssembler) -> Emitted,
) -> Emitted {
    let mut labels = Vec::new();
    for (vector, _, _) in vectors {
        let label = a.create_label();
        tiny::gate(a, *vector, label)?;
        labels.push(label);
    }
    tiny::load_idt(a)?;
    a.mov(rsi, DATA)?;
    body(a)?;
    end(a)?;
    for (label, (_, code, skip)) in labels.iter_mut().zip(vectors) {
        a.set_label(label)?;
        if *code {
            a.pop(rax)?;
            a.mov(qword_ptr(rsi + 24), rax)?;
        }
        for offset in [0, 8, 16] {
            a.mov(rax, qword_ptr(rsp + offset))?;
            a.mov(qword_ptr(rsi + offset), rax)?;
        }
        a.add(rsi, 32)?;
        a.add(qword_ptr(rsp), i32::try_from(*skip).unwrap())?;
        a.iretq()?;
    }
    Ok(())
}

#[test]
fn frames_of_exceptions_show_nothing() {
    goes("frames_of_exceptions_show_nothing", |a| {
        handled(a, &[(0, false, 2), (6, false, 2), (13, true, 3)], |a| {
            a.mov(ecx, 0)?;
            a.div(ecx)?; // f7 f1
            a.ud2()?; // 0f 0b
            a.mov(rbx, 0x8000_0000_0000_0000_u64)?;
            a.mov(rax, qword_ptr(rbx))?; // 48 8b 03: not canonical
            a.nop()
        })
    });
}

#[test]
fn a_page_fault_is_one_step() {
    goes("a_page_fault_is_one_step", |a| {
        handled(a, &[(14, true, 3)], |a| {
            a.mov(rbx, 5_u64 << 30)?; // beyond what is mapped
            a.mov(rax, qword_ptr(rbx))?; // 48 8b 03
            a.mov(rcx, cr2)?;
            a.mov(qword_ptr(rbx), rax)?; // 48 89 03
            a.mov(rcx, cr2)
        })
    });
}

#[test]
fn software_interrupts_and_their_return_show_nothing() {
    goes("software_interrupts_and_their_return_show_nothing", |a| {
        handled(a, &[(3, false, 0), (0x40, false, 0)], |a| {
            a.int3()?;
            a.nop()?;
            a.int(0x40)?;
            a.nop()
        })
    });
}

#[test]
fn the_guests_own_trap_flag_is_its_own() {
    goes("the_guests_own_trap_flag_is_its_own", |a| {
        handled(a, &[(1, false, 0)], |a| {
            a.pushfq()?;
            a.or(qword_ptr(rsp), 0x100)?;
            a.popfq()?;
            a.nop()?; // a trap behind it
            a.pushfq()?;
            a.and(qword_ptr(rsp), -0x101)?;
            a.popfq()?;
            a.nop()?;
            a.nop()
        })
    });
}

#[test]
fn an_sti_shields_one_instruction() {
    let name = "an_sti_shields_one_instruction";
    if !kvm(name) {
        return;
    }
    let mut pair = Pair::tiny(|a| {
        handled(a, &[(0x30, false, 0)], |a| {
            a.out(0x80, al)?;
            a.sti()?;
            a.nop()?;
            a.inc(r8)?;
            a.mov(eax, ss)?;
            a.mov(ss, eax)?;
            a.inc(r9)?;
            a.inc(r10)
        })
    });
    // To the exit in front, then with a window wished for.
    while pair.exits.is_empty() {
        assert!(matches!(pair.free().unwrap(), Stop::Exit(_)));
    }
    pair.request_window(true);
    let mut injected = 0;
    let mut most = pair.steps;
    let ended = loop {
        most += 1;
        let ended = pair.run(most).unwrap();
        if injected < 2 && pair.inject(0x30) {
            injected += 1;
            pair.request_window(false);
        }
        if ended != Ended::Going {
            break ended;
        }
    };
    assert_eq!((ended, injected), (Ended::Halted, 2));
}

#[test]
fn the_tables_register_is_the_guests_own() {
    goes("the_tables_register_is_the_guests_own", |a| {
        tiny::load_idt(a)?;
        a.nop()?;
        a.mov(rdi, DATA)?;
        a.sidt(ptr(rdi))?;
        a.sgdt(ptr(rdi + 16))?;
        a.mov(word_ptr(rdi), 0x7ff)?;
        a.lidt(ptr(rdi))?;
        a.nop()?;
        a.sidt(ptr(rdi + 32))?;
        a.nop()?;
        end(a)
    });
}

/// The state at any step is all that there is to it.
#[test]
fn another_vcpu_goes_on_from_any_step() {
    let name = "another_vcpu_goes_on_from_any_step";
    if !kvm(name) {
        return;
    }
    let mut pair = Pair::tiny(|a| {
        handled(a, &[(6, false, 2), (0x40, false, 0)], |a| {
            a.pushfq()?;
            a.ud2()?;
            a.int(0x40)?;
            a.mov(eax, ss)?;
            a.mov(ss, eax)?;
            a.nop()?;
            tiny::spin(a, 3)
        })
    });
    let mut most = 0;
    loop {
        most += 1;
        if pair.run(most).unwrap() != Ended::Going {
            break;
        }
        pair.replace();
    }
    pair.compare_all().unwrap();
    assert!(pair.steps > 50 && pair.branches == 3, "{} steps", pair.steps);
}

#[test]
fn a_triple_fault_is_the_end() {
    let name = "a_triple_fault_is_the_end";
    if !kvm(name) {
        return;
    }
    let mut pair = Pair::tiny(|a| {
        a.nop()?;
        a.ud2()
    });
    assert!(matches!(pair.run(100), Ok(Ended::Fault(_))));
    assert_eq!(pair.steps, 1);
}

/// Between steps the guest may run freely, and is stepped again behind the next exit.
#[test]
fn steps_and_free_running_take_turns() {
    let name = "steps_and_free_running_take_turns";
    if !kvm(name) {
        return;
    }
    let mut pair = Pair::tiny(|a| {
        let mut again = a.create_label();
        a.mov(ebx, 20)?;
        a.set_label(&mut again)?;
        for port in 0x80..0x83 {
            a.out(port, al)?;
            tiny::spin(a, 7)?;
            a.pushfq()?;
            a.pop(rax)?;
        }
        a.dec(ebx)?;
        a.jnz(again)?;
        end(a)
    });
    let mut length = 0;
    loop {
        let most = pair.steps + length % 17;
        length += 5;
        match pair.run(most).unwrap() {
            Ended::Going => {}
            ended => break assert_eq!(ended, Ended::Halted),
        }
        if matches!(pair.free().unwrap(), Stop::Exit(Exit::Halt)) {
            break;
        }
    }
    assert_eq!(pair.exits.len(), 61);
}
