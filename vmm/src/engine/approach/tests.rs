//! The way to a place, on a simulated host: the soft processor behind a counter whose overflows come late, early, twice or
//! never, kicked all the time. At every stop it must be where the soft engine is that is asked for the same place.

mod cases;
pub(crate) mod engine;
mod guest;
mod sim;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::engine::soft::Soft;
use crate::engine::{Answer, Engine, Exit};
use guest::{Block, Machine};
use sim::{Manners, Sim};

/// What is asked of both.
#[derive(Debug, Clone, Copy)]
struct Ask {
    /// how far ahead the place is
    branches: u64,
    /// instructions behind its branch
    steps: u64,
    /// an interrupt is to be injected as soon as it can be
    interrupt: bool,
}

/// What a port reads, the same for both.
fn port(reads: u64) -> u64 {
    reads.wrapping_mul(0x9e37_79b9) >> 7
}

/// One vCPU that is driven by asks.
struct Driven<R> {
    engine: R,
    reads: u64,
}

/// A vCPU that runs to places: the soft engine, or the approach over a simulated host.
trait Runs {
    fn advance(&mut self, until: Option<Progress>) -> Result<Stop, EngineError>;
    fn soft(&mut self) -> &mut Soft;
    /// an exit was finished
    fn restart(&mut self);
    fn reached(&self) -> Progress;
}

impl Runs for Soft {
    fn advance(&mut self, until: Option<Progress>) -> Result<Stop, EngineError> {
        Engine::run(self, until)
    }

    fn soft(&mut self) -> &mut Soft {
        self
    }

    fn restart(&mut self) {}

    fn reached(&self) -> Progress {
        Engine::progress(self)
    }
}

/// The approach and what it drives.
struct Stepping {
    approach: Approach,
    sim: Sim,
}

impl Stepping {
    fn new(soft: Soft, skid: u64, manners: Manners, seed: u64) -> Self {
        Self { approach: Approach::new(skid), sim: Sim::new(soft, manners, seed) }
    }
}

impl Runs for Stepping {
    fn advance(&mut self, until: Option<Progress>) -> Result<Stop, EngineError> {
        self.approach.run(&mut self.sim, until)
    }

    fn soft(&mut self) -> &mut Soft {
        &mut self.sim.soft
    }

    fn restart(&mut self) {
        self.approach.restart(Progress::NONE);
    }

    fn reached(&self) -> Progress {
        self.approach.progress()
    }
}

/// Where a vCPU came to.
#[derive(Debug, Clone, PartialEq)]
enum Came {
    Reached,
    Exit(Exit, u64),
    Ended,
}

impl<R: Runs> Driven<R> {
    fn new(engine: R) -> Self {
        Self { engine, reads: 0 }
    }

    /// Goes to a place, or to the exit before it, and over that.
    fn go(&mut self, place: Progress, mut interrupt: bool) -> Result<Came, EngineError> {
        self.engine.soft().request_window(interrupt);
        loop {
            match self.engine.advance(Some(place))? {
                Stop::Reached => {
                    self.engine.soft().request_window(false);
                    return Ok(Came::Reached);
                }
                Stop::Kicked => {}
                Stop::InterruptWindow => {
                    assert!(std::mem::take(&mut interrupt), "a window that nobody has asked for");
                    self.engine.soft().request_window(false);
                    self.engine.soft().inject(guest::IRQ)?;
                }
                Stop::Exit(exit) => {
                    let branches = self.engine.reached().branches;
                    let answer = match exit {
                        Exit::PortRead { .. } => {
                            self.reads += 1;
                            Answer::Value(port(self.reads))
                        }
                        _ => Answer::Done,
                    };
                    self.engine.soft().answer(answer);
                    assert_eq!(self.engine.soft().finish()?, None);
                    self.engine.restart();
                    self.engine.soft().request_window(false);
                    return Ok(Came::Exit(exit, branches));
                }
                Stop::Fault(_) => return Ok(Came::Ended),
            }
        }
    }
}

