//! What counts as an exit, and what retiring its instruction leaves behind: tiny guests on each engine, no machine.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use iced_x86::code_asm::*;
use scribe_tests::tiny::{self, DATA, MMIO};
use scribe_tests::vcpu::{Vcpu, general, mark};
use scribe_vmm::engine::{Answer, Exit};

const PATTERN: u64 = 0x8877_6655_4433_2211;

fn port_reads_have_their_size_and_leave_the_rest_of_rax() {
    let mut vcpu = Vcpu::new(|a| {
        for _ in 0..2 {
            a.mov(rax, u64::MAX)?;
            a.mov(dx, 0x1234)?;
            a.in_(al, dx)?;
            a.mov(rax, u64::MAX)?;
            a.in_(ax, dx)?;
            a.mov(rax, u64::MAX)?;
            a.in_(eax, dx)?;
        }
        a.in_(al, 0x71)?;
        a.hlt()
    });
    for _ in 0..2 {
        for (size, whole) in
            [(1, 0xffff_ffff_ffff_ff11), (2, 0xffff_ffff_ffff_2211), (4, 0x0000_0000_4433_2211)]
        {
            vcpu.expect(Exit::PortRead { port: 0x1234, size }, Answer::Value(PATTERN));
            assert_eq!(vcpu.general(general::RAX), whole, "{size} bytes");
        }
    }
    vcpu.expect(Exit::PortRead { port: 0x71, size: 1 }, Answer::Value(0));
    vcpu.expect(Exit::Halt, Answer::Done);
}

fn port_writes_have_their_size_and_value() {
    let mut vcpu = Vcpu::new(|a| {
        a.mov(rax, PATTERN)?; // 10 bytes
        a.mov(edx, 0xfffc)?; // 5 bytes
        a.out(dx, al)?;
        a.out(dx, ax)?;
        a.out(dx, eax)?;
        a.out(0x70, al)?;
        a.hlt()
    });
    for (port, size, value, behind) in
        [(0xfffc, 1, 0x11, 16), (0xfffc, 2, 0x2211, 18), (0xfffc, 4, 0x4433_2211, 19), (0x70, 1, 0x11, 21)]
    {
        vcpu.expect(Exit::PortWrite { port, size, value }, Answer::Done);
        assert_eq!(vcpu.offset(), behind, "RIP is behind the instruction");
        assert_eq!(vcpu.general(general::RAX), PATTERN);
    }
}

fn loads_and_stores_of_each_size() {
    let mut vcpu = Vcpu::new(|a| {
        a.mov(rdi, MMIO)?;
        for size in [1, 2, 4, 8] {
            a.mov(rax, u64::MAX)?;
            match size {
                1 => a.mov(al, byte_ptr(rdi + 8))?,
                2 => a.mov(ax, word_ptr(rdi + 8))?,
                4 => a.mov(eax, dword_ptr(rdi + 8))?,
                _ => a.mov(rax, qword_ptr(rdi + 8))?,
            }
            a.mov(rbx, PATTERN)?;
            match size {
                1 => a.mov(byte_ptr(rdi + 16), bl)?,
                2 => a.mov(word_ptr(rdi + 16), bx)?,
                4 => a.mov(dword_ptr(rdi + 16), ebx)?,
                _ => a.mov(qword_ptr(rdi + 16), rbx)?,
            }
        }
        a.hlt()
    });
    for (size, whole, value) in [
        (1, 0xffff_ffff_ffff_ff11, 0x11),
        (2, 0xffff_ffff_ffff_2211, 0x2211),
        (4, 0x4433_2211, 0x4433_2211),
        (8, PATTERN, PATTERN),
    ] {
        vcpu.expect(Exit::MmioRead { address: MMIO + 8, size }, Answer::Value(PATTERN));
        assert_eq!(vcpu.general(general::RAX), whole, "{size} bytes");
        vcpu.expect(Exit::MmioWrite { address: MMIO + 16, size, value }, Answer::Done);
    }
    vcpu.expect(Exit::Halt, Answer::Done);
}

