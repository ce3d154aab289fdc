//! The run loop: blocks, places to stop at, events between instructions.

use std::sync::atomic::{AtomicBool, Ordering};

use scribe_types::stop::{Answer, Exit, Fault as GuestFault, Progress, Stop};

use crate::SoftCpu;
use crate::block::{Behind, Block, Cache, Found, Want};
use crate::cpu::{BLOCK_RIP, CS, Cpu, SS, Trap, vector};
use crate::executed::{entered, executed};
use crate::flags::{IF, RF, TF};
use crate::mmu::NO_PAGE;
use crate::op::{Ends, Op};
use crate::system::event::Event;

/// One instruction to be run by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct One {
    op: Op,
    ends: Ends,
    /// RIP that its operands and its end are relative to
    base: u64,
}

impl One {
    /// Instruction `number` of a block that starts at RIP `base`.
    fn of(block: &Block, number: u64, base: u64) -> Option<Self> {
        let op = *block.ops.get(number as usize)?;
        let last = number + 1 == block.ops.len() as u64;
        Some(Self { op, ends: if last { block.ends } else { Ends::Behind }, base })
    }
}

/// How a stretch of a block ended.
enum Way {
    /// all its instructions have retired
    Through,
    /// so many of them have, and the limit is reached
    Limit,
    /// so many have; RIP is at the next one, which said this
    Trapped(Trap),
}

impl SoftCpu {
    /// Runs until an exit, a fault, `until` (counted from the last exit), an open interrupt window that was asked for, or
    /// until `kick` is true (looked at, not cleared).
    pub fn run(&mut self, until: Option<Progress>, kick: &AtomicBool) -> Stop {
        loop {
            if !self.cpu.mmu.overwritten.is_empty() {
                self.cache.take_overwritten(&mut self.cpu);
            }
            let limit = match until {
                Some(until) if self.cpu.branches >= until.branches => {
                    let left = until.steps.saturating_sub(self.steps());
                    if left == 0 || self.cpu.branches > until.branches {
                        return Stop::Reached;
                    }
                    left
                }
                _ => u64::MAX,
            };
            if self.window && self.can_inject() {
                return Stop::InterruptWindow;
            }
            if kick.load(Ordering::Relaxed) {
                return Stop::Kicked;
            }
            let branch_limit = until.map_or(u64::MAX, |until| until.branches);
            let stop = if self.cpu.careful {
                self.careful_step()
            } else if self.sink.is_some() {
                self.blocks::<true>(limit, branch_limit, kick)
            } else {
                self.blocks::<false>(limit, branch_limit, kick)
            };
            if let Some(stop) = stop {
                return stop;
            }
        }
    }

    /// Supplies the answer to the exit being served.
    pub fn answer(&mut self, answer: Answer) {
        if let Some(exit) = self.cpu.wanted.take() {
            self.cpu.accesses.push(exit, answer);
        }
    }

    /// Retires the instruction of the exit being served. `Some`: its next exit, which has to be served and finished too.
    /// `None`: the processor is at a sync point.
    pub fn finish(&mut self) -> Option<Exit> {
        self.finishing = true;
        let stop = self.one_instruction();
        self.finishing = false;
        self.cpu.branches = 0;
        self.mark = self.cpu.instructions;
        match stop {
            None => None,
            Some(Stop::Exit(exit)) => Some(exit),
            Some(other) => {
                self.deferred = Some(other);
                None
            }
        }
    }

    /// Where the processor is since the last exit.
    pub fn progress(&self) -> Progress {
        Progress { branches: self.cpu.branches, steps: self.steps() }
    }

    /// From now on the processor is `at` so far behind its last exit. What it has retired in all is that at least.
    pub fn set_progress(&mut self, at: Progress) {
        self.cpu.branches = at.branches;
        self.cpu.instructions = self.cpu.instructions.max(at.steps);
        self.mark = self.cpu.instructions - at.steps;
    }

    pub(crate) fn steps(&self) -> u64 {
        self.cpu.instructions - self.mark
    }

    /// The block that goes on at RIP began at `start`, behind which execution has come here one instruction after the other:
    /// what looks at its beginning (BT as [`Behaviour::Tcg`](crate::Behaviour) has it) finds it there. Nothing happens if
    /// the code does not lead from there to RIP.
    pub fn continues_from(&mut self, start: u64) {
        let rip = self.cpu.rip;
        self.behind = None;
        self.cpu.rip = start;
        while self.cpu.rip < rip {
            let found = next_block(&mut self.cpu, &mut self.cache, None, Behind::default());
            let Ok(Found::Cached(number)) = found else { break };
            let block = self.cache.block(number);
            let offset = rip - self.cpu.rip;
            if block.length == 0 || offset < block.length.into() {
                let number = (1..block.ops.len() as u64).find(|&number| block.start_of(number) == offset);
                self.behind = number.map(|number| block.behind(number));
                self.cpu.flags.taken_up = true;
                break;
            }
            self.cpu.rip += u64::from(block.length);
        }
        self.cpu.rip = rip;
    }

