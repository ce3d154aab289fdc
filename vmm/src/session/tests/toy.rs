//! A made-up processor: a list of operations, one interrupt handler, and everything an [`Engine`] must do.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use crate::engine::cpu::{CpuState, Registers};
use crate::engine::{Answer, Engine, EngineError, Exit, Fault, Progress, Stop};
use crate::host::{clock, kick};
use crate::machine::memory::GuestRam;

/// What a toy guest can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// write a byte to a port
    Out(u16, u8),
    /// write the accumulator to a port
    OutAccumulator(u16),
    /// read a byte from a port into the accumulator
    In(u16),
    /// write 32 bits to a port
    Out32(u16, u32),
    /// store 32 bits at an address that is not RAM
    StoreOutside(u64, u32),
    Halt,
    Sti,
    Cli,
    /// go to an operation of the program
    Jump(usize),
    /// skip the next operation unless the accumulator has this value; a branch
    IfEqual(u8),
    /// leave the handler
    Return,
    /// compute for ever: only a kick comes out. A branch, each time
    Spin,
    /// count in a register: an operation that is no branch
    Count,
    /// go to an operation without having executed anything, as a fault does
    Fault(usize),
    /// write what was counted to a page of RAM, another one each time
    Keep,
    /// take two milliseconds of the host's time
    Linger,
    /// end in a triple fault
    Crash,
}

/// The toy.
pub(super) struct Toy {
    /// program, then handler
    ops: Vec<Op>,
    handler: usize,
    at: usize,
    accumulator: u8,
    interrupts: bool,
    /// where the handler returns to
    back: Option<usize>,
    window: bool,
    reading: bool,
    count: u64,
    /// if it counts: how far it is since the last exit
    progress: Option<Progress>,
    /// how often it comes back from a run as if kicked: one time in so many, on average
    restless: u64,
    random: u64,
    /// where it stores, and the frames it has stored to since somebody asked
    ram: Option<GuestRam>,
    dirty: BTreeSet<u64>,
}

impl Toy {
    /// A toy that counts, and comes back kicked now and then, at times that depend on `seed`.
    pub(super) fn counting(program: &[Op], handler: &[Op], seed: u64) -> Self {
        let toy = Self::new(program, handler);
        Self { progress: Some(Progress::NONE), restless: 40, random: seed, ..toy }
    }

    /// A toy that does not count, has RAM to store to, and comes back kicked now and then, at times that depend on `seed`.
    pub(super) fn storing(program: &[Op], handler: &[Op], ram: &GuestRam, seed: u64) -> Self {
        Self { ram: Some(ram.clone()), restless: 40, random: seed, ..Self::new(program, handler) }
    }

    /// Stores what was counted to the next of some pages.
    fn store(&mut self) {
        let Some(ram) = &self.ram else { return };
        let frame = 256 + self.count % 50;
        ram.write(frame * 4096 + self.count * 8 % 4096, &self.count.to_le_bytes()).unwrap();
        self.dirty.insert(frame);
    }

    fn chance(&mut self) -> bool {
        // xorshift64 (Marsaglia 2003)
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.is_multiple_of(self.restless)
    }

    /// What stops the guest where it is.
    fn stop(&mut self, until: Option<Progress>) -> Option<Stop> {
        if until.is_some_and(|place| self.progress() >= place) {
            return Some(Stop::Reached);
        }
        if self.restless > 0 && (self.chance() || kick::with_flag(|flag| flag.load(Ordering::Acquire))) {
            kick::take();
            return Some(Stop::Kicked);
        }
        (self.window && self.can_inject()).then_some(Stop::InterruptWindow)
    }

    pub(super) fn new(program: &[Op], handler: &[Op]) -> Self {
        Self {
            ops: [program, handler].concat(),
            handler: program.len(),
            at: 0,
            accumulator: 0,
            interrupts: false,
            back: None,
            window: false,
            reading: false,
            count: 0,
            progress: None,
            restless: 0,
            random: 1,
            ram: None,
            dirty: BTreeSet::new(),
        }
    }
}

