//! Snapshots of a machine under a driver: into a recording's directory and back.

use std::io;

use scribe_log::header::Header;
use scribe_log::snapshots::{
    NewSnapshot, Origin, PageMap, PageSink, PageSource, Part, RAM, SnapshotError, SnapshotInfo, Snapshots,
    Visit,
};

use super::choice::Choice;
use super::config::{self, ConfigError};
use super::drive::{Phase, Stand};
use crate::machine::disk::Disk;
use crate::machine::memory::{GuestRam, PAGE_SIZE};
use crate::machine::state::{Parts, StateError, part};
use crate::machine::{Machine, MachineError};

/// Space of pages: clusters of the first disk that differ from its image.
const DISK: u32 = 1;
/// Bytes of RAM that are handed on at a time.
const RUN_BYTES: usize = 1 << 20;

const DRIVER: &str = "driver";
const DRIVER_VERSION: u16 = 2;

/// Why a snapshot cannot be taken or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapError {
    /// Its files.
    #[error(transparent)]
    Files(#[from] SnapshotError),
    /// The machine cannot be saved.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// What was saved does not fit this machine.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is no machine to put it into.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl SnapError {
    /// True if what is in the files is not what was written there by a program like this.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Files(error) => error.is_damage(),
            Self::State(_) => true,
            Self::Machine(_) | Self::Config(_) => false,
        }
    }
}

/// Takes a snapshot of `machine`, whose driver has paused and stands as `stand` says.
///
/// # Errors
/// The machine cannot be saved, or the snapshot not be written.
pub fn take(
    snapshots: &mut Snapshots,
    machine: &Machine,
    stand: Stand,
    origin: Origin,
) -> Result<SnapshotInfo, SnapError> {
    let mut parts = machine.save()?;
    parts.push(part(DRIVER, DRIVER_VERSION, &stand).map_err(MachineError::from)?);
    let new = NewSnapshot { position: machine.position(), guest_time: machine.guest_time(), origin, parts };
    Ok(snapshots.add(&new, &mut Pages(machine))?)
}

/// The machine that `header` describes as it was at a snapshot, and how its driver stood.
///
/// # Errors
/// The snapshot is damaged or does not fit, or the host cannot run the machine.
pub fn restore(
    snapshots: &Snapshots,
    info: &SnapshotInfo,
    header: &Header,
    choice: &Choice,
    scratch: &std::path::Path,
) -> Result<(Machine, Stand), SnapError> {
    let ram = GuestRam::new(header.memory).map_err(ConfigError::from)?;
    let mut disk = config::disk(header, scratch)?;
    let mut sink = Contents { ram: &ram, disk: disk.as_mut() };
    let mut parts = snapshots.load(info, &mut sink)?;
    let stand = take_stand(&mut parts, info)?;
    let mut machine = config::build(header, choice, ram, disk, None)?;
    machine.restore(parts)?;
    if (machine.position(), machine.guest_time()) != (info.position, info.guest_time) {
        let reason = "its position is not that of its snapshot".into();
        return Err(StateError::Malformed { kind: "machine".into(), reason }.into());
    }
    Ok((machine, stand))
}

/// True if the snapshot is of the first moment at its position, or of a place between two sync points: a guest that sleeps
/// there has gone on since it came.
///
/// # Errors
/// The snapshot is damaged.
pub fn is_at_its_position(snapshots: &Snapshots, info: &SnapshotInfo) -> Result<bool, SnapError> {
    let stand = take_stand(&mut snapshots.parts(info)?, info)?;
    Ok(stand.phase != Phase::Idle)
}

/// The driver's part, out of all parts.
fn take_stand(parts: &mut Vec<Part>, info: &SnapshotInfo) -> Result<Stand, StateError> {
    let Some(index) = parts.iter().position(|part| part.kind == DRIVER) else {
        return Err(StateError::Missing { kind: DRIVER.into() });
    };
    let stand: Stand = Parts::new(vec![parts.swap_remove(index)]).take(DRIVER, DRIVER_VERSION)?;
    if stand.arrived > info.guest_time || (stand.phase == Phase::Arrived && stand.taken > 0) {
        let reason = "what it says of its position is impossible".into();
        return Err(StateError::Malformed { kind: DRIVER.into(), reason });
    }
    Ok(stand)
}

impl PageSink for Contents<'_> {
    fn begin(&mut self, pages: &PageMap) -> io::Result<()> {
        let room = |space: u32, page: u64| match (space, &self.disk) {
            (RAM, _) => self.ram.has_frame(page),
            (DISK, Some(disk)) => disk.has_cluster(page),
            _ => false,
        };
        let outside = |space: &u32| {
            pages.runs(*space).iter().any(|run| !room(*space, run.start) || !room(*space, run.end - 1))
        };
        match pages.spaces().find(outside) {
            Some(space) => {
                Err(io::Error::other(format!("its pages of space {space} are not this machine's")))
            }
            None => Ok(()),
        }
    }

    fn write(&mut self, space: u32, first: u64, bytes: &[u8]) -> io::Result<()> {
        let outside = || io::Error::other(format!("pages of space {space} from {first} on have no place"));
        match (space, &mut self.disk) {
            (RAM, _) => {
                let address = first.checked_mul(PAGE_SIZE).ok_or_else(outside)?;
                self.ram.write(address, bytes).map_err(io::Error::other)
            }
            (DISK, Some(disk)) => disk.write_clusters(first, bytes),
            _ => Err(outside()),
        }
    }
}

/// What of a machine is pages.
struct Pages<'a>(&'a Machine);

impl PageSource for Pages<'_> {
    fn spaces(&self) -> Vec<u32> {
        let disk = self.0.disk().map(|_| DISK);
        [RAM].into_iter().chain(disk).collect()
    }

    fn pages(&mut self, space: u32, visit: &mut Visit<'_>) -> io::Result<()> {
        match (space, self.0.disk()) {
            (RAM, _) => self.ram(visit),
            (DISK, Some(disk)) => {
                disk.written().try_for_each(|cluster| visit(cluster, &disk.read_cluster(cluster)?))
            }
            _ => Ok(()),
        }
    }
}

impl Pages<'_> {
    fn ram(&self, visit: &mut Visit<'_>) -> io::Result<()> {
        let ram = self.0.ram();
        let mut buffer = vec![0; RUN_BYTES];
        for region in ram.regions() {
            let ends = region.start.saturating_add(region.size);
            let mut address = region.start;
            while address < ends {
                let length = usize::try_from(ends - address).unwrap_or(RUN_BYTES).min(RUN_BYTES);
                ram.read(address, &mut buffer[..length]).map_err(io::Error::other)?;
                visit(address / PAGE_SIZE, &buffer[..length])?;
                address += length as u64;
            }
        }
        Ok(())
    }
}

/// Where pages go in a machine that is being put together.
struct Contents<'a> {
    ram: &'a GuestRam,
    disk: Option<&'a mut Disk>,
}
