//! The soft CPU in long mode at CPL 3, with the native process's address space and a kernel that halts at each exception.
#![allow(unsafe_code)] // guest RAM

use super::case::{Case, Machine, Outcome, fx};
use super::layout::{CODE, CS32, CS64, DATA, DATA_BYTES, DS, PAGE, READ_ONLY};
use super::memory;
use scribe_soft_cpu::{Behaviour, Profile, Ram, RamRegion, SoftCpu};
use scribe_types::cpu::{CpuState, DescriptorTable, Fpu, Registers, Segment};
use scribe_types::cpuid::SCRIBE_V1_TABLE;
use scribe_types::stop::{Answer, Exit, Progress, Stop};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

const RAM_BYTES: u64 = 0x4_0000;
/// Where the kernel is: an address that no case comes to.
const KERNEL: u64 = 0x6543_2100_0000;
/// The kernel's pages in RAM: GDT and TSS, IDT, handlers, stack.
const KERNEL_PAGES: u64 = 0x3_0000;
const TABLES: u64 = 0x2_0000;
const TSS: u64 = 0x200;
const HANDLERS: u64 = KERNEL + 2 * PAGE;
const STACK_END: u64 = KERNEL + 4 * PAGE;
/// Bytes of a handler.
const STRIDE: u64 = 16;

/// Set by a timer when a case takes long.
static KICK: AtomicBool = AtomicBool::new(false);

/// The soft CPU.
pub struct Soft {
    cpu: SoftCpu,
    ram: *mut u8,
    pool: &'static [u8],
    base: CpuState,
    /// how the last case ended that did not end by an exception
    pub note: String,
}

extern "C" fn tick(_signal: libc::c_int) {
    KICK.store(true, Ordering::Relaxed);
}

/// After so many seconds of run time without a reset a case is taken for endless.
fn arm(seconds: i64) {
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let timer =
        libc::itimerval { it_interval: none, it_value: libc::timeval { tv_sec: seconds, tv_usec: 0 } };
    // SAFETY: a handler that sets a flag, and a timer for it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = tick as *const () as usize;
        libc::sigaction(libc::SIGVTALRM, &raw const action, std::ptr::null_mut());
        libc::setitimer(libc::ITIMER_VIRTUAL, &raw const timer, std::ptr::null_mut());
    }
    KICK.store(false, Ordering::Relaxed);
}

impl Soft {
    /// A processor and its RAM.
    ///
    /// # Errors
    /// No memory.
    pub fn new(pool: &'static [u8]) -> io::Result<Self> {
        let ram = memory::shared_pages(RAM_BYTES as usize)?;
        let mut soft = Self { cpu: processor(ram), ram, pool, base: base(), note: String::new() };
        soft.write(READ_ONLY, &pool[..PAGE as usize]);
        soft.tables();
        soft.kernel();
        Ok(soft)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        assert!(at + bytes.len() as u64 <= RAM_BYTES);
        // SAFETY: within our RAM; the processor is not running.
        unsafe { self.ram.add(at as usize).copy_from(bytes.as_ptr(), bytes.len()) };
    }

    fn read(&self, at: u64) -> u64 {
        assert!(at + 8 <= RAM_BYTES);
        // SAFETY: within our RAM; the processor is not running.
        unsafe { self.ram.add(at as usize).cast::<u64>().read_unaligned() }
    }

