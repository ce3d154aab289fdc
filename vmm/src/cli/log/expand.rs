//! `log --expand`: everything that happens in a recording, told by a quiet replay of it.

use std::cell::{RefCell, RefMut};
use std::io::{self, IsTerminal};
use std::rc::Rc;

use scribe_log::header::Level;
use scribe_log::{Event, Position, Recording};

use super::super::exit::{self, Failure};
use super::super::progress::Progress as Bar;
use super::super::recorded::{self, PlayArgs};
use super::{Output, Problem, readable};
use crate::engine::{Answer, ExecutedBlock, Exit, Progress};
use crate::inspect::blocks::{Places, Row};
use crate::inspect::check;
use crate::inspect::filter::Edge;
use crate::inspect::markers::Markers;
use crate::machine::observe::{Moment, Observer};
use crate::session::console::Console;
use crate::session::player::{Player, Stay};
use crate::session::replay::{Outcome, Target};
use crate::symbols::paging::Virtual;
use crate::symbols::{Symbols, anchor, find};

/// Exits between two looks whether anybody still reads.
const STRIDE: u64 = 4096;
/// The same while executed code is printed.
const TRACED_STRIDE: u64 = 64;

/// What is printed, and where.
pub(super) struct Range {
    /// at most events of this level
    pub(super) level: Level,
    /// executed code, too
    pub(super) blocks: bool,
    /// from here on
    pub(super) from: Option<Edge>,
    /// to here
    pub(super) to: Option<Edge>,
}

/// What the replay's observer, the tracer and the loop below share.
struct Printer {
    listing: Output,
    failed: Option<io::Error>,
    places: Places,
    symbols: Option<Symbols>,
}

impl Printer {
    fn event(&mut self, at: Moment, event: &Event) {
        if self.failed.is_none() {
            self.failed = self.listing.event(event, Some(at.guest_time)).err();
        }
    }

    fn block(&mut self, block: &ExecutedBlock) {
        let at = self.places.of(block);
        if self.failed.is_some() {
            return;
        }
        // What a program calls its functions is not known.
        let kernels = self.symbols.as_ref().filter(|_| block.cpl == 0);
        let symbol = kernels.and_then(|symbols| symbols.function(block.start));
        self.failed = self.listing.block(&Row { at, block, symbol }).err();
    }

    /// True if nothing more is to be printed.
    fn is_done(&self) -> bool {
        self.failed.is_some() || self.listing.is_past()
    }
}

type Shared = Rc<RefCell<Printer>>;

/// Tells where executed blocks are.
struct Tracer(Shared);

impl Observer for Tracer {
    fn before_exit(&mut self, _at: Moment, progress: Progress) {
        self.0.borrow_mut().places.before_exit(progress);
    }

    fn exit(&mut self, at: Moment, exit: &Exit, answer: Answer) {
        self.0.borrow_mut().places.exit(at, exit, answer);
    }

    fn idle(&mut self, at: Moment, until: u64) {
        self.0.borrow_mut().places.idle(at, until);
    }
}

/// Replays the recording and prints everything.
pub(super) fn expand(
    recording: &Recording,
    play: PlayArgs,
    range: &Range,
    listing: Output,
) -> Result<u8, Failure> {
    // From the start: what a register is depends on all accesses before.
    let mut player = play.prepare(recording)?.player(recording, true, None)?;
    let machine = player.machine();
    let begin = Moment { position: machine.position(), guest_time: machine.guest_time() };
    let places = Places::new(begin, recording.header().time);
    let printer = Rc::new(RefCell::new(Printer { listing, failed: None, places, symbols: None }));
    let sink = Rc::clone(&printer);
    let markers =
        Markers::new(range.level, move |at: Moment, event: Event| sink.borrow_mut().event(at, &event));
    check::attach(player.watch(), Box::new(markers)).map_err(|error| Failure::new(exit::ERROR, error))?;
    let ended = {
        let _bar = Bar::watch(player.shared(), recording, Target::End, io::stdout().is_terminal());
        run(&mut player, range, &printer)
    };
    let printed = finish(printer.borrow_mut());
    if !readable(printed)? {
        return Ok(0);
    }
    match ended? {
        Some(Outcome::Interrupted(position)) => {
            say!("stopped at {position}");
            Ok(exit::ERROR)
        }
        _ => Ok(0),
    }
}

