//! One case: a state, a few instructions, and what came out of them.

use super::layout::{CODE_BYTES, DATA_BYTES, PAGE};
use super::rng::Rng;
use super::values;
use iced_x86::Instruction;

/// General registers, RIP, RFLAGS, and x87 and SSE as FXSAVE64 lays them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Machine {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8..R15
    pub general: [u64; 16],
    /// instruction pointer
    pub rip: u64,
    /// flags
    pub rflags: u64,
    /// FXSAVE64 image
    pub fx: [u8; 512],
}

/// Offsets in the FXSAVE image.
pub mod fx {
    /// control word
    pub const FCW: usize = 0;
    /// status word
    pub const FSW: usize = 2;
    /// abridged tag word
    pub const FTW: usize = 4;
    /// SSE control and status
    pub const MXCSR: usize = 24;
    /// ST0, 16 bytes each
    pub const ST: usize = 32;
    /// XMM0, 16 bytes each
    pub const XMM: usize = 160;
}

impl Machine {
    /// All zero, exceptions masked.
    pub const fn new() -> Self {
        let mut fx = [0; 512];
        fx[fx::FCW] = 0x7f;
        fx[fx::FCW + 1] = 3;
        fx[fx::MXCSR] = 0x80;
        fx[fx::MXCSR + 1] = 0x1f;
        Self { general: [0; 16], rip: 0, rflags: 0x202, fx }
    }
    /// A 16-bit field of the FXSAVE image.
    pub fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.fx[at], self.fx[at + 1]])
    }
    /// MXCSR.
    pub fn mxcsr(&self) -> u32 {
        u32::from(self.word(fx::MXCSR)) | u32::from(self.word(fx::MXCSR + 2)) << 16
    }
    /// `N` bytes of the FXSAVE image.
    pub fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.fx[at..at + N]);
        bytes
    }
    /// Writes into the FXSAVE image.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.fx[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

/// How a case ended: always by an exception, the INT3 behind it if by no other.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Outcome {
    /// state at the exception
    pub machine: Machine,
    /// vector, or one of the constants below
    pub vector: u32,
    /// error code
    pub error: u32,
    /// faulting address of a page fault
    pub cr2: u64,
    /// the data pages
    pub data: [u8; DATA_BYTES],
}

impl Outcome {
    /// Ran without an end.
    pub const ENDLESS: u32 = 0x1000;
    /// Made a system call.
    pub const SYSTEM_CALL: u32 = 0x1001;
    /// Ended in another way than by an exception; `error` says which.
    pub const STOPPED: u32 = 0x1002;
    /// Never ran.
    pub const NONE: u32 = 0x1003;
    /// Nothing yet.
    pub const EMPTY: Self =
        Self { machine: Machine::new(), vector: Self::NONE, error: 0, cr2: 0, data: [0; DATA_BYTES] };
}

/// One instruction of a case.
#[derive(Debug, Clone)]
pub struct Piece {
    /// its encoding
    pub bytes: Vec<u8>,
    /// as decoded
    pub instruction: Instruction,
    /// index of its form; helpers have none
    pub form: Option<usize>,
    /// pieces that are dropped together
    pub group: usize,
    /// a branch that jumps over the next piece, perhaps
    pub skips: bool,
    /// keeps what is not defined out of what is compared: dropped only with its group
    pub guard: bool,
    /// dropped: NOPs in its place
    pub dropped: bool,
}

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// number within the seed
    pub number: u64,
    /// 32-bit compatibility mode
    pub compatibility: bool,
    /// state before; RIP is where the code begins
    pub machine: Machine,
    /// where the pool's bytes begin that fill the data pages
    pub pool_offset: usize,
    /// the instructions
    pub pieces: Vec<Piece>,
}

impl Case {
    /// 64 or 32.
    pub fn bitness(&self) -> u32 {
        if self.compatibility { 32 } else { 64 }
    }

    /// Encoded, with INT3 behind it, cut at the page's end.
    pub fn code(&self) -> Vec<u8> {
        let mut code = Vec::with_capacity(CODE_BYTES);
        for piece in &self.pieces {
            match piece.dropped {
                true => code.extend(std::iter::repeat_n(0x90, piece.bytes.len())),
                false => code.extend_from_slice(&piece.bytes),
            }
        }
        code.extend([0xcc; 16]);
        code.truncate(CODE_BYTES.min((PAGE - self.machine.rip % PAGE) as usize));
        code
    }

    /// The pieces that are left, with where they lie.
    pub fn remaining(&self) -> impl Iterator<Item = (u64, &Piece)> {
        let mut ip = self.machine.rip;
        self.pieces
            .iter()
            .map(move |piece| {
                let at = ip;
                ip += piece.bytes.len() as u64;
                (at, piece)
            })
            .filter(|(_, piece)| !piece.dropped)
    }
}

/// RFLAGS bits that a case begins with, at random.
const FLAGS: u64 = 0x8d5;

/// A random state; RIP is set elsewhere.
pub fn machine(rng: &mut Rng, compatibility: bool) -> Machine {
    let mut machine = Machine::new();
    for (index, register) in machine.general.iter_mut().enumerate() {
        let pointers = match index {
            4 => 88,
            5 => 60,
            6 | 7 => 75,
            1 => 5,
            _ => 25,
        };
        *register = if rng.chance(pointers) { values::pointer(rng, 16) } else { values::integer(rng) };
        if index == 1 && rng.chance(50) {
            *register = rng.below(40);
        }
        if compatibility {
            *register &= 0xffff_ffff;
        }
    }
    if rng.chance(5) {
        machine.general[2] = 0; // so that DIV has a chance
    }
    machine.rflags = 0x202 | rng.bits() & FLAGS;
    if rng.chance(20) {
        machine.rflags |= 0x400; // DF
    }
    if rng.chance(1) {
        machine.rflags |= rng.pick(&[0x100, 0x4_0000]); // TF, AC
    }
    let masks = if rng.chance(80) { 0x3f } else { rng.bits() as u16 & 0x3f };
    let fcw =
        0x40 | masks | (rng.below(4) << 10) as u16 | rng.pick(&[0x300_u16, 0x300, 0x300, 0x200, 0, 0x100]);
    let status = if rng.chance(60) { 0 } else { rng.bits() as u16 & 0x7f };
    let pending = if status & !fcw & 0x3f != 0 { 0x8080 } else { 0 };
    let fsw = status | pending | rng.bits() as u16 & 0x4700 | (rng.below(8) << 11) as u16;
    machine.put(fx::FCW, &fcw.to_le_bytes());
    machine.put(fx::FSW, &fsw.to_le_bytes());
    machine.fx[fx::FTW] = if rng.chance(60) { 0xff } else { rng.bits() as u8 };
    let masks = if rng.chance(85) { 0x1f80 } else { rng.bits() as u32 & 0x1f80 };
    let modes = if rng.chance(50) { 0 } else { rng.bits() as u32 & 0xe040 };
    let mxcsr = masks | modes | if rng.chance(60) { 0 } else { rng.bits() as u32 & 0x3f };
    machine.put(fx::MXCSR, &mxcsr.to_le_bytes());
    for index in 0..8 {
        let value = values::extended(rng);
        machine.put(fx::ST + 16 * index, &value);
        if rng.chance(20) {
            machine.put(fx::ST + 16 * index, &values::vector(rng)[..8]);
            machine.put(fx::ST + 16 * index + 8, &[0xff, 0xff]);
        }
    }
    for index in 0..if compatibility { 8 } else { 16 } {
        let value = values::vector(rng);
        machine.put(fx::XMM + 16 * index, &value);
    }
    machine
}
