//! Hand-made guests of a few hundred bytes: assembled here, packed into a minimal ELF kernel, started the public way.
//!
//! They start as a Linux kernel does (`scribe_vmm::machine::boot`): long mode, CPL 0, the first 4 GiB mapped one to one,
//! RSI at the boot parameters, interrupts off, no IDT. They keep to instructions that every KVM can run, also one that
//! emulates CPL 0: plain integer operations, port I/O, HLT, IRETQ; no SSE.
//!
//! [`kvm`] says whether there is a KVM to run them on; tests that cannot run are [`skip`]ped, and counted.

use std::io::Write;
use std::path::{Path, PathBuf};

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use scribe_vmm::machine::platform::{GUEST_INTERFACE_PORT, UART_PORT};

/// Where guests are loaded and entered.
pub const CODE: u64 = 0x10_0000;
/// RAM that nothing else uses, up to [`RAM`].
pub const DATA: u64 = 0x14_0000;
/// Guest RAM: the least there is.
pub const RAM: u64 = 2 << 20;
/// An address that is neither RAM nor any device's.
pub const MMIO: u64 = 0xc800_0000;
/// Where [`load_idt`] has the IDT.
pub const IDT: u64 = 0x13_0000;
/// First vector of the PIC pair, as Linux programs it.
pub const PIC_VECTORS: u8 = 0x30;
/// Input clock of the PIT, Hz.
pub const PIT_HZ: u64 = 1_193_182;

/// What emitting code comes to.
pub type Emitted = Result<(), IcedError>;

/// Machine code as it is at [`CODE`].
///
/// # Panics
/// The code cannot be assembled.
pub fn assemble(emit: impl FnOnce(&mut CodeAssembler) -> Emitted) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).unwrap();
    emit(&mut assembler).unwrap();
    assembler.assemble(CODE).unwrap()
}

/// A kernel file: an ELF with one loadable segment at [`CODE`], entered at its start, and the note that says that it
/// reads no clock of the processor's (docs/guest-interface.md).
pub fn kernel(emit: impl FnOnce(&mut CodeAssembler) -> Emitted) -> Vec<u8> {
    elf(&assemble(emit))
}

/// As [`kernel`], from machine code.
pub fn elf(code: &[u8]) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM_HEADER: u64 = 56;
    const NOTE: u64 = HEADER + 2 * PROGRAM_HEADER;
    const NOTE_BYTES: u64 = 24;
    const CODE_OFFSET: u64 = NOTE + NOTE_BYTES;
    const LOAD: u32 = 1;
    const NOTES: u32 = 4;
    let program_header = |kind: u32, offset: u64, address: u64, bytes: u64, alignment: u64| {
        let flags: u32 = 7;
        let mut out = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
        for word in [offset, address, address, bytes, bytes, alignment] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out
    };
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version 1
    for word in [CODE, HEADER, 0] {
        out.extend_from_slice(&word.to_le_bytes()); // entry, program headers, section headers
    }
    out.extend_from_slice(&[0, 0, 0, 0]); // flags
    for half in [64u16, 56, 2, 0, 0, 0] {
        out.extend_from_slice(&half.to_le_bytes()); // sizes and numbers of headers
    }
    out.extend(program_header(LOAD, CODE_OFFSET, CODE, code.len() as u64, 1));
    out.extend(program_header(NOTES, NOTE, 0, NOTE_BYTES, 4));
    for word in [7u32, 4, 1] {
        out.extend_from_slice(&word.to_le_bytes()); // length of the owner, of the descriptor; type
    }
    out.extend_from_slice(b"Scribe\0\0\x01\0\0\0");
    out.extend_from_slice(code);
    out
}

/// OUT of a byte. Changes AL and DX.
pub fn out8(a: &mut CodeAssembler, port: u16, value: u8) -> Emitted {
    a.mov(al, u32::from(value))?;
    a.mov(dx, u32::from(port))?;
    a.out(dx, al)
}

/// OUT of four bytes. Changes RAX and DX.
pub fn out32(a: &mut CodeAssembler, port: u16, value: u32) -> Emitted {
    a.mov(eax, value)?;
    a.mov(dx, u32::from(port))?;
    a.out(dx, eax)
}

/// A write to a register of the guest interface. Changes RAX and DX.
pub fn ask(a: &mut CodeAssembler, offset: u16, value: u32) -> Emitted {
    out32(a, GUEST_INTERFACE_PORT + offset, value)
}

/// Text into the guest interface's message buffer. Changes AL and DX.
pub fn message(a: &mut CodeAssembler, text: &str) -> Emitted {
    text.bytes().try_for_each(|byte| out8(a, GUEST_INTERFACE_PORT + 0x20, byte))
}

/// Text to the console. Changes AL and DX.
pub fn print(a: &mut CodeAssembler, text: &str) -> Emitted {
    text.bytes().try_for_each(|byte| out8(a, UART_PORT, byte))
}

/// Ends the machine with a status.
pub fn power_off(a: &mut CodeAssembler, status: u8) -> Emitted {
    ask(a, 0x14, status.into())?;
    ask(a, 0x18, 0)
}

