//! The guest sees nothing of the host, and a saved state is complete: the same guests straight, step by step, from saved
//! states in new processors, and while the host does all it may do. All runs must agree in all that there is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod corners;
mod guest;
mod items;
mod legacy;
mod random;
mod traced;
mod untrusted;
mod world;

use std::sync::atomic::{AtomicBool, Ordering};

use scribe_types::stop::Progress;

use crate::SoftState;
use guest::Guest;
use random::Random;
use world::{Act, Back, Happened, Place, Script, World};

/// Places of a run.
const PLACES: usize = 500;
/// After so many exits it ends too: a REP INS can make a thousand between two places.
const EXITS: u64 = 2000;
static NO_KICK: AtomicBool = AtomicBool::new(false);

/// A run, step by step.
struct Walked {
    script: Script,
    /// all places, each with the state there
    states: Vec<(Place, SoftState)>,
    end: End,
}

/// All that there is at the end of a run.
#[derive(PartialEq)]
struct End {
    place: Place,
    happened: Vec<Happened>,
    /// none where the guest cannot go on
    state: Option<SoftState>,
    ram: Vec<u8>,
}

fn end(world: &World, script: &Script) -> End {
    End {
        place: world.place(),
        happened: world.happened.clone(),
        state: if script.fault.is_some() { None } else { Some(world.cpu.save().unwrap()) },
        ram: world.ram().to_vec(),
    }
}

fn one_ahead(place: Place) -> Progress {
    Progress { steps: place.1.steps + 1, ..place.1 }
}

/// Runs a guest of a seed one step at a time and finds out what is done to it, and where it ends.
fn walk(mut world: World, seed: u64) -> Walked {
    let mut random = Random::new(seed ^ 0x5eed);
    let mut script = Script::default();
    let mut states: Vec<(Place, SoftState)> = Vec::new();
    loop {
        let place = world.place();
        if states.last().is_none_or(|(last, _)| *last != place) {
            states.push((place, world.cpu.save().unwrap()));
            if states.len() == PLACES || place.0 > EXITS {
                break;
            }
            if random.once_in(24) {
                let vector = 0x20 + random.below(16) as u8;
                let act = if world.cpu.can_inject() { Act::Inject(vector) } else { Act::Window };
                script.acts.insert(place, act);
                world.act(act);
            }
        }
        if let Back::Fault(fault) = world.run(one_ahead(place), &NO_KICK) {
            script.fault = Some(fault);
            break;
        }
    }
    script.end = world.place();
    script.exits = world
        .happened
        .iter()
        .filter_map(|happened| match happened {
            Happened::Exit((exits, at), _) => Some((*exits, *at)),
            _ => None,
        })
        .collect();
    let end = end(&world, &script);
    Walked { script, states, end }
}

/// What the host does on the way.
trait Host {
    /// The next place to stop at, besides those where something is done.
    fn stop(&mut self, _now: Place) -> Option<Place> {
        None
    }

    /// At a stop. `arrived`: nothing has been done here yet.
    fn meddle(&mut self, _world: &mut World, _arrived: bool) {}

    fn kick(&self) -> &AtomicBool {
        &NO_KICK
    }
}

/// Stops where something is done, and nowhere else.
struct Straight;

impl Host for Straight {}

/// Runs a guest to the end that is known.
fn run(mut world: World, script: &Script, host: &mut impl Host) -> End {
    let last = if script.fault.is_some() { (script.end.0, one_ahead(script.end)) } else { script.end };
    let mut acted = None;
    let mut arrived = true;
    loop {
        let now = world.place();
        if now == script.end && script.fault.is_none() {
            break;
        }
        host.meddle(&mut world, arrived);
        if acted != Some(now)
            && let Some(&act) = script.acts.get(&now)
        {
            acted = Some(now);
            world.act(act);
        }
        let act = script.acts.range(now..).map(|(place, _)| *place).find(|place| acted != Some(*place));
        // The next exit must come before the place right behind it.
        let exit = script.exits.get(&now.0).map(|at| (now.0, one_ahead((now.0, *at))));
        let next = [Some(last), act, exit, host.stop(now)].into_iter().flatten().min().unwrap();
        let back = world.run(next.1, host.kick());
        arrived = back == Back::Reached || world.place().0 != now.0;
        match back {
            Back::Fault(_) => break,
            Back::Reached => assert!(Some(next) != exit, "no exit at {exit:?}"),
            _ => assert!(world.place() <= last, "it went past {last:?}, to {:?}", world.place()),
        }
    }
    end(&world, script)
}

