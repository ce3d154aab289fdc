//! Instructions that a kernel of our platform needs at CPL 0: which does this KVM refuse? All in one guest, or, where
//! that fails, each alone.
//!
//! XSAVE and its relatives are not among them, because the platform's processors have none.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::exit::Exit;
use super::guest::{Guest, ProbeError};
use super::layout::{self, KERNEL_CS, KERNEL_SS, Ring, TSS_SELECTOR};
use super::{Finding, Probe, Scope};
use crate::machine::msr::NATIVE;

const MARK: u8 = 0x11;
const CR4_PGE: i32 = 1 << 7;
/// TSC_AUX is in the table for completeness, but exists only with RDTSCP.
const TSC_AUX: u32 = 0xc000_0103;

pub(super) const INSTRUCTIONS: Probe = Probe {
    name: "kernel-instructions",
    scope: Scope::Quick,
    why: "A guest kernel stops at the first instruction that KVM refuses.",
    fix: super::FIX_OTHER_HOST,
    run: instructions,
};

type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Name and code. RDI points to a zeroed page, RSI into its middle, RAX, RBX, RCX, RDX are 0.
const SNIPPETS: &[(&str, Emit)] = &[
    ("CPUID", |a| a.cpuid()),
    ("POPCNT", |a| a.popcnt(rax, rdi)),
    ("BSF", |a| a.bsf(rax, rdi)),
    ("BSR", |a| a.bsr(rax, rdi)),
    ("BSWAP", |a| a.bswap(rdi)),
    ("CRC32", |a| a.crc32(rax, qword_ptr(rdi))),
    ("IMUL", |a| a.imul_3(rax, rdi, 3)),
    ("MUL", |a| a.mul(rdi)),
    ("DIV", |a| {
        a.mov(ecx, 7)?;
        a.mov(eax, 100)?;
        a.div(rcx)
    }),
    ("SHLD", |a| a.shld(rax, rdi, 5u32)),
    ("CMOV", |a| a.cmove(rax, rdi)),
    ("SETcc", |a| a.sete(al)),
    ("MOVZX", |a| a.movzx(eax, byte_ptr(rdi))),
    ("LEAVE", |a| {
        a.push(rbp)?;
        a.mov(rbp, rsp)?;
        a.leave()
    }),
    ("indirect CALL", |a| {
        let mut target = a.create_label();
        a.lea(rax, ptr(target))?;
        a.call(rax)?;
        a.set_label(&mut target)?;
        a.pop(rax)
    }),
    ("long NOP", |a| a.db(&[0x0f, 0x1f, 0x44, 0, 0])),
    ("ENDBR64", |a| a.endbr64()),
    ("PAUSE", |a| a.pause()),
    ("PREFETCH", |a| a.prefetcht0(byte_ptr(rdi))),
    ("CLFLUSH", |a| a.clflush(byte_ptr(rdi))),
    ("MFENCE", |a| a.mfence()),
    ("LFENCE", |a| a.lfence()),
    ("SFENCE", |a| a.sfence()),
    ("MOVNTI", |a| a.movnti(qword_ptr(rdi), rax)),
    ("XCHG", |a| a.xchg(qword_ptr(rdi), rax)),
    ("LOCK INC", |a| a.lock().inc(dword_ptr(rdi))),
    ("LOCK XADD", |a| a.lock().xadd(qword_ptr(rdi), rax)),
    ("LOCK BTS", |a| a.lock().bts(qword_ptr(rdi), 3u32)),
    ("LOCK CMPXCHG", |a| a.lock().cmpxchg(qword_ptr(rdi), rcx)),
    ("CMPXCHG8B", |a| a.lock().cmpxchg8b(qword_ptr(rdi))),
    ("CMPXCHG16B", |a| a.lock().cmpxchg16b(xmmword_ptr(rdi))),
    ("REP MOVSB", |a| {
        a.mov(ecx, 100)?;
        a.rep().movsb()
    }),
    ("REP MOVSQ", |a| {
        a.mov(ecx, 16)?;
        a.rep().movsq()
    }),
    ("REP STOSQ", |a| {
        a.mov(ecx, 16)?;
        a.rep().stosq()
    }),
    ("REPE CMPSB", |a| {
        a.mov(ecx, 16)?;
        a.repe().cmpsb()
    }),
    ("REPNE SCASB", |a| {
        a.mov(ecx, 16)?;
        a.repne().scasb()
    }),
    ("PUSHFQ, POPFQ", |a| {
        a.pushfq()?;
        a.popfq()
    }),
    ("CLI, STI", |a| {
        a.sti()?;
        a.cli()
    }),
    ("CLD, STD", |a| {
        a.std()?;
        a.cld()
    }),
    ("STAC, CLAC", |a| {
        a.stac()?;
        a.clac()
    }),
    ("SWAPGS", |a| {
        a.swapgs()?;
        a.swapgs()
    }),
    ("MOV segment", |a| {
        a.mov(eax, u32::from(KERNEL_SS))?;
        a.mov(ds, eax)?;
        a.mov(fs, eax)?;
        a.mov(ss, eax)?;
        a.mov(eax, ds)
    }),
    ("LGDT", |a| {
        a.mov(word_ptr(rdi), i32::from(layout::GDT_LIMIT))?;
        a.mov(rax, Ring::Kernel.at(layout::GDT))?;
        a.mov(qword_ptr(rdi + 2), rax)?;
        a.lgdt(fword_ptr(rdi))
    }),
    ("LIDT", |a| {
        a.mov(word_ptr(rdi), i32::from(layout::IDT_LIMIT))?;
        a.mov(rax, Ring::Kernel.at(layout::IDT))?;
        a.mov(qword_ptr(rdi + 2), rax)?;
        a.lidt(fword_ptr(rdi))
    }),
    ("LLDT", |a| a.lldt(ax)),
    ("LTR", |a| {
        a.mov(rax, Ring::Kernel.at(layout::GDT + u64::from(TSS_SELECTOR) + 5))?;
        a.and(byte_ptr(rax), 0xfd_i32)?; // not busy
        a.mov(eax, u32::from(TSS_SELECTOR))?;
        a.ltr(ax)
    }),
    ("STR", |a| a.str(eax)),
    ("LAR", |a| {
        a.mov(eax, u32::from(KERNEL_CS))?;
        a.lar(ecx, eax)
    }),
    ("LSL", |a| {
        a.mov(eax, u32::from(KERNEL_CS))?;
        a.lsl(ecx, eax)
    }),
    ("VERW", |a| {
        a.mov(eax, u32::from(KERNEL_SS))?;
        a.verw(ax)
    }),
    ("MOV CR0", |a| {
        a.mov(rax, cr0)?;
        a.mov(cr0, rax)
    }),
    ("MOV CR2", |a| {
        a.mov(rax, cr2)?;
        a.mov(cr2, rax)
    }),
    ("MOV CR3", |a| {
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)
    }),
    ("MOV CR4", |a| {
        a.mov(rax, cr4)?;
        a.xor(rax, CR4_PGE)?;
        a.mov(cr4, rax)?;
        a.xor(rax, CR4_PGE)?;
        a.mov(cr4, rax)
    }),
    ("CLTS", |a| a.clts()),
    ("MOV DR", |a| {
        a.mov(rax, dr7)?;
        a.mov(dr0, rcx)?;
        a.mov(dr7, rax)?;
        a.mov(rax, dr6)
    }),
    ("INVLPG", |a| a.invlpg(byte_ptr(rdi))),
    ("WBINVD", |a| a.wbinvd()),
    ("far RET", |a| {
        let mut target = a.create_label();
        a.push(i32::from(KERNEL_CS))?;
        a.lea(rax, ptr(target))?;
        a.push(rax)?;
        a.db(&[0x48, 0xcb])?; // RETFQ
        a.set_label(&mut target)?;
        a.nop()
    }),
    ("IRETQ", |a| {
        let mut target = a.create_label();
        a.mov(rax, rsp)?;
        a.push(i32::from(KERNEL_SS))?;
        a.push(rax)?;
        a.pushfq()?;
        a.push(i32::from(KERNEL_CS))?;
        a.lea(rax, ptr(target))?;
        a.push(rax)?;
        a.iretq()?;
        a.set_label(&mut target)?;
        a.nop()
    }),
    ("FNINIT", |a| a.fninit()),
    ("FNSTCW", |a| a.fnstcw(word_ptr(rdi))),
    ("FNSTSW", |a| a.fnstsw(ax)),
    ("FNCLEX", |a| a.fnclex()),
    ("FWAIT", |a| a.wait()),
    ("STMXCSR, LDMXCSR", |a| {
        a.stmxcsr(dword_ptr(rdi))?;
        a.ldmxcsr(dword_ptr(rdi))
    }),
    ("FXSAVE", |a| a.fxsave64(ptr(rdi))),
    ("FXRSTOR", |a| {
        // Not what FXSAVE left: the image must be good also where FXSAVE is refused.
        a.mov(dword_ptr(rdi), 0x37f)?; // FCW
        a.mov(dword_ptr(rdi + 24), 0x1f80)?; // MXCSR
        a.fxrstor64(ptr(rdi))
    }),
    ("MOVDQA", |a| {
        a.movdqa(xmm0, xmmword_ptr(rdi))?;
        a.movdqa(xmmword_ptr(rdi), xmm0)
    }),
    ("MOVUPS", |a| {
        a.movups(xmm1, xmmword_ptr(rdi + 1))?;
        a.movups(xmmword_ptr(rdi + 1), xmm1)
    }),
    ("MOVQ XMM", |a| {
        a.movq(xmm2, rax)?;
        a.movq(rax, xmm2)
    }),
    ("PXOR", |a| a.pxor(xmm3, xmm3)),
    ("PSHUFB", |a| a.pshufb(xmm3, xmm2)),
];