/// The PIC pair as Linux sets it up, vectors from [`PIC_VECTORS`], with these IRQs let through. Changes AL and DX.
pub fn pic(a: &mut CodeAssembler, irqs: &[u8]) -> Emitted {
    let open = irqs.iter().fold(0u16, |mask, irq| mask | 1 << irq);
    let [low, high] = (!open).to_le_bytes();
    for (port, value) in [
        (0x20, 0x11),
        (0x21, PIC_VECTORS),
        (0x21, 0x04),
        (0x21, 0x01),
        (0xa0, 0x11),
        (0xa1, PIC_VECTORS + 8),
        (0xa1, 0x02),
        (0xa1, 0x01),
        (0x21, low),
        (0xa1, high),
    ] {
        out8(a, port, value)?;
    }
    Ok(())
}

/// Acknowledges an interrupt of the first PIC. Changes AL and DX.
pub fn end_of_interrupt(a: &mut CodeAssembler) -> Emitted {
    out8(a, 0x20, 0x20)
}

/// PIT channel 0 as a periodic tick (mode 2). Changes AL and DX.
pub fn pit_periodic(a: &mut CodeAssembler, count: u16) -> Emitted {
    pit(a, 0x34, count)
}

/// PIT channel 0 as a single tick (mode 0). Changes AL and DX.
pub fn pit_once(a: &mut CodeAssembler, count: u16) -> Emitted {
    pit(a, 0x30, count)
}

fn pit(a: &mut CodeAssembler, mode: u8, count: u16) -> Emitted {
    let [low, high] = count.to_le_bytes();
    out8(a, 0x43, mode)?;
    out8(a, 0x40, low)?;
    out8(a, 0x40, high)
}

/// Points `vector` at `handler`. Changes RAX and RDI.
pub fn gate(a: &mut CodeAssembler, vector: u8, handler: CodeLabel) -> Emitted {
    const INTERRUPT_GATE: u32 = 0x8e00;
    const BOOT_CS: u32 = 0x10;
    a.lea(rax, ptr(handler))?;
    a.mov(rdi, IDT + 16 * u64::from(vector))?;
    a.mov(word_ptr(rdi), ax)?;
    a.mov(word_ptr(rdi + 2), BOOT_CS)?;
    a.mov(word_ptr(rdi + 4), INTERRUPT_GATE)?;
    a.shr(rax, 16)?;
    a.mov(word_ptr(rdi + 6), ax)?;
    a.mov(dword_ptr(rdi + 8), 0)?;
    a.mov(dword_ptr(rdi + 12), 0)?;
    a.cmp(rax, rax) // the shift leaves some flags open, and the flags are in digests
}

/// Loads IDTR with the table that [`gate`] fills. Changes RDI.
pub fn load_idt(a: &mut CodeAssembler) -> Emitted {
    a.mov(rdi, IDT + 0x1000)?;
    a.mov(word_ptr(rdi), 0xfff)?;
    a.mov(dword_ptr(rdi + 2), u32::try_from(IDT).unwrap())?;
    a.mov(dword_ptr(rdi + 6), 0)?;
    a.lidt(ptr(rdi))
}

/// Returns from an interrupt handler with interrupts off, whatever they were. Changes no register.
///
/// A guest that otherwise turns them on by `sti; hlt` alone takes interrupts at exits only: on a KVM that emulates CPL 0
/// an interrupt window opens late, by an amount that depends on the host's scheduler.
pub fn return_with_interrupts_off(a: &mut CodeAssembler) -> Emitted {
    a.and(qword_ptr(rsp + 16), -0x201)?; // RFLAGS.IF in the frame
    a.iretq()
}

/// Spins for `turns` decrements without an exit. Changes RCX.
pub fn spin(a: &mut CodeAssembler, turns: u32) -> Emitted {
    a.mov(ecx, turns)?;
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.dec(ecx)?;
    a.jnz(again)
}

/// Whether this host has a KVM that test `name` can use; if not, it is [`skip`]ped.
pub fn kvm(name: &str) -> bool {
    let found = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !found {
        skip(name, "no /dev/kvm");
    }
    found
}

/// Says on stderr, past the capture of passing tests, that test `name` is skipped, and adds a line to
/// `target/tests/skipped`. `make test` counts its lines, and removes the file first.
pub fn skip(name: &str, reason: &str) {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    note(name, reason, &target.join("tests/skipped"), &mut std::io::stderr());
}

fn note(name: &str, reason: &str, file: &Path, loud: &mut dyn Write) {
    // One write each: tests run side by side.
    let _ = loud.write_all(format!("SKIPPED ({reason}): {name}\n").as_bytes());
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut file = std::fs::File::options().create(true).append(true).open(file).unwrap();
    file.write_all(format!("{name}\n").as_bytes()).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;
    use scribe_vmm::machine::kernel::{self, Blob, Format};

    #[test]
    fn a_guest_is_a_kernel_with_the_note() {
        let blob = Blob { source: "tiny".into(), bytes: kernel(|a| power_off(a, 0)) };
        assert_eq!(kernel::format(&blob).unwrap(), Format::Elf);
        assert_eq!(kernel::note(&blob), Some(1));
        assert!(blob.bytes.len() < 300, "{} bytes", blob.bytes.len());
    }

    #[test]
    fn a_skipped_test_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tests/skipped");
        let mut said = Vec::new();
        note("one", "no KVM", &file, &mut said);
        note("two", "too slow", &file, &mut said);
        let said = String::from_utf8(said).unwrap();
        assert_eq!(said, "SKIPPED (no KVM): one\nSKIPPED (too slow): two\n");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "one\ntwo\n");
    }
}