fn one_instruction_may_make_two_exits() {
    let mut vcpu = Vcpu::new(|a| {
        a.mov(rdi, MMIO)?;
        a.add(dword_ptr(rdi), 5)?;
        a.mov(rax, PATTERN)?;
        a.mov(qword_ptr(rdi + 0xffc), rax)?; // over the edge of a page
        a.mov(rbx, qword_ptr(rdi + 0xffc))?;
        mark(a, 2)
    });
    // Read, modify, write.
    assert_eq!(vcpu.exit(), Exit::MmioRead { address: MMIO, size: 4 });
    let second = vcpu.answer(Answer::Value(0xffff_fffe));
    assert_eq!(second, Some(Exit::MmioWrite { address: MMIO, size: 4, value: 3 }));
    vcpu.finish(Answer::Done);
    assert_eq!(vcpu.registers().rflags & 1, 1, "the sum carried");
    // One half on each page.
    assert_eq!(vcpu.exit(), Exit::MmioWrite { address: MMIO + 0xffc, size: 4, value: 0x4433_2211 });
    let second = vcpu.answer(Answer::Done);
    assert_eq!(second, Some(Exit::MmioWrite { address: MMIO + 0x1000, size: 4, value: 0x8877_6655 }));
    vcpu.finish(Answer::Done);
    assert_eq!(vcpu.exit(), Exit::MmioRead { address: MMIO + 0xffc, size: 4 });
    let second = vcpu.answer(Answer::Value(0x1111_1111));
    assert_eq!(second, Some(Exit::MmioRead { address: MMIO + 0x1000, size: 4 }));
    vcpu.finish(Answer::Value(0x2222_2222));
    assert_eq!(vcpu.general(general::RBX), 0x2222_2222_1111_1111);
    assert_eq!(vcpu.mark(), 2);
}

/// Serves exits of one string instruction from `first` on; gives how many there were.
fn serve(vcpu: &mut Vcpu, first: Exit, mut answer: impl FnMut(Exit) -> Answer) -> usize {
    let mut count = 1;
    let mut exit = first;
    loop {
        let next = vcpu.answer(answer(exit));
        exit = match next {
            Some(exit) => exit,
            // KVM may retire some of the elements first.
            None if vcpu.general(general::RCX) != 0 => vcpu.exit(),
            None => return count,
        };
        count += 1;
    }
}

fn string_input_counts_each_element() {
    const BYTES: usize = 5000;
    let mut vcpu = Vcpu::new(|a| {
        a.mov(rdi, DATA + 0x123)?;
        a.mov(ecx, 5000)?;
        a.mov(edx, 0x1f0)?;
        a.rep().insb()?;
        mark(a, 1)
    });
    let first = vcpu.exit();
    let mut value = 0_u64;
    let count = serve(&mut vcpu, first, |exit| {
        assert_eq!(exit, Exit::PortRead { port: 0x1f0, size: 1 });
        value += 7;
        Answer::Value(value)
    });
    assert_eq!(count, BYTES);
    assert_eq!(vcpu.general(general::RDI), DATA + 0x123 + BYTES as u64);
    let expected: Vec<u8> = (1..=BYTES).map(|n| (n * 7).to_le_bytes()[0]).collect();
    assert_eq!(vcpu.memory(DATA + 0x123, BYTES), expected);
    assert_eq!(vcpu.memory(DATA + 0x123 + BYTES as u64, 8), [0; 8], "nothing behind it");
    assert_eq!(vcpu.mark(), 1);
}

