//! Going live: a replayed machine takes its inputs from the host again, and may be recorded anew as a branch.

use scribe_log::Body;
use scribe_log::header::{Chaos, Engine as EngineName, Header, Pace, Parent, Start};
use scribe_log::snapshots::{Origin, Snapshots};

use super::console::Console;
use super::drive::Stand;
use super::journal::{Journal, NoJournal};
use super::marks::Marks;
use super::player::{Departure, Player};
use super::snapshot;
use super::start::{Connections, LiveReport, StartError, Target, live as run_live, recorder};
use crate::engine::soft;
use crate::machine::chaos;

/// How a machine goes live.
#[derive(Debug)]
pub struct Branch<'a> {
    /// what it takes from the host
    pub connections: Connections,
    /// whether idle time passes on the host too
    pub pace: Pace,
    /// fresh entropy for the guest
    pub reseed: Option<[u8; 32]>,
    /// what the guest's wall clock is moved to, seconds since 1970
    pub wall_clock: Option<u64>,
    /// seed by which interrupts and inputs come late from here on, if not what the recording has
    pub chaos: Option<u64>,
    /// where the branch is recorded, if it is
    pub target: Option<Target<'a>>,
}

/// Lets the player's machine go live where it is, until it ends.
///
/// # Errors
/// One line that says what failed. What was sealed of the branch by then stays.
pub fn live(player: Player, branch: Branch, console: &mut Console) -> Result<LiveReport, StartError> {
    let Departure { header: parent, recording, choice, mut machine, mut driver, host_facts, image: _image } =
        player.depart();
    driver.make_sync_point(&mut machine);
    machine.drop_console_backlog();
    let Branch { connections, pace, reseed, wall_clock, chaos, target } = branch;
    if let Some(seed) = chaos {
        machine.shake(seed);
    }
    let notice = reseed.is_some() || wall_clock.is_some();
    if notice {
        machine.takes_notices()?; // before anything is created
    }
    let Some(target) = target else {
        if notice {
            machine.notify_branch(reseed.as_ref(), wall_clock)?;
        }
        let (marks, journal) = (Marks::default(), NoJournal);
        return Ok(run_live(&mut machine, &mut driver, journal, marks, connections, pace, console)?.0);
    };
    let mut host = host_facts;
    if choice.engine == EngineName::Soft {
        host.kvm_module = String::new(); // it has no part in it
    }
    let header = Header {
        program: env!("CARGO_PKG_VERSION").into(),
        engine: choice.engine,
        behaviour: choice.behaviour.map(|behaviour| soft::name(behaviour).to_owned()),
        pace,
        host,
        level: target.noting.level,
        chaos: machine.chaos_seed().map(|seed| Chaos { version: chaos::VERSION, seed }),
        parent: Some(Parent {
            path: recording.dir().canonicalize().unwrap_or_else(|_| recording.dir().to_owned()),
            header: recording.header().identity().map_err(scribe_log::WriteError::from)?,
            at: machine.position(),
        }),
        start: Some(Start { position: machine.position(), guest_time: machine.guest_time() }),
        ..parent
    };
    let mut recorder = recorder(&target, &header, &mut machine)?;
    let mut snapshots = Snapshots::open(target.directory, recorder.header_crc())?;
    let stand = Stand { phase: driver.phase(), arrived: machine.guest_time(), taken: 0 };
    snapshot::take(&mut snapshots, &machine, stand, Origin::Start)?;
    if notice {
        // Behind the snapshot, which is the parent's state: the first input of the branch.
        recorder.input(&machine, Body::Branch { seed: reseed, wall_clock })?;
        machine.notify_branch(reseed.as_ref(), wall_clock)?;
    }
    let marks = Marks::new(&target.noting, &machine);
    let (mut report, recorder) =
        run_live(&mut machine, &mut driver, recorder, marks, connections, pace, console)?;
    report.recorded = recorder.summary().cloned();
    Ok(report)
}
