//! The machine: RAM, one vCPU behind an [`Engine`], the devices, guest time and digests.
//!
//! It steps from sync point to sync point and knows nothing of recording or replaying. One thread owns it, and it is
//! the only writer of guest memory.

pub mod acpi;
pub mod apics;
pub mod boot;
pub mod bus;
pub mod capture;
pub mod chaos;
pub mod confirm;
pub mod digest;
pub mod disk;
pub mod kernel;
pub mod memory;
pub mod notice;
pub mod observe;
pub mod platform;
pub mod state;
pub mod time;
pub mod trace;
pub mod virtio;

pub use scribe_types::{cpuid, msr};

use std::collections::BTreeSet;

use scribe_devices::guest_interface::GuestRequest;
use scribe_devices::virtio::blk::BackendError;
use scribe_devices::virtio::net::Frame;
use scribe_log::header::TimeConstants;
use scribe_log::{EndCause, FullDigest, GeneralRegisters, Position};

use crate::engine::cpu::{CpuState, Registers};
use crate::engine::{Answer, BlockSink, Engine, EngineError, Exit, Fault, Progress, Stop};
use bus::{Devices, Request};
use chaos::{Chaos, Delay, Here};
use digest::{RamDigest, Rolling};
use memory::{GuestRam, MemoryError, PAGE_SIZE};
use observe::{Both, Moment, Observer};
use time::GuestClock;
use trace::Trace;