    fn entry(&mut self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    /// Page tables, accessed and dirty bits set.
    fn tables(&mut self) {
        const TABLE: u64 = 0x67;
        const USER: u64 = 0x65;
        const WRITE: u64 = 0x2;
        const NO_EXECUTE: u64 = 1 << 63;
        let [top, low3, low2, low1, high3, high2, high1] = std::array::from_fn(|n| TABLES + n as u64 * PAGE);
        let index = |address: u64, level: u32| (address >> (12 + 9 * level) & 511) * 8;
        self.entry(top, low3 | TABLE);
        self.entry(low3, low2 | TABLE);
        self.entry(low2, low1 | TABLE);
        self.entry(low1 + index(CODE, 0), CODE | USER);
        for page in (DATA..READ_ONLY).step_by(PAGE as usize) {
            self.entry(low1 + index(page, 0), page | USER | WRITE | NO_EXECUTE);
        }
        self.entry(low1 + index(READ_ONLY, 0), READ_ONLY | USER | NO_EXECUTE);
        self.entry(top + index(KERNEL, 3), high3 | TABLE);
        self.entry(high3 + index(KERNEL, 2), high2 | TABLE);
        self.entry(high2 + index(KERNEL, 1), high1 | TABLE);
        for page in 0..4 {
            self.entry(high1 + 8 * page, (KERNEL_PAGES + page * PAGE) | 0x63);
        }
    }

    /// Linux's GDT, and an IDT whose gates programs may use as on Linux.
    fn kernel(&mut self) {
        let gdt = [
            0,
            0x00cf_9b00_0000_ffff,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
        ];
        for (at, descriptor) in gdt.into_iter().enumerate() {
            self.entry(KERNEL_PAGES + 8 * at as u64, descriptor);
        }
        self.write(KERNEL_PAGES + TSS + 4, &STACK_END.to_le_bytes());
        self.write(KERNEL_PAGES + TSS + 0x66, &0xffff_u16.to_le_bytes()); // no I/O permission map
        for vector in 0..256 {
            let handler = HANDLERS + vector * STRIDE;
            let level = if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 };
            let gate =
                handler & 0xffff | 0x10 << 16 | (0x8e00 | level << 13) << 32 | (handler >> 16 & 0xffff) << 48;
            self.entry(KERNEL_PAGES + PAGE + vector * 16, gate);
            self.entry(KERNEL_PAGES + PAGE + vector * 16 + 8, handler >> 32);
            self.write(KERNEL_PAGES + 2 * PAGE + vector * STRIDE, &[0xf4]);
        }
    }

    /// Runs one case.
    pub fn run(&mut self, case: &Case) -> Box<Outcome> {
        let mut outcome = Box::new(Outcome::EMPTY);
        let fill = &self.pool[case.pool_offset..][..DATA_BYTES];
        self.write(DATA, fill);
        let mut page = [0xcc; PAGE as usize];
        let code = case.code();
        page[(case.machine.rip - CODE) as usize..][..code.len()].copy_from_slice(&code);
        self.write(CODE, &page);
        self.cpu.invalidate(&[CODE / PAGE]);
        let state = self.state_of(case);
        arm(2);
        let cpu = &mut self.cpu;
        let ran = catch_unwind(AssertUnwindSafe(|| {
            if let Err(error) = cpu.set_state(&state) {
                return Err(error.to_string());
            }
            let stop = cpu.run(Some(Progress { branches: 1 << 32, steps: 0 }), &KICK);
            let after = cpu.state();
            if matches!(stop, Stop::Exit(_)) {
                cpu.answer(Answer::Done);
                cpu.finish();
            }
            Ok((stop, after))
        }));
        match ran {
            Ok(Ok((Stop::Exit(Exit::Halt), after))) => self.ended(&after, &mut outcome),
            Ok(Ok((Stop::Kicked | Stop::Reached, after))) => {
                self.registers(&after, &mut outcome.machine);
                outcome.vector = Outcome::ENDLESS;
            }
            Ok(Ok((stop, after))) => {
                self.registers(&after, &mut outcome.machine);
                outcome.vector = Outcome::STOPPED;
                self.note = format!("{stop:?}");
            }
            Ok(Err(error)) => {
                outcome.vector = Outcome::STOPPED;
                self.note = error;
            }
            Err(panic) => {
                outcome.vector = Outcome::STOPPED;
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                self.note = format!("panicked: {}", text.unwrap_or("?"));
                self.cpu = processor(self.ram);
            }
        }
        self.check_read_only(&mut outcome);
        // SAFETY: within our RAM; the processor is not running.
        unsafe { outcome.data.as_mut_ptr().copy_from(self.ram.add(DATA as usize), DATA_BYTES) };
        outcome
    }

