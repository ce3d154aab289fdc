//! A vCPU's whole state taken and loaded, what ends a guest, and which pages it has written.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use iced_x86::code_asm::*;
use scribe_tests::course::{VECTOR, goes_on_from_any_state};
use scribe_tests::tiny::{self, DATA, MMIO, kvm};
use scribe_tests::vcpu::{Vcpu, general, mark};
use scribe_vmm::engine::{Answer, Exit, Fault, Stop};
use scribe_vmm::machine::memory::PAGE_SIZE;

/// A guest that uses what a state consists of, between exits of every kind.
fn varied() -> Vcpu {
    Vcpu::new(|a| {
        let mut handler = a.create_label();
        let mut general_protection = a.create_label();
        let mut again = a.create_label();
        tiny::gate(a, VECTOR, handler)?;
        tiny::gate(a, 13, general_protection)?;
        tiny::load_idt(a)?;
        for (index, low, high) in
            [(0xc000_0100_u32, 0x5000, 0), (0xc000_0102, 0x6000, 1), (0xc000_0082, 0x7000, 2)]
        {
            a.mov(ecx, index)?;
            a.mov(eax, low)?;
            a.mov(edx, high)?;
            a.wrmsr()?;
        }
        a.mov(rax, 0x1234_5678_9abc_u64)?;
        a.mov(cr2, rax)?;
        a.mov(ebx, 4)?;
        a.sti()?;
        a.set_label(&mut again)?;
        a.mov(rdi, MMIO)?;
        a.add(dword_ptr(rdi), ebx)?;
        a.mov(r12, qword_ptr(rdi + 0xffc))?;
        a.in_(al, 0x60)?;
        a.mov(rdi, DATA)?;
        a.mov(ecx, 3)?;
        a.mov(edx, 0x1f0)?;
        a.rep().insb()?;
        a.mov(ecx, 0xc000_0102_u32)?;
        a.rdmsr()?;
        a.add(r13, rax)?;
        a.mov(rax, cr2)?;
        a.add(r13, rax)?;
        a.mov(ecx, 0x10)?;
        a.rdmsr()?;
        a.hlt()?;
        a.cmp(rbx, 2)?; // flags live over the next exit
        a.out(0x80, al)?;
        a.seta(r14b)?;
        a.dec(ebx)?;
        a.jnz(again)?;
        a.cli()?;
        a.hlt()?;
        a.set_label(&mut handler)?;
        a.inc(r9)?;
        a.out(0x81, al)?;
        a.iretq()?;
        a.set_label(&mut general_protection)?;
        a.pop(r8)?;
        a.add(qword_ptr(rsp), 2)?;
        a.iretq()
    })
}

fn a_fresh_vcpu_goes_on_from_any_state() {
    let states = goes_on_from_any_state(varied());
    assert!(states.iter().any(|state| state.events.interrupt == Some(VECTOR)));
    assert!(states.iter().any(|state| state.events.exception == Some((13, Some(0)))));
    assert!(states.len() > 20, "{}", states.len());
}

fn a_fault_without_handlers_is_a_triple_fault() {
    let mut vcpu = Vcpu::new(|a| {
        mark(a, 1)?;
        a.ud2()
    });
    assert_eq!(vcpu.mark(), 1);
    assert_eq!(vcpu.run(), Stop::Fault(Fault::TripleFault));
}

#[test]
fn an_instruction_that_the_host_refuses_is_named() {
    if !kvm("an_instruction_that_the_host_refuses_is_named") {
        return;
    }
    const POPCNT: [u8; 5] = [0xf3, 0x48, 0x0f, 0xb8, 0xc3];
    const MOVNTDQA: [u8; 5] = [0x66, 0x0f, 0x38, 0x2a, 0x07];
    let mut vcpu = Vcpu::new(|a| {
        a.mov(rax, cr4)?;
        a.or(eax, 0x200)?; // OSFXSR
        a.mov(cr4, rax)?;
        a.mov(rdi, MMIO)?;
        a.mov(ebx, 7)?;
        mark(a, 1)?;
        a.db(&POPCNT)?;
        mark(a, 2)?;
        a.db(&MOVNTDQA)?;
        mark(a, 3)
    });
    assert_eq!(vcpu.mark(), 1);
    // A KVM that emulates CPL 0 refuses POPCNT. The others run it, and meet an MMIO access that no emulator has.
    let mut at = vcpu.registers().rip;
    let mut expected = POPCNT;
    let stop = match vcpu.run() {
        Stop::Exit(Exit::PortWrite { port: 0x80, size: 1, value: 2 }) => {
            assert_eq!(vcpu.general(general::RAX) & 0xff, 2);
            vcpu.finish(Answer::Done);
            at = vcpu.registers().rip;
            expected = MOVNTDQA;
            vcpu.run()
        }
        other => other,
    };
    let Stop::Fault(Fault::Refused { rip, bytes, detail }) = stop else { panic!("{stop:?}") };
    assert_eq!(rip, at);
    assert!(bytes.starts_with(&expected), "{bytes:02x?}");
    assert!(bytes.len() <= 15);
    assert!(detail.contains("KVM suberror 1"), "{detail}");
}

fn written_pages_are_reported_once() {
    let mut vcpu = Vcpu::new(|a| {
        a.mov(rdi, DATA)?;
        for page in [1, 3, 9] {
            a.mov(dword_ptr(rdi + page * 0x1000), 5)?;
        }
        mark(a, 1)?;
        a.mov(eax, dword_ptr(rdi + 0x1000))?; // a read is no write
        a.mov(qword_ptr(rdi + 0x5ffc), rax)?; // two pages
        mark(a, 2)?;
        a.mov(dword_ptr(rdi + 0x3000), 6)?;
        a.mov(edx, 0x1f0)?;
        a.add(rdi, 0xafff)?;
        a.mov(ecx, 2)?;
        a.rep().insb()?;
        mark(a, 3)
    });
    let first = DATA / PAGE_SIZE;
    let written = |vcpu: &mut Vcpu| {
        let frames = vcpu.engine.take_dirty_pages().unwrap();
        assert!(frames.is_sorted());
        // Page tables may be among them: KVM sets A and D bits there.
        frames.into_iter().filter_map(|frame| frame.checked_sub(first)).collect::<Vec<_>>()
    };
    assert!(written(&mut vcpu).is_empty(), "nothing is tracked yet");
    vcpu.engine.track_dirty_pages().unwrap();
    written(&mut vcpu);
    assert_eq!(vcpu.mark(), 1);
    vcpu.engine.track_dirty_pages().unwrap(); // again: changes nothing
    assert_eq!(written(&mut vcpu), [1, 3, 9]);
    assert!(written(&mut vcpu).is_empty());
    assert_eq!(vcpu.mark(), 2);
    assert_eq!(written(&mut vcpu), [5, 6]);
    assert_eq!(vcpu.exit(), Exit::PortRead { port: 0x1f0, size: 1 });
    while vcpu.answer(Answer::Value(7)).is_some() || vcpu.general(general::RCX) != 0 {
        if vcpu.general(general::RCX) == 1 && vcpu.memory(DATA + 0xafff, 1) == [7] {
            assert_eq!(vcpu.exit(), Exit::PortRead { port: 0x1f0, size: 1 });
        }
    }
    assert_eq!(vcpu.mark(), 3);
    assert_eq!(written(&mut vcpu), [3, 10, 11]);
}

scribe_tests::each_engine!(
    a_fresh_vcpu_goes_on_from_any_state,
    a_fault_without_handlers_is_a_triple_fault,
    written_pages_are_reported_once,
);