    /// True if an external interrupt can be taken now.
    pub fn can_inject(&self) -> bool {
        let cpu = &self.cpu;
        cpu.flags.system & IF != 0
            && cpu.shadow == 0
            && cpu.interrupt.is_none()
            && cpu.exception.is_none()
            && cpu.accesses.is_empty()
    }

    /// Runs blocks until something has to be looked at. `TRACED`: somebody is told of them.
    fn blocks<const TRACED: bool>(
        &mut self,
        limit: u64,
        branch_limit: u64,
        kick: &AtomicBool,
    ) -> Option<Stop> {
        if let Some(stop) = self.deferred.take() {
            return Some(stop);
        }
        let (cpu, cache) = (&mut self.cpu, &mut self.cache);
        let mut limit = limit;
        let mut previous = None;
        let behind = self.behind.take();
        let mut continues = behind.is_some();
        let mut behind = behind.unwrap_or_default();
        loop {
            let rip = cpu.rip;
            let number = match next_block(cpu, cache, previous, behind) {
                Ok(Found::Cached(number)) => number,
                Ok(Found::Nowhere) => return Some(refused(cpu, "code that is not in RAM")),
                Err(trap) => return self.trapped(trap),
            };
            let block = cache.block(number);
            if cpu.ends_beyond_limit(rip, block) {
                return self.one_instruction();
            }
            let generation = cpu.mmu.generation;
            cpu.regs[usize::from(BLOCK_RIP)] = rip;
            cpu.mmu.running = block.pages;
            let before = cpu.instructions;
            let begun = if TRACED { Some(entered(cpu, self.mark, continues)) } else { None };
            let (way, done) = run_block(cpu, block, limit);
            cpu.instructions += done;
            if TRACED {
                executed(&mut self.sink, begun, cpu.instructions - before);
            }
            match way {
                Way::Through => match block.ends {
                    Ends::Jump => {}
                    Ends::Branch => {
                        cpu.branches += 1;
                        self.mark = cpu.instructions;
                        if cpu.branches >= branch_limit {
                            return None;
                        }
                    }
                    _ => cpu.rip = advanced(cpu, rip, block.length.into()),
                },
                Way::Limit => {
                    cpu.rip = advanced(cpu, rip, block.start_of(done));
                    self.behind = Some(block.behind(done));
                    return None;
                }
                Way::Trapped(trap) => {
                    cpu.rip = advanced(cpu, rip, block.start_of(done));
                    stack_fault(cpu, block.ops.get(done as usize));
                    match trap {
                        Trap::Exit => self.exiting = One::of(block, done, rip),
                        Trap::Again => self.behind = Some(block.behind(done)),
                        _ => {}
                    }
                    return self.trapped(trap);
                }
            }
            if limit != u64::MAX {
                limit = limit.saturating_sub(cpu.instructions - before);
                if limit == 0 {
                    return None;
                }
            }
            if cpu.careful
                || !cpu.mmu.overwritten.is_empty()
                || (self.window && cpu.flags.system & IF != 0)
                || kick.load(Ordering::Relaxed)
            {
                return None;
            }
            previous = Some(Previous { number, rip, generation });
            (behind, continues) = (Behind::default(), false);
        }
    }

    /// Something other than retiring has happened to the instruction at RIP.
    #[cold]
    fn trapped(&mut self, trap: Trap) -> Option<Stop> {
        self.cpu.mmu.running = [NO_PAGE; 2];
        match trap {
            Trap::Exit => self.cpu.wanted.map(Stop::Exit),
            Trap::Again => None,
            Trap::Alone => self.one_instruction(),
            Trap::Fault => {
                self.cpu.accesses.clear();
                let event = Event::fault(&self.cpu);
                if self.finishing {
                    // As on KVM: the sync point comes first, with the exception pending there.
                    self.cpu.pend(&event);
                    return None;
                }
                self.deliver(event)
            }
            Trap::Refused => {
                let what = self.cpu.refused;
                Some(refused(&mut self.cpu, what))
            }
            Trap::Shutdown => Some(Stop::Fault(GuestFault::TripleFault)),
        }
    }

    fn deliver(&mut self, event: Event) -> Option<Stop> {
        self.behind = None;
        match self.cpu.deliver(event) {
            Ok(()) => {
                self.deliveries += 1;
                self.cpu.update_careful();
                None
            }
            Err(Trap::Refused) => {
                let what = self.cpu.refused;
                Some(refused(&mut self.cpu, what))
            }
            Err(_) => Some(Stop::Fault(GuestFault::TripleFault)),
        }
    }

