//! The kvm engine with a counter: places between two exits, by the processor's count and single steps.
//!
//! The processor counts what it executes itself. Branches that the soft CPU executes in its place ([`super::step`]) are
//! added. Both are counted from the last exit on.

use super::{Kvm, Stepped};
use crate::engine::approach::{self, Approach, Counted, Went};
use crate::engine::pmu::Counter;
use crate::engine::{EngineError, Progress, Stop};
use crate::host::kick;
use crate::host::perf::{self, Alarm, Count};
use crate::machine::memory::GuestRam;

/// A counter at work.
pub(super) struct Counting {
    count: Count,
    alarm: Alarm,
    pub(super) approach: Approach,
    /// what the counter, and the branches executed in software, were at the last exit
    base: (u64, u64),
}

fn host(operation: &'static str) -> impl Fn(std::io::Error) -> EngineError {
    move |source| EngineError::Ioctl { operation, source }
}

impl Counting {
    fn open(counter: &Counter) -> Result<Self, EngineError> {
        if let Some(processors) = &counter.processors {
            perf::stay_on(processors).map_err(host("sched_setaffinity"))?;
        }
        let count = Count::open(counter.event).map_err(host("perf_event_open"))?;
        let alarm = Alarm::open(counter.event).map_err(host("perf_event_open"))?;
        Ok(Self { count, alarm, approach: Approach::new(counter.skid), base: (0, 0) })
    }

    fn read(&self) -> Result<u64, EngineError> {
        self.count.read().map_err(host("reading the branch counter"))
    }

    /// Counting begins anew, `at` so far behind an exit. `software`: branches executed in software so far.
    pub(super) fn restart(&mut self, at: Progress, software: u64) -> Result<(), EngineError> {
        self.approach.restart(at);
        self.base = (self.read()?.wrapping_sub(at.branches), software);
        Ok(())
    }
}

impl Kvm {
    /// As [`new`](Self::new), with a counter, for the calling thread: it alone may run the vCPU.
    ///
    /// # Errors
    /// As there, and what the host says when the counter is opened.
    pub fn with_counter(memory: &GuestRam, counter: &Counter) -> Result<Self, EngineError> {
        let mut kvm = Self::new(memory)?;
        kvm.counting = Some(Counting::open(counter)?);
        Ok(kvm)
    }

    /// Runs to a place with `counting`.
    pub(super) fn run_counted(
        &mut self,
        counting: &mut Counting,
        until: Option<Progress>,
    ) -> Result<Stop, EngineError> {
        let Counting { count, alarm, approach, base } = counting;
        approach.run(&mut Vcpu { kvm: self, count, alarm, base: *base }, until)
    }

    /// An exit was finished or a state loaded.
    pub(super) fn restart_counting(&mut self, at: Progress) -> Result<(), EngineError> {
        let software = self.stepper.software_branches();
        self.counting.as_mut().map_or(Ok(()), |counting| counting.restart(at, software))
    }
}

/// The vCPU and its counter, apart from the approach that drives them.
struct Vcpu<'a> {
    kvm: &'a mut Kvm,
    count: &'a Count,
    alarm: &'a Alarm,
    base: (u64, u64),
}

impl Counted for Vcpu<'_> {
    fn count(&mut self) -> Result<u64, EngineError> {
        let counted = self.count.read().map_err(host("reading the branch counter"))?;
        let (base, software) = self.base;
        let software = self.kvm.stepper.software_branches().wrapping_sub(software);
        Ok(counted.wrapping_sub(base).wrapping_add(software))
    }

    fn arm(&mut self, branches: u64) -> Result<(), EngineError> {
        self.alarm.arm(branches).map_err(host("setting the branch counter's period"))
    }

    fn disarm(&mut self) -> Result<(), EngineError> {
        self.alarm.disarm().map_err(host("stopping the branch counter"))
    }

    fn go(&mut self) -> Result<Went, EngineError> {
        Ok(match self.kvm.run_freely()? {
            Some(stop) => Went::Stop(stop),
            None => {
                // The overflow's, the timer's or a kick's, whose flag stays up. Left pending, it would keep KVM_RUN from
                // running the guest again.
                kick::clear();
                Went::Interrupted
            }
        })
    }

    fn step(&mut self) -> Result<approach::Stepped, EngineError> {
        Ok(match self.kvm.step_once()? {
            Stepped::Retired { branch } => approach::Stepped::Retired { branch },
            Stepped::Stop(stop) => approach::Stepped::Stop(stop),
        })
    }

    fn take_kick(&mut self) -> bool {
        let kicked = kick::is_up();
        if kicked {
            kick::take();
        }
        kicked
    }
}
