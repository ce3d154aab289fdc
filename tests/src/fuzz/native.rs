//! The real processor: a child process that loads a case's whole state by returning from a signal handler, and gets
//! control back by the signal of the exception that ends the case. One signal a case, and no assembly around it.
#![allow(unsafe_code)] // fork, signals, and the registers that they save

use super::case::{Case, Outcome};
use super::layout::{CODE, CS32, CS64, DATA, DATA_BYTES, DS, PAGE, READ_ONLY};
use super::shared::{Shared, Slot};
use super::{memory, sandbox};
use libc::{c_int, c_void, siginfo_t, ucontext_t};
use std::io;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Bytes of the FXSAVE image that are state: the kernel keeps notes of its own behind.
const FX_STATE: usize = 416;
/// Where ucontext_t keeps the registers of [`Machine`](super::case::Machine), in its order.
const GENERAL: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// What the signal handler of the child works with.
struct Context {
    shared: Shared,
    pool: &'static [u8],
    /// the code page, writable
    code: *mut u8,
    /// the data pages
    data: *mut u8,
    running: bool,
    /// the case that the last tick of the timer found
    ticked: u32,
    /// the registers between batches
    general: [libc::greg_t; 23],
    fx: [u8; FX_STATE],
}

static CONTEXT: AtomicPtr<Context> = AtomicPtr::new(std::ptr::null_mut());

/// The child process that runs cases.
pub struct Native {
    shared: Shared,
    pool: &'static [u8],
    child: libc::pid_t,
    asked: u32,
}

impl Native {
    /// A child process, waiting for cases. Only in a process with one thread.
    ///
    /// # Errors
    /// No memory, or no process.
    pub fn new(pool: &'static [u8]) -> io::Result<Self> {
        let mut native = Self { shared: Shared::new()?, pool, child: 0, asked: 0 };
        native.spawn()?;
        Ok(native)
    }

    /// Where cases go and outcomes come from.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    fn spawn(&mut self) -> io::Result<()> {
        self.shared.counters().done.store(self.asked, Ordering::Release);
        // SAFETY: this process has one thread; the child does nothing but `serve`.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                let code = match serve(self.shared, self.pool) {
                    Ok(()) => 0,
                    Err(error) => {
                        eprintln!("fuzz: the native process: {error}");
                        1
                    }
                };
                // SAFETY: leaves the child without running the parent's destructors.
                unsafe { libc::_exit(code) }
            }
            pid => {
                self.child = pid;
                Ok(())
            }
        }
    }

    /// Starts the cases loaded into slots `first` to `count` - 1.
    pub fn start(&mut self, first: usize, count: usize) {
        let counters = self.shared.counters();
        counters.first.store(first as u32, Ordering::Release);
        counters.count.store(count as u32, Ordering::Release);
        counters.current.store(first as u32, Ordering::Release);
        self.asked = self.asked.wrapping_add(1);
        Shared::signal(&counters.asked, self.asked);
    }

    /// Waits for all that was started.
    ///
    /// # Errors
    /// No process could be made in place of one that a case has killed.
    pub fn finish(&mut self) -> io::Result<()> {
        let mut still = (0, u32::MAX);
        loop {
            let counters = self.shared.counters();
            let done = counters.done.load(Ordering::Acquire);
            if done == self.asked {
                return Ok(());
            }
            Shared::wait(&counters.done, done);
            let current = counters.current.load(Ordering::Acquire);
            still = if still.1 == current { (still.0 + 1, current) } else { (0, current) };
            let dead = self.reap(libc::WNOHANG);
            if dead || still.0 > 50 {
                if !dead {
                    // SAFETY: our own child.
                    unsafe { libc::kill(self.child, libc::SIGKILL) };
                    self.reap(0);
                }
                let count = counters.count.load(Ordering::Acquire);
                self.shared.slot(current as usize % super::layout::BATCH).outcome.vector = Outcome::NONE;
                self.spawn()?;
                if current + 1 >= count {
                    return Ok(());
                }
                self.start(current as usize + 1, count as usize);
                still = (0, u32::MAX);
            }
        }
    }

    fn reap(&self, options: c_int) -> bool {
        let mut status = 0;
        // SAFETY: our own child.
        unsafe { libc::waitpid(self.child, &raw mut status, options) == self.child }
    }

    /// Runs one case by itself.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn run(&mut self, case: &Case) -> io::Result<Outcome> {
        self.shared.load(0, case);
        self.start(0, 1);
        self.finish()?;
        Ok(self.shared.slot(0).outcome)
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: our own child.
        unsafe { libc::kill(self.child, libc::SIGKILL) };
        self.reap(0);
    }
}