    /// Executes the instruction at RIP by itself, and what has to happen around it: traps, breakpoints, the end of an
    /// interrupt shadow.
    fn one_instruction(&mut self) -> Option<Stop> {
        self.behind = None;
        let begun = self.sink.as_ref().map(|_| entered(&self.cpu, self.mark, false));
        let cpu = &mut self.cpu;
        let rip = cpu.rip;
        let (shadow, resume) = (cpu.shadow, cpu.flags.system & RF != 0);
        // An instruction whose exit has been served is the one that made it, whatever the machine has written since.
        let one = match self.exiting.take().filter(|_| self.finishing) {
            Some(one) => one,
            None => {
                let linear = cpu.linear_rip();
                let block = match linear.and_then(|linear| self.cache.find(cpu, linear, Want::Single)) {
                    Ok(Found::Cached(number)) => self.cache.block(number),
                    Ok(Found::Nowhere) => return Some(refused(cpu, "code that is not in RAM")),
                    Err(trap) => return self.trapped(trap),
                };
                if cpu.ends_beyond_limit(rip, block) {
                    let trap = cpu.general_protection();
                    return self.trapped(trap);
                }
                let Some(one) = One::of(block, 0, rip) else {
                    return Some(refused(cpu, "code that is not in RAM"));
                };
                one
            }
        };
        cpu.regs[usize::from(BLOCK_RIP)] = one.base;
        cpu.mmu.running = [NO_PAGE; 2];
        cpu.accesses.rewind();
        cpu.shadow = 0;
        cpu.watched = 0;
        cpu.trace = cpu.flags.system & TF != 0;
        cpu.resume_set = false;
        let before = cpu.instructions;
        cpu.iterations = 1;
        let ran = (one.op.run)(cpu, &one.op);
        if begun.is_some() {
            executed(&mut self.sink, begun, cpu.instructions - before + u64::from(ran.is_ok()));
        }
        let partial = match ran {
            Ok(()) => {
                cpu.instructions += 1;
                match one.ends {
                    Ends::Jump => {}
                    Ends::Branch => {
                        cpu.branches += 1;
                        self.mark = cpu.instructions;
                    }
                    _ => cpu.rip = advanced(cpu, one.base, one.op.next.into()),
                }
                cpu.accesses.clear();
                false
            }
            Err(Trap::Again) => cpu.instructions != before,
            Err(trap) => {
                // The instruction has not retired: it is still in its shadow.
                cpu.shadow = if trap == Trap::Fault { 0 } else { shadow };
                stack_fault(cpu, Some(&one.op));
                if trap == Trap::Exit {
                    self.exiting = Some(one);
                }
                let stop = self.trapped(trap);
                self.cpu.update_careful();
                return stop;
            }
        };
        let cpu = &mut self.cpu;
        if partial {
            // An instruction breakpoint at a REP instruction is met once, not before each iteration.
            if cpu.dr7 & 0xff != 0 {
                cpu.flags.system |= RF;
            }
        } else if resume && !cpu.resume_set {
            // Not set by the IRET that has just run, and so over with this instruction.
            cpu.flags.system &= !RF;
        }
        let mut hits = cpu.watched;
        // Behind MOV SS there is no trap for TF; one for data breakpoints waits until the next instruction is over.
        if cpu.trace && cpu.shadow & 1 == 0 {
            hits |= 1 << 14; // BS
        }
        if hits != 0 {
            let keep = if cpu.exception.is_some() { u64::MAX } else { !0xf };
            cpu.dr6 = cpu.dr6 & keep | hits;
            cpu.exception = Some((vector::DB, None));
        }
        cpu.update_careful();
        None
    }

    /// One instruction, with everything that may have to happen before it.
    #[cold]
    fn careful_step(&mut self) -> Option<Stop> {
        if let Some(stop) = self.deferred.take() {
            return Some(stop);
        }
        let cpu = &mut self.cpu;
        if cpu.shadow & 1 == 0
            && let Some((vector, code)) = cpu.exception.take()
        {
            let event = Event::pended(cpu, vector, code);
            return self.deliver(event);
        }
        if let Some(vector) = cpu.interrupt.take() {
            let event = Event::external(cpu, vector);
            return self.deliver(event);
        }
        if cpu.dr7 & 0xff != 0 && cpu.flags.system & RF == 0 && cpu.shadow & 1 == 0 && cpu.accesses.is_empty()
        {
            let hits = cpu.linear_rip().map_or(0, |linear| cpu.execute_breakpoints(linear));
            if hits != 0 {
                cpu.dr6 = cpu.dr6 & !0xf | hits;
                let event = Event::breakpoint(cpu);
                return self.deliver(event);
            }
        }
        self.one_instruction()
    }
}

