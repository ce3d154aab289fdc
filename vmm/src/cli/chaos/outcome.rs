//! What a run under chaos came to.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::rc::Rc;

use scribe_log::{EndCause, StopReason};

use crate::session::replay::describe;
use crate::session::start::LiveReport;

/// Bytes of a guest's console that are kept, the last ones.
const KEPT: usize = 4096;
/// Lines of it that are shown.
const SHOWN: usize = 5;

/// How a run counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// the guest ended by itself and did not say that anything was wrong
    Passed,
    /// its command had another status than 0, or it crashed
    Failed,
    /// a limit ended it
    Timeout,
    /// the user or a signal ended it
    Interrupted,
}

impl Verdict {
    pub(super) fn of(cause: &EndCause) -> Self {
        match cause {
            EndCause::PowerOff { status: 0 } | EndCause::Reset | EndCause::HaltedForever => Self::Passed,
            EndCause::PowerOff { .. }
            | EndCause::Panic { .. }
            | EndCause::TripleFault { .. }
            | EndCause::RefusedInstruction { .. } => Self::Failed,
            EndCause::Stopped { reason } => match reason {
                StopReason::HostTime | StopReason::GuestTime | StopReason::Silence => Self::Timeout,
                StopReason::User | StopReason::Signal => Self::Interrupted,
            },
        }
    }

    /// In one word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Timeout => "timeout",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    /// how the guest ended
    pub(super) end: String,
    /// guest time at its end, ns
    pub(super) guest_time: u64,
    /// where it is recorded, if that was kept
    pub(super) directory: Option<PathBuf>,
    /// the last lines of its console
    pub(super) console: Vec<String>,
}

impl Outcome {
    pub(super) fn new(
        verdict: Verdict,
        report: &LiveReport,
        directory: Option<PathBuf>,
        console: Vec<u8>,
    ) -> Self {
        let text = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let console = lines[lines.len().saturating_sub(SHOWN)..].iter().map(|line| (*line).to_owned());
        Self {
            verdict,
            end: describe(&report.cause),
            guest_time: report.guest_time,
            directory,
            console: console.collect(),
        }
    }
}

/// Keeps the end of what is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Rc<RefCell<VecDeque<u8>>>);

impl Tail {
    /// What was kept.
    pub(super) fn take(&self) -> Vec<u8> {
        self.0.take().into()
    }
}

impl Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.borrow_mut();
        kept.extend(bytes);
        let over = kept.len().saturating_sub(KEPT);
        kept.drain(..over);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_fails_by_its_status_or_a_crash_alone() {
        let stopped = |reason| Verdict::of(&EndCause::Stopped { reason });
        assert_eq!(Verdict::of(&EndCause::PowerOff { status: 0 }), Verdict::Passed);
        assert_eq!(Verdict::of(&EndCause::PowerOff { status: 1 }), Verdict::Failed);
        assert_eq!(Verdict::of(&EndCause::Panic { message: String::new() }), Verdict::Failed);
        assert_eq!(Verdict::of(&EndCause::Reset), Verdict::Passed);
        assert_eq!(stopped(StopReason::GuestTime), Verdict::Timeout);
        assert_eq!(stopped(StopReason::HostTime), Verdict::Timeout);
        assert_eq!(stopped(StopReason::Silence), Verdict::Timeout);
        assert_eq!(stopped(StopReason::Signal), Verdict::Interrupted);
    }

    #[test]
    fn the_end_of_the_console_is_kept() {
        let mut tail = Tail::default();
        for _ in 0..3 {
            tail.write_all(&[b'x'; 3000]).unwrap();
        }
        tail.write_all(b"end").unwrap();
        let kept = tail.take();
        assert!(kept.len() == KEPT && kept.ends_with(b"xend"));
    }
}