/// Takes the processor's state at random places and goes on with it in another.
struct Saves<'a> {
    random: Random,
    states: &'a [(Place, SoftState)],
}

impl Host for Saves<'_> {
    fn stop(&mut self, now: Place) -> Option<Place> {
        let ahead = self.states.partition_point(|(place, _)| *place <= now);
        let ahead = ahead + self.random.below(30) as usize;
        self.states.get(ahead).map(|(place, _)| *place)
    }

    fn meddle(&mut self, world: &mut World, arrived: bool) {
        let now = world.place();
        if arrived {
            let at = self.states.binary_search_by_key(&now, |(place, _)| *place).unwrap();
            let state = world.cpu.save().unwrap();
            assert!(state == self.states[at].1, "{now:?}: {state:?} was {:?}", self.states[at].1);
        }
        if self.random.below(3) > 0 {
            *world = world.copy();
        }
    }
}

/// Does all that it may, at random places and at once.
struct Meddles<'a> {
    random: Random,
    states: &'a [(Place, SoftState)],
    kick: &'a AtomicBool,
}

impl Host for Meddles<'_> {
    fn stop(&mut self, now: Place) -> Option<Place> {
        let ahead = self.states.partition_point(|(place, _)| *place <= now);
        let ahead = ahead + self.random.below(20) as usize;
        self.states.get(ahead).map(|(place, _)| *place)
    }

    fn meddle(&mut self, world: &mut World, _: bool) {
        world.cpu.track_dirty_pages();
        match self.random.below(8) {
            0..=2 => drop(world.cpu.take_dirty_pages()),
            3 => world.cpu.invalidate(&[self.random.below(world::RAM >> 12)]),
            4 => world.cpu.invalidate(&(0..=world::RAM >> 12).collect::<Vec<_>>()),
            5 => world.cpu.forget_code(),
            _ => {}
        }
        self.kick.store(false, Ordering::Relaxed);
    }

    fn kick(&self) -> &AtomicBool {
        self.kick
    }
}

/// Ends the thread that kicks, whatever becomes of the run.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn compare(what: &str, seed: u64, end: &End, expected: &End) {
    assert!(
        end.place == expected.place,
        "{what}, seed {seed}: at {:?} and not {:?}",
        end.place,
        expected.place
    );
    let differs = end.happened.iter().zip(&expected.happened).find(|(one, other)| one != other);
    assert!(differs.is_none(), "{what}, seed {seed}: {differs:?}");
    assert!(end.happened.len() == expected.happened.len(), "{what}, seed {seed}: more has happened");
    let byte = end.ram.iter().zip(&expected.ram).position(|(one, other)| one != other);
    assert!(byte.is_none(), "{what}, seed {seed}: RAM differs at {byte:x?}");
    assert!(end == expected, "{what}, seed {seed}: {:?} and not {:?}", end.state, expected.state);
}

/// All runs of the guest of a seed; how many places it had, and how many exits.
fn check(seed: u64, guest: &Guest) -> (usize, usize) {
    let walked = walk(World::new(guest), seed);
    let script = &walked.script;
    compare("straight", seed, &run(World::new(guest), script, &mut Straight), &walked.end);
    let mut saves = Saves { random: Random::new(seed), states: &walked.states };
    compare("saved", seed, &run(World::new(guest), script, &mut saves), &walked.end);
    let kick = AtomicBool::new(false);
    let done = AtomicBool::new(false);
    let end = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                kick.store(true, Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        let _ends = Ends(&done);
        let mut meddles = Meddles { random: Random::new(seed), states: &walked.states, kick: &kick };
        run(World::new(guest), script, &mut meddles)
    });
    compare("meddled with", seed, &end, &walked.end);
    (walked.states.len(), script.exits.len())
}

/// Guests of each kind.
fn seeds() -> u64 {
    std::env::var("SCRIBE_TEST_GUESTS").map_or(60, |count| count.parse().unwrap())
}

/// Runs all guests of a kind. `places`: the fewest that they must come to, each.
fn check_all(make: impl Fn(u64) -> Guest, places: u64) {
    let (mut come, mut exits) = (0, 0);
    for seed in 0..seeds() {
        let (more, made) = check(seed, &make(seed));
        come += more as u64;
        exits += made;
    }
    println!("{come} places, {exits} exits");
    assert!(come >= places * seeds(), "the guests die early: {come} places");
}

#[test]
fn kernels_in_long_mode() {
    check_all(Guest::long, 200);
}

#[test]
fn guests_outside_long_mode() {
    check_all(Guest::legacy, 100);
}
