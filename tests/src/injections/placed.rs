//! A recorder whose inputs come at chosen places and not when the host has them.

use scribe_log::header::Header;
use scribe_log::{Body, EndCause, Position, StopReason, Writer};
use scribe_vmm::engine::Progress;
use scribe_vmm::engine::cpu::Registers;
use scribe_vmm::machine::Machine;
use scribe_vmm::session::console::Console;
use scribe_vmm::session::drive::{Driver, Run};
use scribe_vmm::session::journal::{Journal, Recorder, Summary};
use scribe_vmm::session::{Flow, Place, Policy, SessionError};

/// Says where input comes.
pub trait Chooser {
    /// At a sync point, before anything happens there: the next place for input. One that is here is had at once; of one
    /// that is not ahead, or that the guest does not come to before its next exit, nothing comes.
    fn place(&mut self, machine: &Machine) -> Option<Position>;

    /// The bytes for the place, where the machine is now.
    fn bytes(&mut self, machine: &Machine) -> Vec<u8>;

    /// The guest sleeps until this time at the latest: when to wake it with bytes.
    fn wake(&mut self, _machine: &Machine, _deadline: Option<u64>) -> Option<u64> {
        None
    }
}

/// What was recorded.
#[derive(Debug)]
pub struct Placed {
    /// how it ended
    pub summary: Summary,
    /// where input came, with the registers there
    pub inputs: Vec<(Position, Registers)>,
    /// what the guest has printed
    pub output: Vec<u8>,
}

struct Scripted<'a> {
    recorder: Recorder,
    chooser: &'a mut dyn Chooser,
    next: Option<Position>,
    arrived: u64,
    limit: u64,
    inputs: Vec<(Position, Registers)>,
}

impl Scripted<'_> {
    fn admit(&mut self, machine: &mut Machine) -> Result<(), SessionError> {
        let bytes = self.chooser.bytes(machine);
        self.inputs.push((machine.position(), *machine.registers()));
        machine.console_input(&bytes);
        self.recorder.input(machine, Body::ConsoleInput { bytes })
    }
}

impl Policy for Scripted<'_> {
    fn at_sync_point(&mut self, machine: &mut Machine) -> Result<Flow, SessionError> {
        let here = machine.position();
        self.arrived = machine.guest_time();
        self.recorder.sync_point(machine, false)?;
        if self.arrived >= self.limit {
            return Ok(Flow::End(EndCause::Stopped { reason: StopReason::GuestTime }));
        }
        // The next branch comes before a place that is behind it, and is where the machine stops then.
        if self.next.is_some_and(|next| next.exit == here.exit && next <= here) {
            self.admit(machine)?;
        }
        if self.next.is_none_or(|next| next <= here || next.exit != here.exit) {
            self.next = self.chooser.place(machine);
            if self.next == Some(here) {
                self.admit(machine)?;
            }
        }
        Ok(Flow::Continue)
    }

    fn idle(&mut self, machine: &mut Machine, deadline: Option<u64>) -> Result<Flow, SessionError> {
        let latest = deadline.map_or(u64::MAX, |deadline| deadline - 1);
        match (self.chooser.wake(machine, deadline), deadline) {
            (Some(to), _) if to <= latest => {
                machine.jump(to);
                let nanoseconds = machine.guest_time() - self.arrived;
                self.recorder.input(machine, Body::TimeAdjust { nanoseconds })?;
                self.admit(machine)?;
            }
            (_, Some(deadline)) => machine.jump(deadline),
            (_, None) => return Ok(Flow::End(EndCause::HaltedForever)),
        }
        Ok(Flow::Continue)
    }

    fn until(&mut self, machine: &Machine) -> Option<Progress> {
        let here = machine.position();
        let next = self.next.filter(|next| next.exit == here.exit && *next > here)?;
        Some(Progress { branches: next.branches, steps: next.steps })
    }

    fn kicked(&mut self, _machine: &mut Machine) -> Result<Flow, SessionError> {
        Ok(Flow::Continue)
    }

    fn finish(&mut self, machine: &mut Machine, cause: &EndCause, place: Place) -> Result<(), SessionError> {
        self.recorder.end(machine, cause, place)
    }
}

/// Records `machine` as `header` says into `directory`, to its end or to guest time `limit` (ns).
///
/// # Panics
/// It cannot be recorded.
pub fn record(
    header: &Header,
    mut machine: Machine,
    directory: &std::path::Path,
    chooser: &mut dyn Chooser,
    limit: u64,
) -> Placed {
    let writer = Writer::create(directory, header, false).unwrap();
    let mut recorder = Recorder::new(writer, header.digest_every, machine.exits());
    recorder.watch(&mut machine, header.level).unwrap();
    let (next, inputs) = (None, Vec::new());
    let mut policy = Scripted { recorder, chooser, next, arrived: 0, limit, inputs };
    let (mut console, output) = crate::bench::console();
    match Driver::default().run(&mut machine, &mut policy, &mut console).unwrap() {
        Run::Ended(_) => {}
        Run::Paused => panic!("nobody wanted a pause"),
    }
    let Scripted { recorder, inputs, .. } = policy;
    let summary = recorder.summary().cloned().unwrap();
    let _: &Console = &console;
    Placed { summary, inputs, output: output.take() }
}
