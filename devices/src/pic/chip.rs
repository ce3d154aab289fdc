//! One 8259A: priority resolver, initialisation sequence, operation command words.
//!
//! Section names follow the 8259A data sheet (Intel order number 231468).

use serde::{Deserialize, Serialize};

/// What the next write to the data port is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InitStep {
    /// Initialised: OCW1, the interrupt mask.
    Ready,
    /// ICW2, the vector base.
    Icw2,
    /// ICW3, the cascade wiring. It is fixed on a PC, so the value is ignored.
    Icw3,
    /// ICW4, the mode.
    Icw4,
}

/// Registers and modes of one 8259A.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChipState {
    /// Interrupt request register.
    pub irr: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// In-service register.
    pub isr: u8,
    /// Levels of the input lines, as the edge detector last saw them.
    pub lines: u8,
    /// Edge/level control register: 1 = level-triggered.
    pub elcr: u8,
    /// Vector of IR0; the low three bits are 0.
    pub base: u8,
    /// The input with the highest priority, 0..8.
    pub top: u8,
    /// The next read of the command port gives ISR instead of IRR.
    pub read_isr: bool,
    /// The next read is a poll.
    pub poll: bool,
    /// Special mask mode.
    pub special_mask: bool,
    /// Special fully nested mode.
    pub special_fully_nested: bool,
    /// Automatic end of interrupt.
    pub auto_eoi: bool,
    /// Rotate priorities at each automatic end of interrupt.
    pub rotate_on_auto_eoi: bool,
    /// ICW1 announced a single 8259A: no ICW3.
    pub single: bool,
    /// ICW1 announced an ICW4.
    pub expect_icw4: bool,
    /// Place in the initialisation sequence.
    pub init: InitStep,
}

impl ChipState {
    pub(super) fn new() -> Self {
        ChipState {
            irr: 0,
            imr: 0,
            isr: 0,
            lines: 0,
            elcr: 0,
            base: 0,
            top: 0,
            read_isr: false,
            poll: false,
            special_mask: false,
            special_fully_nested: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            single: false,
            expect_icw4: false,
            init: InitStep::Ready,
        }
    }

    /// Drives an input line.
    pub(super) fn set_line(&mut self, line: u8, level: bool) {
        let bit = 1 << (line & 7);
        if level {
            if self.elcr & bit != 0 || self.lines & bit == 0 {
                self.irr |= bit;
            }
            self.lines |= bit;
        } else {
            // An edge-triggered request stays latched when its line falls. The data sheet would make it a spurious
            // IR7; QEMU and KVM keep it, and guests are tested on those.
            self.irr &= !(bit & self.elcr);
            self.lines &= !bit;
        }
    }

    /// Sets or clears the request of the cascade input, which follows the other chip's INT without a latch.
    pub(super) fn set_request(&mut self, line: u8, requested: bool) {
        let bit = 1 << (line & 7);
        self.irr = if requested { self.irr | bit } else { self.irr & !bit };
    }

    /// Rank of the most urgent input in `set`: 0 is the most urgent, 8 means that the set is empty.
    fn rank(&self, set: u8) -> u8 {
        set.rotate_right(u32::from(self.top & 7)).trailing_zeros().min(8) as u8
    }

    fn line_at(&self, rank: u8) -> u8 {
        (rank.wrapping_add(self.top)) & 7
    }

    /// The input that INT is raised for. `cascade` is the input that another chip hangs on.
    pub(super) fn highest(&self, cascade: Option<u8>) -> Option<u8> {
        let request = self.rank(self.irr & !self.imr);
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if let (true, Some(line)) = (self.special_fully_nested, cascade) {
            in_service &= !(1 << (line & 7));
        }
        (request < self.rank(in_service)).then(|| self.line_at(request))
    }

    /// The interrupt acknowledge sequence for `line`; gives the vector.
    pub(super) fn acknowledge(&mut self, line: u8) -> u8 {
        let bit = 1 << (line & 7);
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.top = (line + 1) & 7;
            }
        } else {
            self.isr |= bit;
        }
        self.irr &= !bit | self.elcr;
        self.base | (line & 7)
    }

    /// Vector of an acknowledge cycle that finds no request: IR7, without an in-service bit.
    pub(super) fn spurious(&self) -> u8 {
        self.base | 7
    }

    pub(super) fn read(&mut self, data_port: bool, cascade: Option<u8>) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.highest(cascade) {
                Some(line) => {
                    self.acknowledge(line);
                    0x80 | line
                }
                None => 0,
            };
        }
        match (data_port, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }

    pub(super) fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.icw1(value);
        } else if value & 0x08 != 0 {
            self.ocw3(value);
        } else {
            self.ocw2(value);
        }
    }

    pub(super) fn write_data(&mut self, value: u8) {
        let icw4_or_ready = if self.expect_icw4 { InitStep::Icw4 } else { InitStep::Ready };
        match self.init {
            InitStep::Ready => self.imr = value,
            InitStep::Icw2 => {
                self.base = value & 0xf8;
                self.init = if self.single { icw4_or_ready } else { InitStep::Icw3 };
            }
            InitStep::Icw3 => self.init = icw4_or_ready,
            InitStep::Icw4 => {
                self.special_fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 0x02 != 0;
                self.init = InitStep::Ready;
            }
        }
    }

    /// "Initialization Command Words": everything but the trigger modes starts anew, and level-triggered requests
    /// stay, for their lines are still up. The LTIM bit is not implemented: ELCR replaces it on a PC.
    fn icw1(&mut self, value: u8) {
        *self = ChipState {
            irr: self.irr & self.elcr,
            lines: self.lines & self.elcr,
            elcr: self.elcr,
            single: value & 0x02 != 0,
            expect_icw4: value & 0x01 != 0,
            init: InitStep::Icw2,
            ..ChipState::new()
        };
    }

    /// "Operation Control Word 2": end of interrupt and rotation.
    fn ocw2(&mut self, value: u8) {
        let line = value & 7;
        match value >> 5 {
            // Rotate in automatic EOI mode: clear, set.
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            // Non-specific EOI, without and with rotation.
            command @ (0b001 | 0b101) => {
                // In special mask mode, masked in-service bits wait for their specific EOI.
                let candidates = if self.special_mask { self.isr & !self.imr } else { self.isr };
                let rank = self.rank(candidates);
                if rank < 8 {
                    let line = self.line_at(rank);
                    self.isr &= !(1 << line);
                    if command == 0b101 {
                        self.top = (line + 1) & 7;
                    }
                }
            }
            // Specific EOI, without and with rotation.
            0b011 => self.isr &= !(1 << line),
            0b111 => {
                self.isr &= !(1 << line);
                self.top = (line + 1) & 7;
            }
            // Set priority.
            0b110 => self.top = (line + 1) & 7,
            // 0b010: no operation.
            _ => {}
        }
    }

    /// "Operation Control Word 3": special mask mode, poll, register to read.
    fn ocw3(&mut self, value: u8) {
        if value & 0x04 != 0 {
            self.poll = true;
        }
        if value & 0x02 != 0 {
            self.read_isr = value & 0x01 != 0;
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
    }

    /// Writes the edge/level control register. `writable` are the inputs that have the choice.
    pub(super) fn write_elcr(&mut self, value: u8, writable: u8) {
        self.elcr = value & writable;
        // A level-triggered request is its line, whatever was latched before.
        self.irr = (self.irr & !self.elcr) | (self.lines & self.elcr);
    }
}
