//! What the code of the guests is made of.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::guest::{AGAIN, CODE, CODE_BYTES, DATA, DEVICE, ENTRIES, TABLES, USER, WINDOW, WINDOW_PAGES};
use super::random::Random;

type Done = Result<(), IcedError>;

/// A page-table entry for the window.
pub(super) fn entry(r: &mut Random) -> u64 {
    let frame = match r.below(12) {
        0 => CODE + (r.below(3) << 12),
        1 => ENTRIES,
        2 => TABLES + (r.below(3) << 12),
        3 => DEVICE,
        4 => 0x10 << 16 << r.below(8), // perhaps no RAM
        _ => DATA + (r.below(5) << 12),
    };
    let mut flags = r.pick(&[0x3, 0x3, 0x3, 0x7, 0x7, 0x1, 0x5, 0x2, 0x23, 0x63, 0x67]);
    if r.once_in(8) {
        flags |= 1 << 63;
    }
    if r.once_in(16) {
        flags |= 1 << 45; // reserved
    }
    frame | flags
}

/// A linear address worth an access.
fn address(r: &mut Random) -> u64 {
    let offset = match r.below(4) {
        0 => r.below(512) * 8,
        1 => 0x1000 - r.below(16),
        _ => r.below(0x1000),
    };
    let page = match r.below(16) {
        0..=8 => WINDOW + (r.below(6) << 12),
        9 => WINDOW + (r.below(WINDOW_PAGES) << 12),
        10 => USER + DATA + (r.below(5) << 12),
        11 => CODE + (r.below(CODE_BYTES >> 12) << 12),
        12 => ENTRIES,
        _ => DATA + (r.below(5) << 12),
    };
    let again = if r.once_in(4) { AGAIN } else { 0 };
    let device = if r.once_in(40) { 0x4000_0000 } else { 0 };
    (page + offset + again) | device
}

/// A register's value: often an address, a small number or an edge.
pub(super) fn value(r: &mut Random) -> u64 {
    match r.below(6) {
        0 => r.next(),
        1 => r.below(64),
        2 => r.pick(&[0, u64::MAX, 1 << 47, 1 << 63, 0x7fff_ffff]),
        _ => address(r),
    }
}

fn any64(r: &mut Random) -> AsmRegister64 {
    r.pick(&[rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15])
}

fn any32(r: &mut Random) -> AsmRegister32 {
    r.pick(&[eax, ebx, ecx, edx, esi, edi, ebp, r8d, r9d, r10d])
}

/// One thing to do; `depth` bounds what is nested.
pub(super) fn item(a: &mut CodeAssembler, r: &mut Random, depth: u32) -> Done {
    match r.below(40) {
        0..=3 => arithmetic(a, r),
        4..=9 => memory(a, r),
        10 => change_tables(a, r),
        11..=13 => stale(a, r, depth),
        14 | 15 => strings(a, r),
        16 | 17 => flow(a, r, depth),
        18 => flags(a, r),
        19 => interrupt_return(a, r),
        20 => debug(a, r),
        21 | 22 => own_code(a, r),
        23 | 24 => exits(a, r),
        25 | 26 => privilege(a, r),
        27..=29 => floating(a, r),
        30 => stack_segment(a),
        31 => system(a, r),
        32 => several_stores(a, r),
        33 => bits(a, r),
        34 => look_at_tables(a, r),
        35 | 36 => change_tables(a, r),
        _ => bytes(a, r),
    }
}

fn arithmetic(a: &mut CodeAssembler, r: &mut Random) -> Done {
    let (x, y) = (any64(r), any64(r));
    match r.below(8) {
        0 => a.add(x, y),
        1 => a.sbb(any32(r), any32(r)),
        2 => a.imul_2(x, y),
        3 => a.shr(x, r.below(64) as u32),
        4 => a.mov(x, value(r)),
        5 => a.rcl(any32(r), cl),
        6 => a.xor(x, r.next() as i32),
        _ => a.cmp(x, y),
    }
}

/// BT after an operation on the flags, perhaps with something in between.
fn bits(a: &mut CodeAssembler, r: &mut Random) -> Done {
    let (x, y) = (any64(r), any64(r));
    match r.below(3) {
        0 => a.sub(x, y)?,
        1 => a.inc(any32(r))?,
        _ => a.adc(al, r.next() as i32 as u8 as i32)?,
    }
    for _ in 0..r.below(3) {
        a.mov(any64(r), y)?;
    }
    if r.once_in(2) { a.bt(x, r.below(64) as u32) } else { a.bts(any32(r), any32(r)) }?;
    a.pushfq()?;
    a.pop(any64(r))
}