/// Runs one snippet. `None`: it works.
fn refusal(
    guest: &mut Guest,
    expected: Exit,
    emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<Option<Exit>, ProbeError> {
    guest.start(Ring::Kernel, |a| {
        emit(a)?;
        a.out(u32::from(MARK), al)?;
        a.hlt()
    })?;
    let exit = guest.run()?;
    Ok((exit != expected).then_some(exit))
}

fn native_msrs() -> impl Iterator<Item = u32> {
    NATIVE.into_iter().filter(|msr| *msr != TSC_AUX)
}

fn rewrite_msr(a: &mut CodeAssembler, msr: u32) -> Result<(), IcedError> {
    a.mov(ecx, msr)?;
    a.rdmsr()?;
    a.wrmsr()
}

/// Whether all of them run one after the other in one guest, which is much cheaper than a guest for each.
fn all_at_once(guest: &mut Guest) -> Result<bool, ProbeError> {
    let start = Ring::Kernel.registers();
    guest.start(Ring::Kernel, |a| {
        a.int3()?;
        for (_, emit) in SNIPPETS {
            a.mov(rdi, start.rdi)?;
            a.mov(rsi, start.rsi)?;
            for register in [eax, ebx, ecx, edx] {
                a.xor(register, register)?;
            }
            emit(a)?;
        }
        for msr in native_msrs() {
            rewrite_msr(a, msr)?;
        }
        a.out(u32::from(MARK), al)?;
        a.hlt()
    })?;
    guest.handler(3, |a| a.iretq())?;
    Ok(guest.run()? == Exit::Mark(MARK))
}

fn instructions(guest: &mut Guest) -> Result<Finding, ProbeError> {
    if all_at_once(guest)? {
        let tried = 1 + SNIPPETS.len() + native_msrs().count();
        return Ok(Finding::ok(format!("all {tried} tried at CPL 0 run")));
    }
    let mut refused = Vec::new();
    let mut odd = Vec::new();
    let mut run = 0;
    let mut note = |name: String, exit: Option<Exit>| {
        run += 1;
        match exit {
            Some(exit) if exit.is_refusal() => refused.push(name),
            Some(exit) => odd.push(format!("{name}: {exit}")),
            None => {}
        }
        !matches!(exit, Some(Exit::DidNotComeBack { .. } | Exit::NotRun))
    };
    let mut go_on = note("INT3".into(), refusal(guest, Exit::Vector(3), |a| a.int3())?);
    for (name, emit) in SNIPPETS {
        if go_on {
            go_on = note((*name).into(), refusal(guest, Exit::Mark(MARK), emit)?);
        }
    }
    for msr in native_msrs() {
        if go_on {
            let exit = refusal(guest, Exit::Mark(MARK), |a| rewrite_msr(a, msr))?;
            go_on = note(format!("RDMSR and WRMSR {msr:#x}"), exit);
        }
    }
    if refused.is_empty() && odd.is_empty() {
        return Ok(Finding::ok(format!("all {run} tried at CPL 0 run")));
    }
    let mut found = Vec::new();
    if !refused.is_empty() {
        found.push(format!("KVM refuses {} of {run} at CPL 0: {}", refused.len(), refused.join(", ")));
    }
    found.extend(odd);
    Ok(Finding::fail(found.join("; ")))
}