fn string_output_counts_each_element() {
    const BYTES: usize = 3000;
    let mut vcpu = Vcpu::new(|a| {
        a.mov(rsi, DATA + 0xf00)?;
        a.mov(ecx, 3000)?;
        a.mov(edx, 0x3f8)?;
        a.rep().outsb()?;
        mark(a, 1)
    });
    let text: Vec<u8> = (0..BYTES).map(|n| (n * 13).to_le_bytes()[0]).collect();
    vcpu.ram.write(DATA + 0xf00, &text).unwrap();
    let first = vcpu.exit();
    let mut sent = Vec::new();
    let count = serve(&mut vcpu, first, |exit| {
        let Exit::PortWrite { port: 0x3f8, size: 1, value } = exit else { panic!("{exit:?}") };
        sent.push(value.to_le_bytes()[0]);
        Answer::Done
    });
    assert_eq!(count, BYTES);
    assert_eq!(sent, text);
    assert_eq!(vcpu.general(general::RSI), DATA + 0xf00 + BYTES as u64);
    assert_eq!(vcpu.mark(), 1);
}

fn wide_and_backward_strings() {
    let mut vcpu = Vcpu::new(|a| {
        a.mov(edx, 0x1f0)?;
        a.mov(rdi, DATA)?;
        a.mov(ecx, 700)?;
        a.rep().insw()?;
        a.mov(rdi, DATA + 0x1000 + 4 * 9)?;
        a.mov(ecx, 10)?;
        a.std()?;
        a.rep().insd()?;
        a.cld()?;
        a.mov(rsi, DATA + 0x1000)?;
        a.mov(ecx, 10)?;
        a.rep().outsd()?;
        a.mov(ecx, 0)?;
        a.rep().insb()?; // no element, no exit
        mark(a, 1)
    });
    for (size, count) in [(2, 700), (4, 10)] {
        let first = vcpu.exit();
        let mut value = 0;
        let served = serve(&mut vcpu, first, |exit| {
            assert_eq!(exit, Exit::PortRead { port: 0x1f0, size });
            value += 0x0101;
            Answer::Value(value)
        });
        assert_eq!(served, count);
    }
    let words: Vec<u8> = (1..=700_u32).flat_map(|n| (n * 0x0101).to_le_bytes()[..2].to_vec()).collect();
    assert_eq!(vcpu.memory(DATA, 1400), words);
    let first = vcpu.exit();
    let mut values = Vec::new();
    let served = serve(&mut vcpu, first, |exit| {
        let Exit::PortWrite { port: 0x1f0, size: 4, value } = exit else { panic!("{exit:?}") };
        values.push(value);
        Answer::Done
    });
    assert_eq!(served, 10);
    let expected: Vec<u32> = (1..=10).rev().map(|n| n * 0x0101).collect();
    assert_eq!(values, expected, "the last came to the lowest address");
    assert_eq!(vcpu.mark(), 1);
}

fn strings_to_and_from_mmio_count_each_element() {
    let mut vcpu = Vcpu::new(|a| {
        a.mov(rsi, DATA)?;
        a.mov(rdi, MMIO)?;
        a.mov(ecx, 20)?;
        a.rep().movsd()?;
        a.mov(rsi, MMIO)?;
        a.mov(rdi, DATA + 0x1000)?;
        a.mov(ecx, 20)?;
        a.rep().movsw()?;
        mark(a, 1)
    });
    let text: Vec<u8> = (1..=80).collect();
    vcpu.ram.write(DATA, &text).unwrap();
    let first = vcpu.exit();
    let mut written = Vec::new();
    let count = serve(&mut vcpu, first, |exit| {
        let Exit::MmioWrite { address, size: 4, value } = exit else { panic!("{exit:?}") };
        assert_eq!(address, MMIO + written.len() as u64);
        written.extend_from_slice(&value.to_le_bytes()[..4]);
        Answer::Done
    });
    assert_eq!((count, written), (20, text));
    let first = vcpu.exit();
    let mut next = MMIO;
    let count = serve(&mut vcpu, first, |exit| {
        assert_eq!(exit, Exit::MmioRead { address: next, size: 2 });
        next += 2;
        Answer::Value(next)
    });
    assert_eq!(count, 20);
    let expected: Vec<u8> = (1..=20_u64).flat_map(|n| (MMIO + 2 * n).to_le_bytes()[..2].to_vec()).collect();
    assert_eq!(vcpu.memory(DATA + 0x1000, 40), expected);
    assert_eq!(vcpu.mark(), 1);
}