fn memory(a: &mut CodeAssembler, r: &mut Random) -> Done {
    let (at, x) = (any64(r), any64(r));
    a.mov(at, address(r))?;
    match r.below(10) {
        0 | 1 => a.mov(x, qword_ptr(at)),
        2 => a.mov(qword_ptr(at), x),
        3 => a.add(dword_ptr(at), r.next() as i32),
        4 => a.mov(byte_ptr(at), r.below(256) as i32),
        5 => a.xchg(qword_ptr(at), x),
        6 => a.lock().cmpxchg(dword_ptr(at), any32(r)),
        7 => a.push(qword_ptr(at)),
        8 => a.pop(qword_ptr(at)),
        _ => a.movzx(x, word_ptr(at)),
    }
}

/// An access, another mapping of the page, another access; then a look at the A and D bits.
fn stale(a: &mut CodeAssembler, r: &mut Random, depth: u32) -> Done {
    let page = r.below(6);
    let touch = |a: &mut CodeAssembler, r: &mut Random| {
        let again = if r.once_in(4) { AGAIN } else { 0 };
        a.mov(rdi, WINDOW + (page << 12) + again + r.below(0xff8))?;
        match r.below(4) {
            0 => a.mov(rdx, qword_ptr(rdi)),
            1 => a.mov(qword_ptr(rdi), rdx),
            2 => a.inc(byte_ptr(rdi)),
            _ => a.stosq(),
        }
    };
    touch(a, r)?;
    remap(a, r, page)?;
    if depth > 0 && r.once_in(3) {
        item(a, r, depth - 1)?;
    }
    touch(a, r)?;
    a.mov(rbx, ENTRIES + 8 * ((WINDOW >> 12) + page))?;
    a.add(r15, qword_ptr(rbx))?;
    a.rol(r15, 7)
}

/// Another mapping somewhere in the window.
fn change_tables(a: &mut CodeAssembler, r: &mut Random) -> Done {
    let page = if r.once_in(3) { r.below(WINDOW_PAGES) } else { r.below(6) };
    remap(a, r, page)
}

/// Another mapping of a page of the window, more often than not without a word to the processor.
fn remap(a: &mut CodeAssembler, r: &mut Random, page: u64) -> Done {
    let at = ENTRIES + 8 * ((WINDOW >> 12) + page);
    match r.below(6) {
        0 => {
            a.mov(rbx, at)?;
            a.and(byte_ptr(rbx), !0x60 & 0xff)?; // A and D
        }
        1 => {
            a.mov(rbx, at)?;
            a.xor(byte_ptr(rbx), r.pick(&[1, 2, 4, 6]))?;
        }
        _ => {
            a.mov(rax, entry(r))?;
            a.mov(rbx, at)?;
            a.mov(qword_ptr(rbx), rax)?;
        }
    }
    match r.below(8) {
        0 => {
            a.mov(rcx, WINDOW + (page << 12))?;
            a.invlpg(byte_ptr(rcx))
        }
        1 => {
            a.mov(rcx, cr3)?;
            a.mov(cr3, rcx)
        }
        _ => Ok(()),
    }
}

/// A and D bits go into registers.
fn look_at_tables(a: &mut CodeAssembler, r: &mut Random) -> Done {
    a.mov(rbx, ENTRIES + 8 * ((WINDOW >> 12) + r.below(4)))?;
    a.add(r15, qword_ptr(rbx))?;
    a.xor(r14, qword_ptr(rbx + 8))?;
    a.rol(r14, 7)
}

fn strings(a: &mut CodeAssembler, r: &mut Random) -> Done {
    a.mov(rsi, address(r))?;
    a.mov(rdi, address(r))?;
    a.mov(ecx, r.pick(&[0, 1, 2, 5, 17, 40]))?;
    if r.once_in(4) {
        a.std()?;
    }
    match r.below(7) {
        0 => a.rep().movsb(),
        1 => a.rep().movsq(),
        2 => a.rep().stosd(),
        3 => a.repe().cmpsb(),
        4 => a.repne().scasw(),
        5 => a.rep().lodsb(),
        _ => a.movsd(),
    }?;
    a.cld()
}