    /// A write to the page that cannot be written would show in later cases only.
    fn check_read_only(&mut self, outcome: &mut Outcome) {
        let wanted = &self.pool[..PAGE as usize];
        // SAFETY: within our RAM; the processor is not running.
        let found = unsafe { std::slice::from_raw_parts(self.ram.add(READ_ONLY as usize), PAGE as usize) };
        if let Some(at) = found.iter().zip(wanted).position(|(found, wanted)| found != wanted) {
            outcome.vector = Outcome::STOPPED;
            self.note = format!("wrote to the read-only page at {:#x}", READ_ONLY + at as u64);
            self.write(READ_ONLY, wanted);
        }
    }

    /// What an exception's handler finds.
    fn ended(&mut self, after: &CpuState, outcome: &mut Outcome) {
        let handler = after.registers.rip.wrapping_sub(HANDLERS) / STRIDE;
        let stack = after.registers.general[4];
        let words = STACK_END.wrapping_sub(stack) / 8;
        if handler > 255 || !matches!(words, 5 | 6) {
            outcome.vector = Outcome::STOPPED;
            self.note = format!("halted at {:#x} with stack {stack:#x}", after.registers.rip);
            return;
        }
        let frame = stack - KERNEL + KERNEL_PAGES + 8 * (words - 5);
        self.registers(after, &mut outcome.machine);
        outcome.vector = handler as u32;
        outcome.error = if words == 6 { self.read(frame - 8) as u32 } else { 0 };
        outcome.cr2 = after.cr2;
        outcome.machine.rip = self.read(frame);
        outcome.machine.rflags = self.read(frame + 16);
        outcome.machine.general[4] = self.read(frame + 24);
    }

    fn registers(&self, state: &CpuState, machine: &mut Machine) {
        machine.general = state.registers.general;
        machine.rip = state.registers.rip;
        machine.rflags = state.registers.rflags;
        machine.put(fx::FCW, &state.fpu.fcw.to_le_bytes());
        machine.put(fx::FSW, &state.fpu.fsw.to_le_bytes());
        machine.put(fx::FTW, &[state.fpu.ftw]);
        machine.put(fx::MXCSR, &state.fpu.mxcsr.to_le_bytes());
        machine.put(fx::ST, state.fpu.st.as_flattened());
        machine.put(fx::XMM, state.fpu.xmm.as_flattened());
    }

    fn state_of(&self, case: &Case) -> CpuState {
        let machine = &case.machine;
        let mut state = self.base.clone();
        state.registers =
            Registers { general: machine.general, rip: machine.rip, rflags: machine.rflags | 2 };
        if case.compatibility {
            state.segments[1] = Segment { selector: CS32, attributes: 0xc0fb, ..state.segments[1] };
        }
        state.fpu = Fpu {
            st: std::array::from_fn(|n| machine.bytes(fx::ST + 16 * n)),
            xmm: std::array::from_fn(|n| machine.bytes(fx::XMM + 16 * n)),
            fcw: machine.word(fx::FCW),
            fsw: machine.word(fx::FSW),
            ftw: machine.fx[fx::FTW],
            mxcsr: machine.mxcsr(),
        };
        state
    }
}

fn processor(ram: *mut u8) -> SoftCpu {
    let profile = Profile { cpuid: &SCRIBE_V1_TABLE, tsc: false, behaviour: Behaviour::Zen };
    // SAFETY: these pages are mapped for ever, and are written between runs only.
    let ram = unsafe { Ram::new(vec![RamRegion { start: 0, size: RAM_BYTES, host: ram as u64 }]) };
    SoftCpu::new(ram, profile)
}

/// CPL 3 in 64-bit mode, control registers as Linux has them.
fn base() -> CpuState {
    let data = Segment { base: 0, limit: u32::MAX, selector: DS, attributes: 0xc0f3 };
    let code = Segment { base: 0, limit: u32::MAX, selector: CS64, attributes: 0xa0fb };
    let null = Segment { attributes: 1 << 16, ..Segment::default() };
    let task = Segment { base: KERNEL + TSS, limit: 0x67, selector: 0x40, attributes: 0x8b };
    CpuState {
        segments: [data, code, data, data, null, null, null, task],
        gdt: DescriptorTable { base: KERNEL, limit: 0x7f },
        idt: DescriptorTable { base: KERNEL + PAGE, limit: 0xfff },
        cr0: 0x8005_0033,
        cr3: TABLES,
        cr4: 0x6a0,
        efer: 0xd01,
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        ..CpuState::default()
    }
}