fn halting_is_an_exit_and_running_goes_on_behind_it() {
    let mut vcpu = Vcpu::new(|a| {
        a.mov(eax, 7)?;
        a.hlt()?;
        mark(a, 3)
    });
    vcpu.expect(Exit::Halt, Answer::Done);
    assert_eq!((vcpu.offset(), vcpu.general(general::RAX)), (6, 7));
    assert_eq!(vcpu.mark(), 3);
}

fn filtered_msrs_exit_and_native_ones_do_not() {
    const FILTERED: [u32; 5] = [0x10, 0x8b, 0x802, 0x4b56_4d01, 0xc001_0015];
    let mut vcpu = Vcpu::new(|a| {
        a.mov(ecx, 0xc000_0082_u32)?; // LSTAR: native
        a.mov(eax, 0x1234_5678)?;
        a.mov(edx, 0)?;
        a.wrmsr()?;
        a.mov(eax, 0)?;
        a.rdmsr()?;
        a.mov(r8, rax)?;
        for index in FILTERED {
            a.mov(ecx, index)?;
            a.rdmsr()?;
            a.mov(eax, 0x2222_1111)?;
            a.mov(edx, 0x4444_3333)?;
            a.wrmsr()?;
        }
        mark(a, 1)
    });
    for index in FILTERED {
        vcpu.expect(Exit::MsrRead { index }, Answer::Value(0x0fed_cba9_8765_4321));
        assert_eq!(vcpu.general(general::R8), 0x1234_5678, "LSTAR was read without an exit");
        assert_eq!(vcpu.general(general::RAX), 0x8765_4321);
        assert_eq!(vcpu.general(general::RDX), 0x0fed_cba9);
        vcpu.expect(Exit::MsrWrite { index, value: 0x4444_3333_2222_1111 }, Answer::Done);
    }
    assert_eq!(vcpu.mark(), 1);
}

fn an_msr_that_does_not_exist_faults_in_the_guest() {
    let mut vcpu = Vcpu::new(|a| {
        let mut handler = a.create_label();
        tiny::gate(a, 13, handler)?;
        tiny::load_idt(a)?;
        a.mov(ecx, 0x10)?;
        a.rdmsr()?;
        mark(a, 1)?;
        a.wrmsr()?;
        mark(a, 2)?;
        a.hlt()?;
        a.set_label(&mut handler)?;
        mark(a, 13)?;
        a.pop(r8)?; // error code
        a.add(qword_ptr(rsp), 2)?; // RDMSR and WRMSR are two bytes
        a.iretq()
    });
    vcpu.expect(Exit::MsrRead { index: 0x10 }, Answer::GeneralProtection);
    assert_eq!(vcpu.mark(), 13);
    assert_eq!(vcpu.mark(), 1);
    assert_eq!(vcpu.general(general::R8), 0);
    assert!(matches!(vcpu.exit(), Exit::MsrWrite { index: 0x10, .. }));
    vcpu.finish(Answer::GeneralProtection);
    assert_eq!(vcpu.mark(), 13);
    assert_eq!(vcpu.mark(), 2);
    vcpu.expect(Exit::Halt, Answer::Done);
}

scribe_tests::each_engine!(
    port_reads_have_their_size_and_leave_the_rest_of_rax,
    port_writes_have_their_size_and_value,
    loads_and_stores_of_each_size,
    one_instruction_may_make_two_exits,
    string_input_counts_each_element,
    string_output_counts_each_element,
    wide_and_backward_strings,
    strings_to_and_from_mmio_count_each_element,
    halting_is_an_exit_and_running_goes_on_behind_it,
    filtered_msrs_exit_and_native_ones_do_not,
    an_msr_that_does_not_exist_faults_in_the_guest,
);