impl Engine for Toy {
    fn run(&mut self, until: Option<Progress>) -> Result<Stop, EngineError> {
        loop {
            if let Some(stop) = self.stop(until) {
                return Ok(stop);
            }
            let op = self.ops[self.at];
            self.at += 1;
            match op {
                Op::Out(port, value) => {
                    return Ok(Stop::Exit(Exit::PortWrite { port, size: 1, value: value.into() }));
                }
                Op::OutAccumulator(port) => {
                    let value = self.accumulator.into();
                    return Ok(Stop::Exit(Exit::PortWrite { port, size: 1, value }));
                }
                Op::Out32(port, value) => return Ok(Stop::Exit(Exit::PortWrite { port, size: 4, value })),
                Op::StoreOutside(address, value) => {
                    return Ok(Stop::Exit(Exit::MmioWrite { address, size: 4, value: value.into() }));
                }
                Op::In(port) => {
                    self.reading = true;
                    return Ok(Stop::Exit(Exit::PortRead { port, size: 1 }));
                }
                Op::Crash => return Ok(Stop::Fault(Fault::TripleFault)),
                Op::Halt => return Ok(Stop::Exit(Exit::Halt)),
                Op::Sti => self.interrupts = true,
                Op::Cli => self.interrupts = false,
                Op::Jump(to) => self.at = to,
                Op::IfEqual(value) => self.at += usize::from(self.accumulator != value),
                Op::Return => {
                    self.at = self.back.take().unwrap();
                    self.interrupts = true;
                }
                Op::Spin => {
                    self.at -= 1;
                    if self.progress.is_none() {
                        return Ok(Stop::Kicked);
                    }
                }
                Op::Count => self.count += 1,
                Op::Keep => self.store(),
                Op::Linger => clock::sleep_ns(2_000_000),
                Op::Fault(to) => {
                    self.at = to;
                    continue;
                }
            }
            if let Some(progress) = &mut self.progress {
                *progress = match op {
                    Op::IfEqual(_) | Op::Spin => Progress { branches: progress.branches + 1, steps: 0 },
                    _ => Progress { steps: progress.steps + 1, ..*progress },
                };
            }
        }
    }

    fn counts(&self) -> bool {
        self.progress.is_some()
    }

    fn progress(&self) -> Progress {
        self.progress.unwrap_or_default()
    }

    fn set_progress(&mut self, at: Progress) -> Result<(), EngineError> {
        self.progress = self.progress.map(|_| at);
        Ok(())
    }

    fn answer(&mut self, answer: Answer) {
        if let (true, Answer::Value(value)) = (std::mem::take(&mut self.reading), answer) {
            self.accumulator = value.to_le_bytes()[0];
        }
    }

    fn finish(&mut self) -> Result<Option<Exit>, EngineError> {
        self.progress = self.progress.map(|_| Progress::NONE);
        Ok(None)
    }

    fn registers(&self) -> Registers {
        let mut registers = Registers { rip: self.at as u64, rflags: 2, ..Registers::default() };
        registers.general[0] = self.accumulator.into();
        registers.general[1] = self.count;
        registers.general[2] = self.back.map_or(0, |back| back as u64 + 1);
        registers.rflags |= if self.interrupts { Registers::IF } else { 0 };
        registers
    }

    fn can_inject(&self) -> bool {
        self.interrupts
    }

    fn inject(&mut self, _vector: u8) -> Result<(), EngineError> {
        assert!(self.can_inject());
        self.back = Some(self.at);
        self.at = self.handler;
        self.interrupts = false;
        Ok(())
    }

    fn request_window(&mut self, wanted: bool) {
        self.window = wanted;
    }

    fn state(&self) -> Result<CpuState, EngineError> {
        Ok(CpuState { registers: self.registers(), ..CpuState::default() })
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        let Registers { general, rip, .. } = state.registers;
        let place = |at: u64| usize::try_from(at).ok().filter(|at| *at < self.ops.len());
        let Some(at) = place(rip) else { return Err(EngineError::Unsupported("no such operation")) };
        self.at = at;
        self.back = general[2].checked_sub(1).and_then(place);
        self.accumulator = general[0].to_le_bytes()[0];
        self.count = general[1];
        self.interrupts = state.registers.interrupts_enabled();
        self.window = false;
        Ok(())
    }

    fn track_dirty_pages(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn take_dirty_pages(&mut self) -> Result<Vec<u64>, EngineError> {
        Ok(std::mem::take(&mut self.dirty).into_iter().collect())
    }
}

const UART: u16 = 0x3f8;
const STATUS: u16 = 0x5c0 + 0x14;
const POWER_OFF: u16 = 0x5c0 + 0x18;

/// Sets up the interrupt controllers and the serial port, then sleeps; `q` powers off with status 7.
pub(super) fn echo_program() -> Vec<Op> {
    let mut program: Vec<Op> =
        [(0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0x21, 0xef), (UART + 1, 1)]
            .map(|(port, value)| Op::Out(port, value))
            .to_vec();
    // IRQ 4 is an edge: MCR.OUT2, as a PC's driver sets it
    program.push(Op::Out(UART + 4, 0x08));
    program.push(Op::Sti);
    let sleep = program.len();
    program.extend([
        Op::Halt,
        Op::IfEqual(b'q'),
        Op::Jump(sleep + 4),
        Op::Jump(sleep),
        Op::Out32(STATUS, 7),
        Op::Out32(POWER_OFF, 1),
    ]);
    program
}

/// Takes a byte, sends it back, ends the interrupt.
pub(super) fn echo_handler() -> Vec<Op> {
    vec![Op::In(UART), Op::OutAccumulator(UART), Op::Out(0x20, 0x20), Op::Return]
}
