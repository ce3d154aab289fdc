//! A processor, its RAM, and the rest of the world: answers to exits, devices that write RAM, interrupts. All of it follows
//! from the seed and from places, so that two runs differ only in what the host does.
#![allow(unsafe_code)] // RAM is handed to the processor as an address

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use scribe_types::stop::{Answer, Exit, Fault, Progress, Stop};

use super::guest::Guest;
use super::random::mix;
use crate::{Profile, Ram, RamRegion, SoftCpu, SoftState};

/// Bytes of RAM.
pub(super) const RAM: u64 = 64 << 12;

/// Where a guest is: exits, branches, steps.
pub(super) type Place = (u64, Progress);

/// What is done to a guest at a place, in every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Inject(u8),
    Window,
}

/// What is done to a guest, and where its run ends.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub acts: BTreeMap<Place, Act>,
    /// by exits before it: how far each exit is from the one before
    pub exits: BTreeMap<u64, Progress>,
    pub end: Place,
    /// it ends there because it cannot go on
    pub fault: Option<Fault>,
}

/// What happens to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happened {
    Exit(Place, Exit),
    Window(Place),
    Fault(Place, Fault),
}

/// Why [`World::run`] came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Back {
    Reached,
    /// an exit was served, or an interrupt injected into an open window
    Between,
    Kicked,
    Fault(Fault),
}

pub(super) struct World {
    pub cpu: SoftCpu,
    memory: Box<[u8]>,
    offset: usize,
    seed: u64,
    profile: Profile,
    exits: u64,
    pub happened: Vec<Happened>,
}

fn processor(memory: &mut [u8], profile: Profile) -> (SoftCpu, usize) {
    let offset = memory.as_ptr().align_offset(4096);
    let host = memory.as_mut_ptr() as u64 + offset as u64;
    // SAFETY: the box lives as long as the processor beside it, and is written only between runs.
    let ram = unsafe { Ram::new(vec![RamRegion { start: 0, size: RAM, host }]) };
    (SoftCpu::new(ram, profile), offset)
}

impl World {
    pub(super) fn new(guest: &Guest) -> Self {
        let mut world = Self::empty(guest.seed, guest.profile);
        let offset = world.offset;
        world.memory[offset..][..guest.ram.len()].copy_from_slice(&guest.ram);
        world.cpu.set_state(&guest.state).unwrap();
        world
    }

    fn empty(seed: u64, profile: Profile) -> Self {
        let mut memory = vec![0; RAM as usize + 4096].into_boxed_slice();
        let (cpu, offset) = processor(&mut memory, profile);
        Self { cpu, memory, offset, seed, profile, exits: 0, happened: Vec::new() }
    }

    /// Another world with a new processor, which has been told all that this one is said to be, through a file as it were.
    pub(super) fn copy(&self) -> Self {
        let bytes = postcard::to_stdvec(&self.cpu.save().unwrap()).unwrap();
        let (state, rest): (SoftState, _) = postcard::take_from_bytes(&bytes).unwrap();
        assert!(rest.is_empty());
        let mut other = Self::empty(self.seed, self.profile);
        let offset = other.offset;
        other.memory[offset..][..RAM as usize].copy_from_slice(self.ram());
        other.cpu.restore(&state).unwrap();
        (other.exits, other.happened) = (self.exits, self.happened.clone());
        assert_eq!(other.cpu.save().unwrap(), state);
        other
    }

    pub(super) fn ram(&self) -> &[u8] {
        &self.memory[self.offset..][..RAM as usize]
    }

    pub(super) fn place(&self) -> Place {
        (self.exits, self.cpu.progress())
    }

    /// Does what the script wants here.
    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Inject(vector) => self.cpu.inject(vector),
            Act::Window => self.cpu.request_window(true),
        }
    }

    /// Runs to `until` at the latest, counted from the last exit.
    pub(super) fn run(&mut self, until: Progress, kick: &AtomicBool) -> Back {
        self.cpu.set_clock(1000 * self.exits, 8);
        let stop = self.cpu.run(Some(until), kick);
        let place = self.place();
        match stop {
            Stop::Reached => Back::Reached,
            Stop::Kicked => Back::Kicked,
            Stop::InterruptWindow => {
                self.happened.push(Happened::Window(place));
                self.cpu.request_window(false);
                self.cpu.inject(0x20 + (self.exits & 7) as u8);
                Back::Between
            }
            Stop::Exit(exit) => {
                self.happened.push(Happened::Exit(place, exit));
                self.serve(exit);
                while let Some(exit) = self.cpu.finish() {
                    self.happened.push(Happened::Exit((self.exits, Progress::NONE), exit));
                    self.serve(exit);
                }
                Back::Between
            }
            Stop::Fault(fault) => {
                self.happened.push(Happened::Fault(place, fault.clone()));
                Back::Fault(fault)
            }
        }
    }

    fn serve(&mut self, exit: Exit) {
        self.exits += 1;
        let number = mix(self.seed ^ self.exits);
        if number & 3 == 0 {
            self.device_writes(mix(number));
        }
        self.cpu.answer(match exit {
            Exit::MsrRead { .. } | Exit::MsrWrite { .. } if number & 0x10 != 0 => Answer::GeneralProtection,
            Exit::PortRead { .. } | Exit::MmioRead { .. } | Exit::MsrRead { .. } => Answer::Value(number),
            _ => Answer::Done,
        });
    }

    /// A device writes eight bytes somewhere into code or data, and the processor is told.
    fn device_writes(&mut self, number: u64) {
        let at = (0x1_0000 + (number & 0x1_4ff8)) as usize;
        self.memory[self.offset + at..][..8].copy_from_slice(&mix(number).to_le_bytes());
        self.cpu.invalidate(&[at as u64 >> 12]);
    }
}
