//! Executed blocks are told completely, in order, wherever the run is stopped, and telling changes nothing.

use std::cell::RefCell;
use std::rc::Rc;

use scribe_types::executed::ExecutedBlock;

use super::guest::Guest;
use super::random::Random;
use super::world::{Place, World};
use super::{End, Host, compare, run, seeds, walk};
use crate::SoftState;

/// What was told.
type Told = Rc<RefCell<Vec<ExecutedBlock>>>;

fn listen(world: &mut World, told: &Told) {
    let told = Rc::clone(told);
    world.cpu.trace_blocks(Some(Box::new(move |block| told.borrow_mut().push(block))));
}

/// Blocks as they would have been told without stops.
fn joined(told: &Told) -> Vec<ExecutedBlock> {
    let mut blocks: Vec<ExecutedBlock> = Vec::new();
    for block in told.borrow().iter() {
        match blocks.last_mut() {
            Some(last) if block.continues => last.instructions += block.instructions,
            _ => blocks.push(*block),
        }
    }
    blocks
}

/// Compares the sum at each stop, and goes on in new processors if there are places to do so.
struct Listens<'a> {
    told: Told,
    random: Random,
    states: &'a [(Place, SoftState)],
}

impl Host for Listens<'_> {
    fn stop(&mut self, now: Place) -> Option<Place> {
        let ahead = self.states.partition_point(|(place, _)| *place <= now);
        self.states.get(ahead + self.random.below(40) as usize).map(|(place, _)| *place)
    }

    fn meddle(&mut self, world: &mut World, _: bool) {
        let sum: u64 = self.told.borrow().iter().map(|block| block.instructions).sum();
        assert_eq!(sum, world.cpu.instructions());
        if !self.states.is_empty() && self.random.once_in(2) {
            *world = world.copy();
            listen(world, &self.told);
        }
    }
}

fn traced(guest: &Guest, walked: &super::Walked, states: &[(Place, SoftState)]) -> (End, Vec<ExecutedBlock>) {
    let told = Told::default();
    let mut world = World::new(guest);
    listen(&mut world, &told);
    let mut host = Listens { told: Rc::clone(&told), random: Random::new(guest.seed), states };
    let end = run(world, &walked.script, &mut host);
    (end, joined(&told))
}

#[test]
fn blocks_are_told_completely_and_in_order() {
    let mut long = 0;
    for seed in 0..seeds() / 2 {
        let guest = if seed % 3 == 0 { Guest::legacy(seed) } else { Guest::long(seed) };
        let told = Told::default();
        let mut world = World::new(&guest);
        listen(&mut world, &told);
        let walked = walk(world, seed);
        let unheard = run(World::new(&guest), &walked.script, &mut super::Straight);
        compare("walked and told", seed, &walked.end, &unheard);
        let (end, straight) = traced(&guest, &walked, &[]);
        compare("told", seed, &end, &unheard);
        assert!(straight == joined(&told), "seed {seed}: step by step other blocks");
        let (end, saved) = traced(&guest, &walked, &walked.states);
        compare("saved and told", seed, &end, &unheard);
        assert!(straight == saved, "seed {seed}: from saved states other blocks");
        assert!(straight.iter().all(|block| !block.continues && block.instructions > 0));
        long += straight.iter().filter(|block| block.instructions > 3).count() as u64;
    }
    assert!(long > 2 * seeds(), "only {long} blocks deserve the name");
}