/// What stops a machine from going on that is not the guest's doing.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Guest memory failed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The host's side of the disk failed. The guest would see an I/O error that no replay could repeat.
    #[error("the host failed the guest's disk")]
    Disk(#[source] BackendError),
    /// Pages could not be packed.
    #[error("packing pages: {0}")]
    Pack(#[source] std::io::Error),
    /// A state could not be encoded for its digest.
    #[error("encoding state for its digest: {0}")]
    Encode(#[from] postcard::Error),
}

/// How a [`Machine::step`] came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The machine is at a new sync point: an exit was served and its instruction retired, or a counted place was reached.
    SyncPoint,
    /// The host kicked. The guest may be anywhere behind the last sync point.
    Kicked,
    /// The guest has come to the place at which the caller wanted to look at it, and there is no sync point there.
    Paused,
    /// The guest ended itself. For a fault the position is the last sync point, before which nothing is known.
    Ended(EndCause),
}

/// A whole machine.
pub struct Machine {
    engine: Box<dyn Engine>,
    ram: GuestRam,
    devices: Devices,
    clock: GuestClock,
    /// positions have branches and steps
    counted: bool,
    /// makes interrupts late
    chaos: Option<Chaos>,
    /// frames that devices have written since the last digest of RAM
    written: BTreeSet<u64>,
    rolling: Rolling,
    ram_digest: RamDigest,
    /// nothing has happened since the last digest of RAM
    fresh: bool,
    /// all pages written since the last digest of RAM are known
    tracked: bool,
    /// HLT was executed and no interrupt has been injected since
    halted: bool,
    /// frame of the clock page, and the time last stored there
    clock_page: Option<(u64, u64)>,
    /// what the guest asked for during the exit being served
    ending: Option<EndCause>,
    bookmarks: Vec<String>,
    /// frames that the guest has sent, and bytes that it has printed elsewhere than at the serial port
    sent: Vec<(u8, Frame)>,
    printed: Vec<u8>,
    /// registers at the last sync point
    registers: Registers,
    /// while the machine is paused behind the last sync point: how far that is from the last exit
    paused: Option<Progress>,
    captures: capture::Captures,
    trace: Trace,
    observer: Option<Box<dyn Observer>>,
    /// where the observer was last told of the state
    state_told: Option<Position>,
    fault_detail: Option<String>,
}

impl Machine {
    /// Puts the parts together; `engine` already holds the vCPU's start state. `counted`: there are sync points between
    /// exits, which takes an engine that counts.
    ///
    /// # Errors
    /// The engine does not count.
    pub fn new(
        engine: Box<dyn Engine>,
        ram: GuestRam,
        devices: Devices,
        time: TimeConstants,
        counted: bool,
    ) -> Result<Self, EngineError> {
        if counted && !engine.counts() {
            return Err(EngineError::Unsupported("counted sync points need an engine with a branch counter"));
        }
        Ok(Self {
            engine,
            ram,
            devices,
            clock: GuestClock::new(time),
            counted,
            chaos: None,
            written: BTreeSet::new(),
            rolling: Rolling::default(),
            ram_digest: RamDigest::default(),
            fresh: false,
            tracked: false,
            halted: false,
            clock_page: None,
            ending: None,
            bookmarks: Vec::new(),
            sent: Vec::new(),
            printed: Vec::new(),
            registers: Registers::default(),
            paused: None,
            captures: capture::Captures::default(),
            trace: Trace::default(),
            observer: None,
            state_told: None,
            fault_detail: None,
        })
    }

    /// From now on interrupts come late, as `seed` says.
    pub fn shake(&mut self, seed: u64) {
        self.chaos = Some(Chaos::new(seed));
    }

    /// The seed by which interrupts come late, if they do.
    pub fn chaos_seed(&self) -> Option<u64> {
        self.chaos.as_ref().map(Chaos::seed)
    }

    /// True if `delay` is over at the sync point where the machine is.
    pub fn is_over(&self, delay: &mut Delay) -> bool {
        delay.is_over(self.here(self.clock.progress()))
    }

    /// The place, since the last exit, at which `delay` is over; `None` if there is none.
    pub fn place_of_delay(&self, delay: &Delay) -> Option<Progress> {
        delay.place(&self.clock).filter(|_| self.counted)
    }

    fn here(&self, progress: Progress) -> Here<'_> {
        Here { clock: &self.clock, progress, counted: self.counted, halted: self.halted }
    }

    /// From now on `observer` is told what happens, after those that are told already.
    pub fn observe(&mut self, observer: Box<dyn Observer>) {
        self.devices.watch();
        self.observer = Some(match self.observer.take() {
            Some(first) => Box::new(Both(first, observer)),
            None => observer,
        });
    }

    /// The observers back, as one, if there are any: nobody is told any more.
    pub fn take_observer(&mut self) -> Option<Box<dyn Observer>> {
        self.devices.unwatch();
        self.ram_digest.unwatch();
        self.state_told = None;
        self.observer.take()
    }

    /// From now on `sink` is told of executed code, block by block, up to each stop; `None`: nobody is. The guest sees nothing
    /// of it.
    ///
    /// # Errors
    /// An engine that does not know what it executes.
    pub fn trace_blocks(&mut self, sink: Option<BlockSink>) -> Result<(), EngineError> {
        self.engine.trace_blocks(sink)
    }

    /// Tells the observer, if there is one.
    pub fn tell(&mut self, what: impl FnOnce(&mut dyn Observer, Moment)) {
        let at = Moment { position: self.position(), guest_time: self.guest_time() };
        if let Some(observer) = &mut self.observer {
            what(observer.as_mut(), at);
        }
    }

    /// The last sync point the machine has come to; after [`Step::Paused`] the place of the pause.
    pub fn position(&self) -> Position {
        let Progress { branches, steps } = self.clock.progress();
        Position { exit: self.clock.exits(), branches, steps }
    }

    /// Exits served since power-on: the first part of the position.
    pub fn exits(&self) -> u64 {
        self.clock.exits()
    }

    /// Guest time at the last sync point, ns.
    pub fn guest_time(&self) -> u64 {
        self.clock.now()
    }

    /// Rolling digest of all exits and sync points so far.
    pub fn rolling(&self) -> u64 {
        self.rolling.value()
    }

    /// Registers where the guest is now, which after a pause is not the last sync point.
    pub fn current_registers(&self) -> Registers {
        self.engine.registers()
    }

    /// Registers at the last sync point.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// The last exits served, for reports.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What the host said about an instruction it refused.
    pub fn fault_detail(&self) -> Option<&str> {
        self.fault_detail.as_deref()
    }

    /// Bytes hashed for RAM digests so far.
    pub fn bytes_hashed(&self) -> u64 {
        self.ram_digest.bytes_hashed()
    }

    /// Instructions retired, where the engine counts them.
    pub fn instructions(&self) -> Option<u64> {
        self.engine.instructions()
    }

    /// What the first write to a page costs the guest (ns of host time) while its writes are watched.
    pub fn first_write_ns(&self) -> u64 {
        self.engine.first_write_ns()
    }

    /// True after HLT until an interrupt is injected.
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// True if a halted vCPU could be woken by an interrupt at all.
    pub fn can_wake(&self) -> bool {
        self.registers.interrupts_enabled()
    }

    /// Console bytes the guest has sent since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        let mut output = self.devices.uart.take_output();
        output.append(&mut self.printed);
        output
    }

    /// Names of bookmarks the guest has set since the last call.
    pub fn take_bookmarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.bookmarks)
    }

    /// How many console bytes [`console_input`](Self::console_input) takes now.
    pub fn console_room(&self) -> usize {
        self.devices.uart.room()
    }

    /// Console bytes offered that the serial port has not taken yet.
    pub fn console_backlog(&self) -> usize {
        scribe_devices::uart::BACKLOG_MAX - self.devices.uart.room()
    }

    /// An input: bytes for the serial port. Only at a sync point.
    pub fn console_input(&mut self, bytes: &[u8]) {
        self.devices.uart.offer(bytes, self.clock.now());
    }

    /// What was offered to the serial port and has not reached it is not coming any more.
    pub fn drop_console_backlog(&mut self) {
        self.devices.uart.drop_backlog(self.clock.now());
    }

    /// The next guest time at which a device does something by itself that can wake a halted vCPU, or an interrupt that is
    /// late comes.
    pub fn next_wake(&self) -> Option<u64> {
        let late = self.chaos.as_ref().and_then(|chaos| chaos.delay()?.due());
        [self.devices.next_wake(), late].into_iter().flatten().min()
    }

    /// Moves guest time forward. Only at a sync point.
    pub fn jump(&mut self, to: u64) {
        if self.halted {
            self.tell(|observer, at| observer.idle(at, to));
        }
        self.clock.jump(to);
    }

    /// The counted place, since the last exit, at which guest time will be at least `time`; `None` if there is none ahead.
    pub fn place_of(&self, time: u64) -> Option<Progress> {
        self.clock.place_of(time).filter(|_| self.counted)
    }

    /// After a kick: the next place at which something can happen to the guest. Not where it is, for there the machine may
    /// have injected an interrupt, or an exception have been delivered, and a replay stops before these.
    /// `None` without a counter, or if the engine cannot tell.
    pub fn place_ahead(&self) -> Option<Position> {
        let Progress { branches, steps } = self.engine.place_ahead().filter(|_| self.counted)?;
        Some(Position { exit: self.clock.exits(), branches, steps })
    }

    /// The place where the guest is, after a kick; without a counter the last sync point.
    pub fn place(&self) -> (Position, u64) {
        let mut clock = self.clock;
        if self.counted {
            clock.set_progress(self.engine.progress());
        }
        let Progress { branches, steps } = clock.progress();
        (Position { exit: clock.exits(), branches, steps }, clock.now())
    }

    /// True if the steps of exits are known, not only those of sync points between them.
    pub fn counts_steps(&self) -> bool {
        self.engine.counts_steps()
    }

    /// The guest is not going to run any more, and gives back the processor's counters.
    pub fn stop_counting(&mut self) {
        self.engine.stop_counting();
    }

    /// True if positions have branches and steps.
    pub fn is_counted(&self) -> bool {
        self.counted
    }

    /// Makes a sync point of the place that the guest has reached.
    pub fn arrive(&mut self) {
        let progress = self.engine.progress();
        self.paused = None;
        self.clock.set_progress(progress);
        self.registers = self.engine.registers();
        self.rolling.counted(progress);
        self.rolling.registers(&self.registers);
        tracing::trace!(target: "exit", "{} {:016x} {}", self.position(), self.rolling(), self.registers);
    }

    /// Runs the guest to the next sync point, pause, kick or end. With a counter that is at the latest where a device does
    /// something by itself, or at `until`, counted from the last exit; without one `until` says nothing. All that happens
    /// at a place happens in one stop there, so `until` must be one that a replay stops at too.
    ///
    /// `pause`: a place at which to stop without making a sync point of it, if the engine counts or steps. Whether somebody looks
    /// there is nothing to the guest.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn step(&mut self, until: Option<Progress>, pause: Option<Progress>) -> Result<Step, MachineError> {
        // A timer whose line is masked can wait for the next sync point: nothing but an exit unmasks it.
        let timer = self.devices.next_wake().and_then(|deadline| self.place_of(deadline));
        let wanted = [timer, until].into_iter().flatten().min().filter(|_| self.counted);
        let pause = pause.filter(|_| self.engine.counts() || self.engine.can_step());
        self.fresh = false;
        if let Some(progress) = self.paused.take() {
            // Nobody can tell that somebody looked: the machine is at its last sync point again.
            self.clock.set_progress(progress);
        }
        self.engine.set_clock(self.clock.at_exit(), self.clock.constants().ns_per_branch);
        loop {
            let late = self.chaos.as_ref().and_then(|chaos| self.place_of_delay(&chaos.delay()?));
            let until = [wanted, late].into_iter().flatten().min();
            let stop = [until, pause].into_iter().flatten().min();
            match self.engine.run(stop)? {
                Stop::Exit(exit) => return self.exit(exit),
                Stop::Fault(fault) => return Ok(Step::Ended(self.fault(fault))),
                Stop::Reached if until.is_some_and(|place| self.engine.progress() >= place) => {
                    self.arrive();
                    return Ok(Step::SyncPoint);
                }
                Stop::Reached if pause.is_some_and(|place| self.engine.progress() >= place) => {
                    // Time at the place is the place's, but the sync point is still the last one: its registers stay.
                    self.paused = Some(self.clock.progress());
                    self.clock.set_progress(self.engine.progress());
                    return Ok(Step::Paused);
                }
                Stop::InterruptWindow => self.deliver()?,
                Stop::Kicked => return Ok(Step::Kicked),
                Stop::Reached => {
                    return Err(EngineError::Unexpected("a stop before the place asked for".into()).into());
                }
            }
        }
    }

    fn exit(&mut self, exit: Exit) -> Result<Step, MachineError> {
        let mut progress = self.engine.progress();
        if !self.counts_steps() {
            // It may know them here, by chance: nobody is to depend on that.
            progress.steps = 0;
        }
        if self.counted {
            self.rolling.branches(progress);
        }
        self.serve(exit, progress);
        while let Some(next) = self.engine.finish()? {
            self.serve(next, Progress::NONE);
        }
        self.registers = self.engine.registers();
        if self.observer.is_some() && !self.devices.uart.output().is_empty() {
            let output = self.devices.uart.output().to_vec();
            self.tell(|observer, at| observer.console(at, &output));
        }
        // A trap behind the HLT itself (TF) goes on to its handler.
        if self.halted && self.registers.is_traced() && self.engine.state()?.events.exception.is_some() {
            self.halted = false;
        }
        self.rolling.registers(&self.registers);
        tracing::trace!(target: "exit", "{} {:016x} {}", self.clock.exits(), self.rolling(), self.registers);
        if let Some(error) = self.devices.take_disk_error() {
            return Err(MachineError::Disk(error));
        }
        Ok(match self.ending.take() {
            Some(cause) => Step::Ended(cause),
            None => Step::SyncPoint,
        })
    }

    /// After the inputs of a sync point: timers, clock page, interrupts.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn settle(&mut self) -> Result<(), MachineError> {
        let now = self.clock.now();
        self.devices.advance(now);
        self.store_clock()?;
        self.deliver()?;
        self.captures.leaves();
        Ok(())
    }

    /// From now on the observer is told which pages have changed. It must want to be told of the state.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn watch_pages(&mut self) -> Result<(), MachineError> {
        self.update_ram_digest()?;
        self.ram_digest.watch();
        self.track_dirty_pages()
    }

    /// Tells the observer of the processor's state and of changed pages, if it wants to know and does not yet. Only at a
    /// sync point.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn tell_state(&mut self) -> Result<(), MachineError> {
        let here = self.position();
        let wanted = self.observer.as_ref().is_some_and(|observer| observer.wants_state());
        if !wanted || self.state_told == Some(here) {
            return Ok(());
        }
        self.state_told = Some(here);
        self.update_ram_digest()?;
        let pages = self.ram_digest.take_changes(&self.ram);
        let (state, halted) = (self.engine.state()?, self.halted);
        self.tell(|observer, at| observer.state(at, &state, halted, &pages));
        Ok(())
    }

    /// Hash of one page as of the last [`tell_state`](Self::tell_state), as the observer is told it. `None` outside RAM.
    pub fn page_hash(&self, frame: u64) -> Option<u64> {
        self.ram_digest.hash(&self.ram, frame)
    }

    fn update_ram_digest(&mut self) -> Result<(), MachineError> {
        if self.ram_digest.is_started() && self.tracked {
            self.take_written()?;
            self.ram_digest.update(&self.ram, std::mem::take(&mut self.written));
        } else {
            self.take_written()?;
            self.written.clear();
            self.ram_digest.full(&self.ram);
        }
        self.fresh = true;
        Ok(())
    }

    /// CPU, RAM and devices digested. Only at a sync point.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn full_digest(&mut self) -> Result<FullDigest, MachineError> {
        self.update_ram_digest()?;
        let state = self.engine.state()?;
        tracing::trace!(target: "state", "{} {state:x?} {:x?}", self.position(), self.devices.save());
        Ok(FullDigest {
            cpu: digest::of_cpu(state, self.halted)?,
            ram: self.ram_digest.value(),
            devices: self.devices.digest()?,
            guest_time: self.guest_time(),
        })
    }

    /// From now on only pages written since the last [`full_digest`](Self::full_digest) are hashed again. Costs a
    /// fault for each page's first write, so a run with one digest at its end does without.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn track_dirty_pages(&mut self) -> Result<(), MachineError> {
        if !self.tracked {
            self.engine.track_dirty_pages()?;
            // What was written since the last digest, if anything, nobody has seen: only a new one can be built upon.
            self.tracked = self.fresh;
        }
        Ok(())
    }

    /// Guest RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// The disk, if there is one.
    pub fn disk(&self) -> Option<&disk::Disk> {
        self.devices.disk.as_ref().map(|slot| &slot.backend)
    }

    /// The whole architectural state of the vCPU. Where the machine can be looked at.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn cpu_state(&self) -> Result<CpuState, MachineError> {
        Ok(self.engine.state()?)
    }

    /// Guest time (ns) that is exits and branches only: what the guest has worked, not slept.
    pub fn work(&self) -> u64 {
        let (_, adjustments) = self.clock.parts();
        self.clock.now().saturating_sub(adjustments)
    }

    /// Takes the machine apart for its disk.
    pub fn into_disk(self) -> Option<disk::Disk> {
        self.devices.into_disk()
    }

    /// `progress`: how far the exit is from the one before.
    fn serve(&mut self, exit: Exit, progress: Progress) {
        self.clock.count_exit(progress);
        let now = self.clock.now();
        let answer = match exit {
            Exit::PortRead { port, size } => Answer::Value(self.devices.port_read(port, size, now).into()),
            Exit::PortWrite { port, size, value } => {
                if let Some(request) = self.devices.port_write(port, size, value, now) {
                    self.request(request);
                }
                Answer::Done
            }
            Exit::MmioRead { address, size } => Answer::Value(self.devices.mmio_read(address, size, now)),
            Exit::MmioWrite { address, size, value } => {
                if self.devices.mmio_write(address, size, value, now, self.ram.memory()) {
                    self.note_written();
                }
                Answer::Done
            }
            Exit::Halt => {
                self.halted = true;
                Answer::Done
            }
            Exit::MsrRead { index } => self.devices.msr_read(index, now),
            Exit::MsrWrite { index, value } => self.devices.msr_write(index, value, now),
        };
        if self.devices.take_init() {
            // No firmware is there to start the processor again.
            self.ending = Some(EndCause::Reset);
        }
        self.engine.answer(answer);
        self.note_outbox();
        self.rolling.exit(&exit, answer);
        self.trace.push(self.clock.exits(), exit, answer);
        if self.observer.is_some() {
            let requests = self.devices.take_disk_requests();
            // Without counted sync points all engines say the same.
            let progress = if self.counted { progress } else { Progress::NONE };
            self.tell(|observer, at| {
                observer.before_exit(at, progress);
                requests.iter().for_each(|request| observer.disk_request(at, request));
                observer.exit(at, &exit, answer);
            });
        }
    }

    /// A device may have written RAM: the engine hears of it now, the next digest later.
    fn note_written(&mut self) {
        let frames = self.ram.take_written_frames();
        self.engine.invalidate(&frames);
        self.captures.wrote(&frames);
        if self.ram_digest.is_started() {
            self.written.extend(frames);
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Reset => self.ending = Some(EndCause::Reset),
            Request::PowerOff => self.ending = Some(EndCause::PowerOff { status: 0 }),
            Request::Guest(GuestRequest::ClockPage(frame)) => {
                let frame = frame.map(u64::from).filter(|frame| self.ram.has_frame(*frame));
                self.clock_page = frame.map(|frame| (frame, 0));
            }
            Request::Guest(GuestRequest::Status(_) | GuestRequest::Sync) => {}
            Request::Guest(GuestRequest::PowerOff { status }) => {
                self.ending = Some(EndCause::PowerOff { status })
            }
            Request::Guest(GuestRequest::Bookmark(name)) => self.bookmarks.push(name),
            Request::Guest(GuestRequest::Panic(message)) => self.ending = Some(EndCause::Panic { message }),
        }
    }

    fn store_clock(&mut self) -> Result<(), MachineError> {
        let now = self.clock.now();
        if let Some((frame, stored)) = &mut self.clock_page
            && *stored != now
        {
            self.ram.write(*frame * PAGE_SIZE, &now.to_le_bytes())?;
            self.engine.invalidate(&[*frame]);
            *stored = now;
        }
        Ok(())
    }

    /// Injects the interrupt that waits, if the vCPU can take one, or asks to be told when it can.
    fn deliver(&mut self) -> Result<(), MachineError> {
        if self.is_asked() && self.engine.can_inject() {
            let vector = self.acknowledge();
            self.engine.inject(vector)?;
            self.captures.interrupt();
            self.halted = false;
        }
        let pending = self.is_asked();
        if pending && self.halted && self.can_wake() {
            // HLT leaves no interrupt shadow; an engine that says otherwise would make the guest sleep through this.
            return Err(
                EngineError::Unexpected("a halted vCPU with IF set cannot take an interrupt".into()).into()
            );
        }
        self.engine.request_window(pending);
        Ok(())
    }

    /// The interrupt controllers give up the interrupt that waits, which is told.
    fn acknowledge(&mut self) -> u8 {
        let (vector, irq) = self.devices.acknowledge();
        self.tell(|observer, at| observer.interrupt(at, vector, irq));
        if let Some(chaos) = &mut self.chaos {
            chaos.taken();
        }
        vector
    }

    /// True if the vCPU is asked to take an interrupt here.
    fn is_asked(&mut self) -> bool {
        let pending = self.devices.interrupt_pending();
        let Some(chaos) = &mut self.chaos else { return pending };
        let progress = if self.counted { self.engine.progress() } else { Progress::NONE };
        let here = Here { clock: &self.clock, progress, counted: self.counted, halted: self.halted };
        chaos.hears(pending, here, self.devices.next_tick())
    }

    fn fault(&mut self, fault: Fault) -> EndCause {
        match fault {
            Fault::TripleFault => EndCause::TripleFault {
                rip: self.registers.rip,
                bytes: Vec::new(),
                last_exit: Box::new(general(&self.registers)),
            },
            Fault::Refused { rip, bytes, detail } => {
                self.fault_detail = Some(detail);
                EndCause::RefusedInstruction { rip, bytes }
            }
        }
    }
}

/// The registers in the log's own form.
fn general(registers: &Registers) -> GeneralRegisters {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = registers.general;
    let Registers { rip, rflags, .. } = *registers;
    GeneralRegisters {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    }
}
