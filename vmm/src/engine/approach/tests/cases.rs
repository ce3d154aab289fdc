//! The way to a place, case by case.

use super::*;

const FAULTLESS: Manners = Manners { late: 0, early: 0, lost: 0, kicks: 0 };

fn stepping(blocks: &[Block], skid: u64, manners: Manners) -> (Machine, Stepping) {
    let machine = Machine::new(blocks);
    let soft = machine.soft();
    (machine, Stepping::new(soft, skid, manners, 7))
}

fn place(branches: u64, steps: u64) -> Progress {
    Progress { branches, steps }
}

/// Runs again after kicks.
fn run(stepping: &mut Stepping, until: Progress) -> Result<Stop, EngineError> {
    loop {
        match stepping.advance(Some(until))? {
            Stop::Kicked => {}
            stop => return Ok(stop),
        }
    }
}

#[test]
fn most_of_the_way_is_run_and_the_rest_is_stepped() {
    let (_machine, mut stepping) = stepping(&[Block::Turns(60_000)], 100, FAULTLESS);
    assert_eq!(run(&mut stepping, place(50_000, 0)).unwrap(), Stop::Reached);
    assert_eq!(stepping.reached(), place(50_000, 0));
    let Sim { steps, runs, .. } = stepping.sim;
    assert!((190..=203).contains(&steps), "{steps} steps");
    assert_eq!(runs, 1);
}

#[test]
fn a_near_place_is_only_stepped_to() {
    let (_machine, mut stepping) = stepping(&[Block::Turns(60_000)], 100, FAULTLESS);
    assert_eq!(run(&mut stepping, place(101, 1)).unwrap(), Stop::Reached);
    assert_eq!(stepping.sim.runs, 0);
    assert_eq!(stepping.reached(), place(101, 1));
}

#[test]
fn branches_side_by_side_count_each() {
    let (_machine, mut stepping) = stepping(&[Block::Adjacent], 0, FAULTLESS);
    for n in 1..90 {
        assert_eq!(stepping.advance(Some(place(n, 0))).unwrap(), Stop::Reached);
        assert_eq!(stepping.sim.soft.progress(), place(n, 0));
    }
}

#[test]
fn places_inside_a_repeated_instruction_are_reached() {
    let (_machine, mut stepping) = stepping(&[Block::Turns(900), Block::Move(40)], 30, FAULTLESS);
    // MOV SI, MOV DI, MOV CX come first.
    for done in 1..40 {
        assert_eq!(run(&mut stepping, place(900, 3 + done)).unwrap(), Stop::Reached);
        let registers = stepping.sim.soft.registers();
        assert_eq!(registers.general[1] & 0xffff, 40 - done);
    }
}