/// Puts `asks` to the soft engine and to the approach, which must come to the same places in the same state.
fn compare(
    blocks: &[Block],
    asks: &[Ask],
    skid: u64,
    manners: Manners,
    seed: u64,
) -> Result<(), EngineError> {
    let (exact_machine, machine) = (Machine::new(blocks), Machine::new(blocks));
    let mut exact = Driven::new(exact_machine.soft());
    let mut stepping = Driven::new(Stepping::new(machine.soft(), skid, manners, seed));
    for (number, ask) in asks.iter().enumerate() {
        let here = exact.engine.reached();
        let place = Progress {
            branches: here.branches + ask.branches,
            steps: ask.steps + if ask.branches == 0 { here.steps + 1 } else { 0 },
        };
        let came = exact.go(place, ask.interrupt)?;
        let stepped = stepping.go(place, ask.interrupt)?;
        assert_eq!(came, stepped, "ask {number}: {ask:?}");
        if came == Came::Reached {
            let exactly = exact.engine.reached();
            assert_eq!(stepping.engine.reached(), exactly, "ask {number}: {ask:?}");
            assert!(stepping.engine.approach.is_exact());
        }
        assert_eq!(exact.engine.instructions(), stepping.engine.sim.soft.instructions(), "ask {number}");
        assert_eq!(exact.engine.state()?, stepping.engine.sim.soft.state()?, "ask {number}: {ask:?}");
        assert!(exact_machine.bytes() == machine.bytes(), "RAM differs after ask {number}: {ask:?}");
        if came == Came::Ended {
            break;
        }
    }
    Ok(())
}

fn some_asks(most: u64) -> impl Strategy<Value = Vec<Ask>> {
    let far = prop_oneof![Just(0), 1..40u64, 1..most];
    let ask = (far, prop_oneof![3 => Just(0u64), 1 => 0..40u64], any::<bool>())
        .prop_map(|(branches, steps, interrupt)| Ask { branches, steps, interrupt });
    prop::collection::vec(ask, 1..8)
}

/// Small and large skids alike.
fn skids() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1..130u64, 1..3000u64, 1..20_000u64]
}

/// Overflows that come within the skid.
fn good(skid: u64) -> impl Strategy<Value = Manners> {
    (0..=skid, 0..30u8, 0..40u8).prop_map(|(late, early, kicks)| Manners { late, early, kicks, lost: 0 })
}

/// Overflows that come much too late, or not at all.
fn bad() -> impl Strategy<Value = Manners> {
    (0..40_000u64, 0..30u8, 0..40u8, 0..60u8).prop_map(|(late, early, kicks, lost)| Manners {
        late,
        early,
        kicks,
        lost,
    })
}

fn cases(number: u32) -> ProptestConfig {
    ProptestConfig { cases: number, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(160))]

    /// With overflows that keep to the skid every place is reached exactly.
    #[test]
    fn every_place_is_reached(
        blocks in guest::blocks(),
        asks in some_asks(30_000),
        (skid, manners) in skids().prop_flat_map(|skid| (Just(skid), good(skid))),
        seed in any::<u64>(),
    ) {
        compare(&blocks, &asks, skid, manners, seed).map_err(|e| TestCaseError::fail(e.to_string()))?;
    }

    /// With others it is that, or an error that says so; and with twice the skid, again and again, it is reached, unless
    /// overflows get lost.
    #[test]
    fn a_place_is_reached_or_the_overshoot_is_known(
        blocks in guest::blocks(),
        asks in some_asks(30_000),
        skid in skids(),
        manners in bad(),
        seed in any::<u64>(),
    ) {
        let mut skid = skid.max(40);
        loop {
            match compare(&blocks, &asks, skid, manners, seed) {
                Ok(()) => break,
                Err(EngineError::Overshoot { wanted, branches, skid: said }) => {
                    prop_assert_eq!(said, skid);
                    prop_assert!(branches >= wanted.branches);
                    prop_assert!(manners.lost > 0 || manners.late > skid);
                }
                Err(other) => return Err(TestCaseError::fail(other.to_string())),
            }
            skid *= 2;
            if skid > 100_000 {
                break; // lost: nothing is armed any more with such a skid, and all is stepped
            }
        }
        prop_assert!(skid <= 200_000);
    }
}