impl Cpu {
    /// Linear address of the next instruction.
    ///
    /// # Errors
    /// RIP is beyond the limit of CS.
    pub(crate) fn linear_rip(&mut self) -> Result<u64, Trap> {
        if self.is_long() {
            return Ok(self.rip);
        }
        if self.rip > u64::from(self.segs[CS].limit) {
            return Err(self.general_protection());
        }
        Ok(self.rip.wrapping_add(self.segs[CS].base) & 0xffff_ffff)
    }

    /// True if the limit of CS cuts a block off.
    #[inline(always)]
    fn ends_beyond_limit(&self, rip: u64, block: &Block) -> bool {
        self.mode.bitness != 64
            && self.segs[CS].limit != u32::MAX
            && rip + u64::from(block.length) > u64::from(self.segs[CS].limit) + 1
    }
}

/// A block that has run to its end.
#[derive(Debug, Clone, Copy)]
struct Previous {
    number: u32,
    /// where it started
    rip: u64,
    /// [`Mmu::generation`](crate::mmu::Mmu::generation) when it did
    generation: u64,
}

/// The block at RIP, less what has run of it.
#[inline(always)]
fn next_block(
    cpu: &mut Cpu,
    cache: &mut Cache,
    previous: Option<Previous>,
    behind: Behind,
) -> Result<Found, Trap> {
    let rip = cpu.rip;
    // A link says nothing of another mode or other translations than those that its first block ran with.
    let previous = previous.filter(|previous| previous.generation == cpu.mmu.generation);
    if let Some(previous) = previous
        && let Some(number) = cache.linked(previous.number, previous.rip, rip)
    {
        return Ok(Found::Cached(number));
    }
    let linear = if cpu.mode.bitness == 64 { rip } else { cpu.linear_rip()? };
    let before = cache.generation();
    let found = cache.find(cpu, linear, Want::Rest(behind))?;
    // Looking may have dropped blocks, and the previous one's number may mean another.
    let previous = previous.filter(|_| cache.generation() == before);
    if let (Some(previous), Found::Cached(number)) = (previous, &found)
        && cache.block(*number).second.is_none()
    {
        cache.link(previous.number, previous.rip, *number, rip);
    }
    Ok(found)
}

/// Runs a block's instructions, at most `limit` of them (iterations of REP count).
#[inline(always)]
fn run_block(cpu: &mut Cpu, block: &Block, limit: u64) -> (Way, u64) {
    if (block.ops.len() as u64) <= limit && !block.has_rep {
        for (n, op) in block.ops.iter().enumerate() {
            if let Err(trap) = (op.run)(cpu, op) {
                return (Way::Trapped(trap), n as u64);
            }
        }
        return (Way::Through, block.ops.len() as u64);
    }
    run_counted(cpu, block, limit)
}

/// As [`run_block`], where the limit may lie inside the block or a REP instruction adds to what is counted.
fn run_counted(cpu: &mut Cpu, block: &Block, limit: u64) -> (Way, u64) {
    let begun = cpu.instructions;
    for (n, op) in (0..).zip(block.ops.iter()) {
        // What REP instructions have counted beyond the one that each of them is.
        let used = n + (cpu.instructions - begun);
        if used >= limit {
            return (Way::Limit, n);
        }
        cpu.iterations = limit - used;
        if let Err(trap) = (op.run)(cpu, op) {
            return (Way::Trapped(trap), n);
        }
    }
    (Way::Through, block.ops.len() as u64)
}

/// A fault at an address that is not canonical is #SS where the instruction goes through the stack segment.
#[cold]
fn stack_fault(cpu: &mut Cpu, op: Option<&Op>) {
    if cpu.fault.canonical && op.is_some_and(|op| usize::from(op.seg) == SS) {
        cpu.fault.vector = vector::SS;
    }
}

#[inline(always)]
fn advanced(cpu: &Cpu, rip: u64, bytes: u64) -> u64 {
    let rip = rip.wrapping_add(bytes);
    match cpu.mode.bitness {
        64 => rip,
        32 => rip & 0xffff_ffff,
        _ => rip & 0xffff,
    }
}

#[cold]
fn refused(cpu: &mut Cpu, what: &str) -> Stop {
    cpu.mmu.running = [NO_PAGE; 2]; // no block runs
    let mut bytes = Vec::new();
    if let Ok(linear) = cpu.linear_rip() {
        for n in 0..15 {
            let mut byte = [0];
            if cpu.read_bytes(linear.wrapping_add(n), &mut byte).is_err() {
                break;
            }
            bytes.extend(byte);
        }
    }
    cpu.wanted = None;
    Stop::Fault(GuestFault::Refused { rip: cpu.rip, bytes, detail: what.into() })
}