#[test]
fn an_overflow_that_is_late_is_an_overshoot() {
    let (_machine, mut stepping) =
        stepping(&[Block::Turns(60_000)], 10, Manners { late: 60_000, ..FAULTLESS });
    let error = run(&mut stepping, place(200, 0)).unwrap_err();
    let EngineError::Overshoot { wanted, branches, skid } = error else { panic!("{error}") };
    assert_eq!((wanted, skid), (place(200, 0), 10));
    assert_eq!(branches, stepping.sim.count().unwrap());
    assert!(branches >= 200);
    for words in ["200 branches and 0 instructions", "10 branches late", "doctor --pmu"] {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn the_very_branch_of_the_place_is_too_late() {
    // Whoever comes back from a run right behind the branch does not know by how many instructions.
    let (_machine, mut stepping) = stepping(&[Block::Turns(60_000)], 0, Manners { late: 1, ..FAULTLESS });
    let overshoot = (1..4000).find_map(|n| match run(&mut stepping, place(n * 10, 0)) {
        Ok(stop) => {
            assert_eq!((stop, stepping.reached()), (Stop::Reached, place(n * 10, 0)));
            None
        }
        Err(EngineError::Overshoot { branches, .. }) => Some((n * 10, branches)),
        Err(other) => panic!("{other}"),
    });
    let Some((wanted, found)) = overshoot else { panic!("every overflow was in time") };
    assert_eq!(wanted, found);
}

#[test]
fn a_lost_overflow_is_found_at_the_next_exit() {
    // In the second case right behind the place's branch: the exit comes behind the place all the same.
    for wanted in [400, 500] {
        let lost = Manners { lost: 255, ..FAULTLESS };
        let (_machine, stepping) = stepping(&[Block::Turns(500), Block::Read], 10, lost);
        assert_eq!(found_at_exit(stepping, wanted), Some(500));
    }
}

/// Where an overshoot of a place is found, with overflows that nearly all get lost.
fn found_at_exit(stepping: Stepping, wanted: u64) -> Option<u64> {
    let mut driven = Driven::new(stepping);
    (0..20).find_map(|_| match driven.go(place(wanted, 0), false) {
        Err(EngineError::Overshoot { branches, .. }) => Some(branches),
        Ok(came) => {
            assert_eq!(came, Came::Reached, "an overflow in 256 does come");
            driven.go(place(5000, 0), false).unwrap();
            None
        }
        Err(other) => panic!("{other}"),
    })
}

#[test]
fn kicks_on_the_way_are_told_and_change_nothing() {
    let kicks = Manners { kicks: 200, late: 20, ..FAULTLESS };
    let (_machine, mut stepping) = stepping(&[Block::Turns(60_000)], 100, kicks);
    let mut kicked = 0;
    loop {
        match stepping.advance(Some(place(30_000, 1))).unwrap() {
            Stop::Kicked => kicked += 1,
            stop => break assert_eq!(stop, Stop::Reached),
        }
    }
    assert!(kicked > 3, "{kicked} kicks");
    assert_eq!(stepping.reached(), place(30_000, 1));
}

#[test]
fn a_kick_at_the_place_comes_after_it() {
    let (_machine, mut stepping) =
        stepping(&[Block::Turns(60_000)], 100, Manners { kicks: 255, ..FAULTLESS });
    let mut kicks = 0;
    for n in 1..2000 {
        loop {
            match stepping.advance(Some(place(n, 0))).unwrap() {
                Stop::Kicked => {
                    assert!(stepping.reached() < place(n, 0), "kicked at the place");
                    kicks += 1;
                }
                stop => break assert_eq!(stop, Stop::Reached),
            }
        }
    }
    assert!(kicks > 50, "{kicks} kicks");
}

#[test]
fn a_counter_that_disagrees_with_the_steps_is_not_believed() {
    let (_machine, mut stepping) = stepping(&[Block::Turns(60_000)], 100, FAULTLESS);
    assert_eq!(run(&mut stepping, place(50, 0)).unwrap(), Stop::Reached);
    stepping.sim.excess = 1;
    let error = run(&mut stepping, place(60, 0)).unwrap_err();
    assert!(matches!(error, EngineError::Miscounted { counter: 51, stepped: 50 }), "{error}");
    for words in ["51 branches", "say 50", "--counter off", "doctor --pmu"] {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_counter_that_goes_back_is_not_believed() {
    let (_machine, mut stepping) = stepping(&[Block::Turns(60_000)], 0, FAULTLESS);
    stepping.sim.excess = 1_000_000;
    assert!(matches!(run(&mut stepping, place(10_000, 0)), Err(EngineError::Overshoot { .. })));
    stepping.sim.excess = 0;
    let error = run(&mut stepping, place(9_000_000, 0)).unwrap_err();
    assert!(matches!(error, EngineError::Miscounted { .. }), "{error}");
}

/// Lets it run until it is kicked.
fn be_kicked(stepping: &mut Stepping) {
    while stepping.advance(None).unwrap() != Stop::Kicked {}
}

#[test]
fn the_place_ahead_is_behind_the_next_branch() {
    let kicks = Manners { kicks: 200, ..FAULTLESS };
    let (_machine, mut stepping) = stepping(&[Block::Turns(60_000), Block::Straight(90)], 100, kicks);
    assert_eq!(stepping.approach.place_ahead(), Some(place(1, 0)));
    for _ in 0..20 {
        be_kicked(&mut stepping);
        let ahead = place(stepping.sim.soft.progress().branches + 1, 0);
        assert_eq!(stepping.approach.place_ahead(), Some(ahead));
        assert_eq!(run(&mut stepping, ahead).unwrap(), Stop::Reached);
        assert_eq!(stepping.sim.soft.progress(), ahead);
    }
}

#[test]
fn where_no_branch_comes_the_place_ahead_has_steps() {
    let program = [&[Block::Turns(3)], &[Block::Straight(255); 5][..]].concat();
    let (_machine, mut stepping) = stepping(&program, 100, FAULTLESS);
    assert_eq!(run(&mut stepping, place(3, 2)).unwrap(), Stop::Reached);
    assert_eq!(stepping.advance(Some(place(4, 0))).unwrap(), Stop::Kicked, "no branch for so long");
    let ahead = place(3, MOST_STEPS + 1);
    assert_eq!(stepping.approach.place_ahead(), Some(ahead));
    assert_eq!(run(&mut stepping, ahead).unwrap(), Stop::Reached);
    assert_eq!(stepping.sim.soft.progress(), ahead);
    // Somebody who insists comes there all the same.
    assert_eq!(stepping.advance(Some(place(4, 0))).unwrap(), Stop::Reached);
    assert_eq!(stepping.approach.place_ahead(), Some(place(5, 0)));
}

#[test]
fn where_no_branch_comes_and_nobody_counts_there_is_no_place() {
    let program = [&[Block::Straight(255); 20][..], &[Block::Turns(3)]].concat();
    let (_machine, mut stepping) = stepping(&program, 100, FAULTLESS);
    let mut none = 0;
    for _ in 0..40 {
        // The guest runs on a few instructions, and comes back, kicked.
        stepping.sim.interrupt_soon();
        assert_eq!(stepping.advance(None).unwrap(), Stop::Kicked);
        match stepping.approach.place_ahead() {
            Some(ahead) => {
                assert_eq!(ahead, place(stepping.reached().branches + 1, 0));
                if stepping.advance(Some(ahead)).unwrap() == Stop::Kicked {
                    assert_eq!(stepping.approach.place_ahead(), None);
                }
            }
            None => {
                none += 1;
                // On with it, to where there are branches again.
                let ahead = place(stepping.reached().branches + 3, 0);
                run(&mut stepping, ahead).unwrap();
            }
        }
    }
    assert!(none > 3, "{none}");
}

#[test]
fn an_exit_begins_anew() {
    let (_machine, stepping) = stepping(&[Block::Turns(500), Block::Read], 10, FAULTLESS);
    let mut driven = Driven::new(stepping);
    for _ in 0..3 {
        assert_eq!(driven.go(place(7, 1), false).unwrap(), Came::Reached);
        let came = driven.go(place(9000, 0), false).unwrap();
        assert_eq!(came, Came::Exit(Exit::PortRead { port: 0x60, size: 1 }, 500));
        assert_eq!(driven.engine.reached(), Progress::NONE);
        assert!(driven.engine.approach.is_exact());
    }
}