/// The child process: never returns but by an error.
fn serve(shared: Shared, pool: &'static [u8]) -> io::Result<()> {
    let data = memory::fixed_pages(DATA, DATA_BYTES, libc::PROT_READ | libc::PROT_WRITE)?;
    let read_only = memory::fixed_pages(READ_ONLY, PAGE as usize, libc::PROT_READ | libc::PROT_WRITE)?;
    let code = memory::code_page(CODE, PAGE as usize)?;
    // SAFETY: just mapped, so many bytes.
    unsafe {
        read_only.copy_from(pool.as_ptr(), PAGE as usize);
        code.write_bytes(0xcc, PAGE as usize);
        libc::mprotect(read_only.cast(), PAGE as usize, libc::PROT_READ);
    }
    let context = Context {
        shared,
        pool,
        code,
        data,
        running: false,
        ticked: u32::MAX,
        general: [0; 23],
        fx: [0; FX_STATE],
    };
    CONTEXT.store(Box::leak(Box::new(context)), Ordering::Release);
    handle_signals()?;
    // SAFETY: the flat user data segment, which 32-bit code needs there and 64-bit code ignores.
    unsafe {
        std::arch::asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) DS, options(nostack, preserves_flags))
    };
    sandbox::enter()?;
    let counters = shared.counters();
    loop {
        let done = counters.done.load(Ordering::Acquire);
        let asked = counters.asked.load(Ordering::Acquire);
        if asked == done {
            Shared::wait(&counters.asked, asked);
            continue;
        }
        // SAFETY: the handler runs the whole batch and then comes back here with all registers as they were.
        unsafe { std::arch::asm!("int3") };
        Shared::signal(&counters.done, asked);
    }
}