fn flow(a: &mut CodeAssembler, r: &mut Random, depth: u32) -> Done {
    if depth == 0 {
        return a.nop();
    }
    let (mut here, mut there) = (a.create_label(), a.create_label());
    match r.below(4) {
        0 => {
            a.test(any32(r), any32(r))?;
            a.jnp(there)?;
            item(a, r, depth - 1)?;
        }
        1 => {
            a.mov(ecx, r.below(6) as u32 + 1)?;
            a.set_label(&mut here)?;
            a.push(rcx)?;
            item(a, r, depth - 1)?;
            a.pop(rcx)?;
            a.and(ecx, 7)?;
            a.dec(ecx)?;
            a.jg(here)?;
        }
        2 => {
            a.mov(ecx, r.below(5) as u32 + 1)?;
            a.set_label(&mut here)?;
            a.lea(rdx, qword_ptr(rdx + rcx * 4))?;
            a.loop_(here)?;
        }
        _ => {
            let mut function = a.create_label();
            a.call(function)?;
            a.jmp(there)?;
            a.set_label(&mut function)?;
            item(a, r, depth - 1)?;
            a.ret()?;
        }
    }
    a.set_label(&mut there)?;
    a.nop()
}

fn flags(a: &mut CodeAssembler, r: &mut Random) -> Done {
    match r.below(5) {
        0 => a.sti(),
        1 => a.cli(),
        _ => {
            a.pushfq()?;
            a.xor(dword_ptr(rsp), r.pick(&[0x200, 0x100, 0x4_0000, 0x400, 0x8d5]))?;
            a.popfq()
        }
    }
}

/// IRET to behind itself, perhaps with RF or TF.
fn interrupt_return(a: &mut CodeAssembler, r: &mut Random) -> Done {
    let mut behind = a.create_label();
    a.mov(rax, rsp)?;
    a.push(0x18)?;
    a.push(rax)?;
    a.pushfq()?;
    a.or(dword_ptr(rsp), r.pick(&[0x1_0000, 0x1_0000, 0x1_0100, 0x100, 0]))?;
    a.push(0x10)?;
    a.lea(rax, ptr(behind))?;
    a.push(rax)?;
    a.iretq()?;
    a.set_label(&mut behind)?;
    a.nop()
}

/// A breakpoint on code or data, or none.
fn debug(a: &mut CodeAssembler, r: &mut Random) -> Done {
    let mut here = a.create_label();
    match r.below(3) {
        0 => {
            a.lea(rax, ptr(here))?;
            a.mov(dr0, rax)?;
            a.mov(eax, 0x401)?;
        }
        1 => {
            a.mov(rax, address(r))?;
            a.mov(dr1, rax)?;
            a.mov(eax, r.pick(&[0x10_0404, 0x70_0404]))?;
        }
        _ => a.mov(eax, 0x400)?,
    }
    a.mov(dr7, rax)?;
    a.inc(r13)?;
    a.set_label(&mut here)?;
    a.dec(r12)
}

/// Stores to code: to what comes next, or anywhere.
fn own_code(a: &mut CodeAssembler, r: &mut Random) -> Done {
    let mut target = a.create_label();
    let (at, by) = (r.below(CODE_BYTES), r.below(256) as i32);
    match r.below(4) {
        0 => {
            a.mov(rbx, r.pick(&[CODE, USER + CODE, AGAIN + CODE]) + at)?;
            a.mov(byte_ptr(rbx), by)?;
        }
        1 => {
            a.lea(rbx, ptr(target))?;
            a.add(rbx, r.pick(&[0, USER as i32, AGAIN as i32]))?;
            a.mov(byte_ptr(rbx + 1), by)?;
        }
        _ => {
            a.lea(rbx, ptr(target))?;
            a.add(byte_ptr(rbx + 1), 3)?;
        }
    }
    for _ in 0..r.below(3) {
        a.nop()?;
    }
    a.set_label(&mut target)?;
    a.mov(al, by)
}

