//! Code that is written while it runs.

use iced_x86::code_asm::*;

use super::Suite;
use super::layout::{PT, Start, TEST};

pub(super) fn add(suite: &mut Suite) {
    for (distance, name) in [(0, "next"), (1, "second next"), (8, "ninth next")] {
        suite.add(format!("modify {name} instruction"), Start::User, |a| {
            let mut target = a.create_label();
            a.xor(ecx, ecx)?;
            a.lea(rbx, ptr(target))?;
            a.mov(byte_ptr(rbx + 1), 0xc1)?; // DEC becomes INC
            for _ in 0..distance {
                a.nop()?;
            }
            a.set_label(&mut target)?;
            a.db(&[0xff, 0xc9])
        });
    }
    suite.add("modify the very next bytes", Start::User, |a| {
        let mut target = a.create_label();
        a.xor(ecx, ecx)?;
        a.mov(word_ptr(target), 0xc1ff)?; // inc ecx
        a.set_label(&mut target)?;
        a.db(&[0xff, 0xc9])
    });
    suite.add("modify behind a rep", Start::User, |a| {
        let mut target = a.create_label();
        a.lea(rdi, ptr(target))?;
        a.mov(ecx, 6)?;
        a.mov(al, 0x90)?;
        a.rep().stosb()?;
        a.set_label(&mut target)?;
        a.db(&[0x0f, 0x0b, 0x0f, 0x0b, 0x0f, 0x0b])
    });
    suite.add("modify itself by rep", Start::User, |a| {
        // REP STOSB over its own two bytes and on.
        let mut target = a.create_label();
        a.lea(rdi, ptr(target))?;
        a.mov(ecx, 4)?;
        a.mov(al, 0x90)?;
        a.set_label(&mut target)?;
        a.rep().stosb()?;
        a.db(&[0x0f, 0x0b])
    });
    suite.add("modify a loop", Start::User, |a| {
        let mut again = a.create_label();
        let mut target = a.create_label();
        a.mov(ecx, 5)?;
        a.xor(eax, eax)?;
        a.lea(rbx, ptr(target))?;
        a.set_label(&mut again)?;
        a.nop()?;
        a.set_label(&mut target)?;
        a.db(&[0x83, 0xc0, 1])?; // add eax, 1
        a.inc(byte_ptr(rbx + 2))?;
        a.dec(ecx)?;
        a.jnz(again)
    });
    suite
        .add("modify another page that has run", Start::User, |a| {
            a.mov(rdi, TEST)?;
            a.xor(eax, eax)?;
            a.call(rdi)?;
            a.mov(byte_ptr(rdi + 1), 0xc8)?; // inc eax becomes dec eax
            a.call(rdi)?;
            a.call(rdi)
        })
        .poke(TEST, &[0xff, 0xc0, 0xc3]);
    suite
        .add("modify across pages", Start::User, |a| {
            a.mov(rdi, TEST + 0xffe)?;
            a.call(rdi)?;
            a.mov(ebx, eax)?;
            a.mov(dword_ptr(rdi), 0x4433_22b8)?; // of mov eax, imm32: the immediate's first half
            a.call(rdi)?;
            a.mov(edx, eax)?;
            a.mov(byte_ptr(rdi + 4), 0x99)?;
            a.call(rdi)
        })
        .poke(TEST + 0xffe, &[0xb8, 1, 2, 3, 4, 0xc3]);
    suite
        .add("modify by another mapping", Start::User, |a| {
            a.mov(rdi, TEST)?;
            a.xor(eax, eax)?;
            a.call(rdi)?;
            a.mov(byte_ptr(TEST + 0x1001), 0xc8)?;
            a.call(rdi)
        })
        .poke(TEST, &[0xff, 0xc0, 0xc3])
        .page(TEST + 0x1000, TEST | 7);
    suite
        .add("modify by remapping", Start::Kernel, |a| {
            a.mov(rdi, TEST)?;
            a.xor(eax, eax)?;
            a.call(rdi)?;
            a.mov(rbx, PT + (TEST >> 12) * 8)?;
            a.mov(qword_ptr(rbx), i32::try_from(TEST + 0x1003).unwrap())?;
            a.invlpg(ptr(rdi + 0))?;
            a.call(rdi)
        })
        .poke(TEST, &[0xff, 0xc0, 0xc3])
        .poke(TEST + 0x1000, &[0x83, 0xc0, 0x40, 0xc3]);
    suite.add("modify by push", Start::User, |a| {
        let mut target = a.create_label();
        a.mov(rax, 0x9090_9090_9090_9090_u64)?;
        a.lea(rsp, ptr(target))?;
        a.add(rsp, 8)?;
        a.push(rax)?;
        a.set_label(&mut target)?;
        a.db(&[0x0f, 0x0b, 0x0f, 0x0b, 0x0f, 0x0b, 0x0f, 0x0b])
    });
    suite
        .add("modify then no-execute", Start::Kernel, |a| {
            a.mov(rdi, TEST)?;
            a.call(rdi)?;
            a.mov(rbx, PT + (TEST >> 12) * 8)?;
            a.bts(qword_ptr(rbx), 63)?;
            a.invlpg(ptr(rdi + 0))?;
            a.call(rdi)
        })
        .poke(TEST, &[0xc3]);
}