/// All exceptions' signals, a stack for them, and a timer of 50 ms of run time.
fn handle_signals() -> io::Result<()> {
    const STACK: usize = 1 << 18;
    let stack = memory::shared_pages(STACK)?;
    let timer = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
    let interval = libc::itimerval { it_interval: timer, it_value: timer };
    // SAFETY: plain system calls on local structures; `enter` is a handler of the form that SA_SIGINFO wants.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let stack = libc::stack_t { ss_sp: stack.cast(), ss_flags: 0, ss_size: STACK };
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = enter as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigfillset(&raw mut action.sa_mask);
        let signals = [
            libc::SIGTRAP,
            libc::SIGSEGV,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGBUS,
            libc::SIGSYS,
            libc::SIGVTALRM,
        ];
        libc::sigaltstack(&raw const stack, std::ptr::null_mut()) != 0
            || signals.iter().any(|s| libc::sigaction(*s, &raw const action, std::ptr::null_mut()) != 0)
            || libc::setitimer(libc::ITIMER_VIRTUAL, &raw const interval, std::ptr::null_mut()) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The handler's first instructions: AC, NT and ID are the case's and not for Rust code. AC would make it fault, the other
/// two would stay set for the next case, because returning from a signal does not load them.
#[unsafe(naked)]
unsafe extern "C" fn enter() {
    std::arch::naked_asm!(
        "pushfq",
        "and dword ptr [rsp], {mask}",
        "popfq",
        "jmp {handler}",
        mask = const !0x24_4000_i32,
        handler = sym handler,
    )
}

/// Takes what a case has come to, and loads the next one into the registers that the kernel will restore.
extern "C" fn handler(signal: c_int, _info: *const siginfo_t, user: *mut c_void) {
    // SAFETY: the kernel's ucontext_t, and the context that was stored before the handler was installed; signals are all
    // blocked here, so there is no other reference.
    let (user, context) = unsafe { (&mut *user.cast::<ucontext_t>(), &mut *CONTEXT.load(Ordering::Acquire)) };
    // SAFETY: the kernel saves the x87 and SSE state in FXSAVE's form in front of whatever else it saves.
    let fx = unsafe { &mut *user.uc_mcontext.fpregs.cast::<[u8; 576]>() };
    let registers = &mut user.uc_mcontext.gregs;
    let counters = context.shared.counters();
    let current = counters.current.load(Ordering::Relaxed);
    let tick = signal == libc::SIGVTALRM;
    if tick && (!context.running || std::mem::replace(&mut context.ticked, current) != current) {
        return;
    }
    if context.running {
        take(context, current, signal, registers, fx);
        counters.current.store(current + 1, Ordering::Release);
        if current + 1 >= counters.count.load(Ordering::Relaxed) {
            context.running = false;
            *registers = context.general;
            fx[..FX_STATE].copy_from_slice(&context.fx);
            return;
        }
        load(context, current + 1, registers, fx);
    } else if signal == libc::SIGTRAP {
        context.running = true;
        context.general = *registers;
        context.fx.copy_from_slice(&fx[..FX_STATE]);
        load(context, current, registers, fx);
    } else {
        // SAFETY: a fault of this program's own: no more can be done.
        unsafe { libc::_exit(2) };
    }
}

fn take(context: &Context, current: u32, signal: c_int, registers: &[i64; 23], fx: &[u8; 576]) {
    let slot = context.shared.slot(current as usize);
    let get = |register: c_int| registers[register as usize] as u64;
    let outcome = &mut slot.outcome;
    for (general, register) in outcome.machine.general.iter_mut().zip(GENERAL) {
        *general = get(register);
    }
    outcome.machine.rip = get(libc::REG_RIP);
    outcome.machine.rflags = get(libc::REG_EFL);
    outcome.machine.fx[..FX_STATE].copy_from_slice(&fx[..FX_STATE]);
    outcome.cr2 = get(libc::REG_CR2);
    outcome.error = get(libc::REG_ERR) as u32;
    outcome.vector = match signal {
        libc::SIGVTALRM => Outcome::ENDLESS,
        libc::SIGSYS => Outcome::SYSTEM_CALL,
        _ => get(libc::REG_TRAPNO) as u32,
    };
    // SAFETY: the data pages are mapped, so many bytes.
    unsafe { outcome.data.as_mut_ptr().copy_from(context.data, DATA_BYTES) };
    write_code(context, slot, true);
}

fn write_code(context: &Context, slot: &Slot, remove: bool) {
    let at = (slot.machine.rip - CODE) as usize;
    let length = slot.code_length as usize;
    assert!(at + length <= PAGE as usize);
    // SAFETY: within the code page, as just checked.
    unsafe {
        match remove {
            true => context.code.add(at).write_bytes(0xcc, length),
            false => context.code.add(at).copy_from(slot.code.as_ptr(), length),
        }
    }
}

fn load(context: &mut Context, current: u32, registers: &mut [i64; 23], fx: &mut [u8; 576]) {
    context.ticked = u32::MAX;
    let slot = context.shared.slot(current as usize);
    write_code(context, slot, false);
    let fill = &context.pool[slot.pool_offset as usize..][..DATA_BYTES];
    // SAFETY: the data pages are mapped, so many bytes.
    unsafe { context.data.copy_from(fill.as_ptr(), DATA_BYTES) };
    for (general, register) in slot.machine.general.iter().zip(GENERAL) {
        registers[register as usize] = *general as i64;
    }
    registers[libc::REG_RIP as usize] = slot.machine.rip as i64;
    registers[libc::REG_EFL as usize] = slot.machine.rflags as i64;
    let cs = if slot.compatibility == 1 { CS32 } else { CS64 };
    let selectors = registers[libc::REG_CSGSFS as usize] as u64 & 0x0000_ffff_ffff_0000;
    registers[libc::REG_CSGSFS as usize] = (selectors | u64::from(cs) | u64::from(DS) << 48) as i64;
    let mask: [u8; 4] = [fx[28], fx[29], fx[30], fx[31]];
    fx[..FX_STATE].copy_from_slice(&slot.machine.fx[..FX_STATE]);
    fx[28..32].copy_from_slice(&mask);
    fx[512] |= 3; // XSTATE_BV: x87 and SSE are not in their initial state
}