fn exits(a: &mut CodeAssembler, r: &mut Random) -> Done {
    a.mov(edx, r.below(0x400) as u32)?;
    match r.below(9) {
        0 => a.in_(al, dx),
        1 => a.out(dx, eax),
        2 => {
            a.mov(rdi, address(r))?;
            a.mov(ecx, r.below(40) as u32)?;
            a.rep().insb()
        }
        3 => {
            a.mov(rsi, address(r))?;
            a.mov(ecx, r.below(4) as u32)?;
            a.rep().outsd()
        }
        4 => {
            a.mov(rbx, 0x4000_0000 + r.below(0x2000))?;
            a.add(qword_ptr(rbx), any64(r))
        }
        5 => {
            a.mov(rsi, 0x4000_0000_u64)?;
            a.mov(rdi, address(r))?;
            a.mov(ecx, r.below(9) as u32)?;
            a.rep().movsw()
        }
        6 => a.hlt(),
        7 => {
            a.mov(ecx, 0x1234)?;
            if r.once_in(2) { a.rdmsr() } else { a.wrmsr() }
        }
        _ => a.rdtsc(),
    }
}

/// To the user, or back from there.
fn privilege(a: &mut CodeAssembler, r: &mut Random) -> Done {
    let mut behind = a.create_label();
    match r.below(4) {
        0 => return a.int(0x80),
        1 => return a.syscall(),
        2 => {
            a.lea(rcx, ptr(behind))?;
            a.or(ecx, USER as i32)?;
            a.mov(r11d, r.pick(&[0x202, 0x2, 0x302, 0x4_0202]))?;
            a.sysretq()?;
        }
        _ => {
            a.push(0x2b)?;
            a.push((USER + 0x2_f000) as i32)?;
            a.push(r.pick(&[0x202, 0x1_0202, 0x4_0202]))?;
            a.push(0x33)?;
            a.lea(rax, ptr(behind))?;
            a.or(eax, USER as i32)?;
            a.push(rax)?;
            a.iretq()?;
        }
    }
    a.set_label(&mut behind)?;
    a.inc(r11)
}

fn floating(a: &mut CodeAssembler, r: &mut Random) -> Done {
    a.mov(rbx, address(r))?;
    match r.below(16) {
        0 => a.fld(dword_ptr(rbx)),
        1 => a.fld(tword_ptr(rbx)),
        2 => a.fstp(qword_ptr(rbx)),
        3 => a.faddp(st1, st0),
        4 => a.fld1(),
        5 => a.fsqrt(),
        6 => a.fldcw(word_ptr(rbx)),
        7 => a.fnstenv(ptr(rbx)),
        8 => a.fninit(),
        9 => a.addpd(xmm1, xmm2),
        10 => a.movups(xmmword_ptr(rbx), xmm3),
        11 => a.movdqu(xmm2, xmmword_ptr(rbx)),
        12 => a.paddb(mm1, mm2),
        13 => a.cvtsi2sd(xmm1, rbx),
        14 => a.divss(xmm1, xmm2),
        _ => {
            a.and(bl, !15 & 0xff)?;
            if r.once_in(2) { a.fxsave(ptr(rbx)) } else { a.fxrstor(ptr(rbx)) }
        }
    }
}

fn stack_segment(a: &mut CodeAssembler) -> Done {
    a.mov(eax, ss)?;
    a.mov(ss, eax)?;
    a.nop()
}

fn system(a: &mut CodeAssembler, r: &mut Random) -> Done {
    let (register, bits) =
        r.pick(&[(cr0, 1 << 16), (cr4, 1 << 7), (cr4, 1 << 20), (cr4, 1 << 21), (cr0, 1 << 18)]);
    match r.below(4) {
        0 => a.stac(),
        1 => a.clac(),
        2 => a.swapgs(),
        _ => {
            a.mov(rax, register)?;
            a.xor(eax, bits)?;
            a.mov(register, rax)
        }
    }
}

/// One instruction that loads and stores several times.
fn several_stores(a: &mut CodeAssembler, r: &mut Random) -> Done {
    let at = address(r);
    a.push(rbp)?;
    a.mov(rdx, rsp)?;
    a.mov(rsp, at)?;
    match r.below(4) {
        0 => a.enter(16, r.below(4) as i32)?,
        1 => a.push(qword_ptr(rbx))?,
        2 => a.pop(qword_ptr(rbx))?,
        _ => a.cmpxchg16b(xmmword_ptr(rsp))?,
    }
    a.mov(rsp, rdx)?;
    a.pop(rbp)
}

/// Anything.
fn bytes(a: &mut CodeAssembler, r: &mut Random) -> Done {
    let bytes: [u8; 7] = r.bytes();
    a.db(&bytes[..r.below(7) as usize + 1])
}
