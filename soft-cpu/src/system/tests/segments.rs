//! Segments: limits in compatibility mode, loading, descriptor tables.

use iced_x86::code_asm::*;

use super::*;

#[test]
fn limits_in_compatibility_mode() {
    // The last byte that fits, and the first that does not.
    for (selector, offset, bad) in [
        (SMALL, 0xffc_u32, false),
        (SMALL, 0xffd, true),
        (DOWN, 0x1000, false),
        (DOWN, 0xfff, true),
        (DOWN, 0xffff_fffd, true),
    ] {
        let mut b = Bench::compatibility(|a| {
            a.mov(ax, u32::from(selector))?;
            a.mov(fs, eax)?;
            a.mov(eax, dword_ptr(offset).fs())
        });
        b.steps(2);
        if bad {
            assert_eq!(b.fault(13)[..3], [0, b.rip_before_fault(), USER_CODE_32.into()], "{offset:#x}");
        } else {
            b.steps(1);
        }
    }
}

impl Bench {
    /// Where the test above faults: MOV, MOV to FS, and then.
    fn rip_before_fault(&self) -> u64 {
        USER + 4 + 2
    }
}

#[test]
fn stack_segment_and_types_in_compatibility_mode() {
    let mut b = Bench::compatibility(|a| {
        a.mov(ax, u32::from(SMALL))?;
        a.mov(ss, eax)?;
        a.mov(esp, 0x1002)?;
        a.push(eax)?;
        a.mov(esp, 2)?;
        a.push(eax)
    });
    b.write(IDT + 12 * 16, &gate(handler(12), KERNEL_CODE, 1, 0x8e));
    b.steps(3);
    assert_eq!(b.fault(12)[0], 0);

    let mut b = Bench::compatibility(|a| a.mov(dword_ptr(USER as u32).cs(), eax));
    assert_eq!(b.fault(13)[0], 0, "code is not written");
    let mut b = Bench::compatibility(|a| {
        a.xor(eax, eax)?;
        a.mov(ds, eax)?;
        a.mov(eax, dword_ptr(DATA as u32))
    });
    b.steps(2);
    assert_eq!(b.fault(13)[0], 0, "null segment");
}

#[test]
fn loads_are_checked() {
    let load = |selector: u16, vector: u8, code: u16| {
        let mut b = Bench::user(|a| {
            a.mov(eax, u32::from(selector))?;
            a.mov(ds, eax)
        });
        b.steps(1);
        assert_eq!(b.fault(vector)[..2], [code.into(), USER + 5], "{selector:#x}");
    };
    load(KERNEL_DATA, 13, KERNEL_DATA);
    load(EXECUTE_ONLY, 13, EXECUTE_ONLY & !3);
    load(0x103, 13, 0x100);
    load(0x2c, 13, 0x2c); // no LDT
    load(TASK, 13, TASK);
    load(ABSENT, 11, ABSENT & !3);

    let mut b = Bench::user(|a| {
        a.mov(eax, u32::from(SMALL))?;
        a.mov(es, eax)?;
        a.mov(fs, eax)?;
        a.xor(eax, eax)?;
        a.mov(fs, eax)?;
        a.mov(ss, eax)
    });
    b.steps(3);
    let extra = b.cpu.state().segments[0];
    assert_eq!(extra, Segment { base: DATA, limit: 0xfff, selector: SMALL, attributes: 0x40f3 });
    assert_eq!(b.read::<1>(GDT + 0x50 + 5), [0xf3], "accessed");
    b.steps(2);
    assert_eq!(b.cpu.state().segments[4], Segment { attributes: 1 << 16, ..Segment::default() });
    assert_eq!(b.fault(13)[0], 0, "null SS at CPL 3");
}

#[test]
fn null_stack_segment_is_for_kernels() {
    let mut b = Bench::kernel(|a| {
        a.xor(eax, eax)?;
        a.mov(ss, eax)?;
        a.nop()
    });
    b.steps(2);
    let s = b.cpu.state();
    assert_eq!((s.segments[2].attributes, s.events.shadow), (1 << 16, 1));
    b.steps(1);
    assert_eq!(b.cpu.state().events.shadow, 0);
}

#[test]
fn task_and_local_tables() {
    let mut b = Bench::kernel(|a| {
        a.mov(eax, u32::from(TASK))?;
        a.ltr(ax)?;
        a.xor(eax, eax)?;
        a.lldt(ax)?;
        a.str(rbx)?;
        a.sldt(ecx)?;
        a.mov(eax, u32::from(TASK))?;
        a.ltr(ax)
    });
    b.change(|s| s.segments[7] = Segment { attributes: 0x8b, ..Segment::default() });
    b.steps(6);
    let s = b.cpu.state();
    assert_eq!(s.segments[7], Segment { base: TSS, limit: 0x67, selector: TASK, attributes: 0x8b });
    assert_eq!((b.general(3), b.general(1)), (TASK.into(), 0));
    assert_eq!(b.read::<1>(GDT + 0x45), [0x8b]);
    b.steps(1);
    assert_eq!(b.fault(13)[0], u64::from(TASK), "busy");
}

#[test]
fn looks_at_descriptors() {
    let mut b = Bench::user(|a| {
        a.mov(eax, u32::from(SMALL))?;
        a.lar(ecx, eax)?;
        a.lsl(edx, eax)?;
        a.verw(ax)?;
        a.sete(bl)?;
        a.mov(eax, u32::from(EXECUTE_ONLY))?;
        a.verr(ax)?;
        a.setne(bh)?;
        a.mov(eax, u32::from(KERNEL_DATA))?;
        a.lar(esi, eax)?;
        a.sete(al)
    });
    b.steps(11);
    assert_eq!((b.general(1), b.general(2)), (0x40_f200, 0xfff));
    assert_eq!((b.general(3), b.general(6), b.general(0) & 0xff), (0x101, 0, 0));
}

#[test]
fn descriptor_table_registers() {
    let mut b = Bench::kernel(|a| {
        a.sgdt(ptr(DATA))?;
        a.mov(word_ptr(DATA), 0x7f)?;
        a.lgdt(ptr(DATA))?;
        a.sidt(ptr(DATA + 16))
    });
    b.steps(4);
    let s = b.cpu.state();
    assert_eq!((s.gdt.base, s.gdt.limit), (GDT, 0x7f));
    assert_eq!(b.read::<10>(DATA + 16)[..4], [0xff, 0x0f, 0x00, 0x60]);
    let mut b = Bench::user(|a| a.lgdt(ptr(DATA)));
    assert_eq!(b.fault(13)[0], 0);
}

#[test]
fn code_ends_at_its_limit() {
    let mut b = Bench::compatibility(|a| {
        a.nop()?;
        a.nop()?;
        a.mov(eax, 1)?;
        a.nop()
    });
    b.change(|s| s.segments[1].limit = USER as u32 + 5);
    b.steps(2);
    assert_eq!(b.fault(13)[..2], [0, USER + 2]);
    let mut b = Bench::compatibility(|a| {
        a.nop()?;
        a.jmp(USER + 0x40)
    });
    b.change(|s| s.segments[1].limit = USER as u32 + 0x20);
    b.steps(1);
    assert_eq!(b.fault(13)[..2], [0, USER + 1]);
}