fn finish(mut printer: RefMut<Printer>) -> Result<(), Problem> {
    match printer.failed.take() {
        Some(error) => Err(error.into()),
        None => Ok(printer.listing.finish()?),
    }
}

/// Runs the replay to its end, or until nothing more is to be printed: `None`.
fn run(player: &mut Player, range: &Range, printer: &Shared) -> Result<Option<Outcome>, Failure> {
    let mut trace = range.blocks.then(|| Trace::new(player, range));
    let mut exits = player.machine().exits();
    loop {
        let stride = match &mut trace {
            Some(trace) => trace.advance(player, printer)?,
            None => STRIDE,
        };
        let mut next = exits.saturating_add(stride);
        if let (Some(Edge::Position(to)), true) = (range.to, range.blocks) {
            // A guest that computes behind it is not waited for.
            next = next.min(to.exit.saturating_add(1)).max(exits.saturating_add(1));
        }
        exits = next;
        match player.run(Target::Position(Position::exit(exits)), &mut Console::quiet()) {
            Ok(Stay::Paused) if printer.borrow().is_done() => return Ok(None),
            Ok(Stay::Paused) => {}
            Ok(Stay::Leaving) => return Ok(Some(Outcome::Interrupted(player.machine().position()))),
            Ok(Stay::Ended(outcome)) => return Ok(Some(outcome)),
            Err(error) => return Err(recorded::failure(error)),
        }
    }
}

/// Executed code, from where it is wanted.
struct Trace {
    /// the exit behind which it begins
    from: u64,
    begun: bool,
    /// symbols that are not placed yet
    found: Option<find::Found>,
}

impl Trace {
    fn new(player: &Player, range: &Range) -> Self {
        let found = match find::find(player.header()) {
            Ok(found) => Some(found),
            Err(error) => {
                say!("functions have no names: {error}");
                None
            }
        };
        let from = match range.from {
            Some(Edge::Position(position)) => position.exit,
            _ => 0,
        };
        Self { from, begun: false, found }
    }

    /// Begins where it is to begin; gives the number of exits up to the next look.
    fn advance(&mut self, player: &mut Player, printer: &Shared) -> Result<u64, Failure> {
        let here = player.machine().exits();
        if here < self.from {
            return Ok(STRIDE.min(self.from - here));
        }
        if !self.begun {
            self.begun = true;
            let (sink, machine) = (Rc::clone(printer), player.watch());
            machine.observe(Box::new(Tracer(Rc::clone(printer))));
            let at = Moment { position: machine.position(), guest_time: machine.guest_time() };
            printer.borrow_mut().places.begin(at);
            machine.trace_blocks(Some(Box::new(move |block| sink.borrow_mut().block(&block)))).map_err(
                |error| {
                    Failure::new(exit::ERROR, anyhow::anyhow!("--trace blocks: {error}; use --engine soft"))
                },
            )?;
        }
        self.place(player, printer);
        Ok(TRACED_STRIDE)
    }

    /// Finds out where the kernel runs that the symbols are of, which it shows once it has set up its entry points.
    fn place(&mut self, player: &Player, printer: &Shared) {
        let Some(found) = &self.found else { return };
        let machine = player.machine();
        let Ok(state) = machine.cpu_state() else { return };
        if let Ok(symbols) = anchor::place(found.clone(), &state, &Virtual::new(&state, machine.ram())) {
            printer.borrow_mut().symbols = Some(symbols);
            self.found = None;
        }
    }
}
