//! How far a function has moved its stack pointer where it is, worked out from its code.
//!
//! A kernel without frame pointers says where return addresses are in its ORC tables, which are not used here. What the
//! tables are made from is in memory, though: each way through a function from its entry is followed, and every PUSH, POP,
//! ADD and SUB on it counted. What is found is believed only if there is a return address at that place.

use std::collections::{BTreeMap, VecDeque};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::paging::Virtual;
use super::table::{Symbol, Symbols, UPPER_HALF};

/// Most instructions of one function that are looked at.
const MAX_INSTRUCTIONS: usize = 20_000;
/// Most entries of a jump table.
const MAX_TABLE: u64 = 512;
/// Longest instruction, in bytes.
const LONGEST: usize = 15;

/// Where in a function one wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spot {
    /// before the instruction at this address
    Before(u64),
    /// at this address, to which the call in front of it returns
    Return(u64),
}

impl Spot {
    /// An address in the function. A call that does not return may be its last instruction.
    pub(super) fn inside(self) -> u64 {
        match self {
            Self::Before(address) => address,
            Self::Return(address) => address.wrapping_sub(1),
        }
    }
}

/// Where RSP is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stack {
    /// this many bytes below where it was at the function's entry, where the return address is
    Below(u64),
    /// on another stack, `inner` bytes below its first word, which holds RSP as it was, `outer` bytes below the entry's
    Switched {
        /// on the stack before
        outer: u64,
        /// on this one
        inner: u64,
    },
    /// this many bytes below a place that was aligned
    Aligned(u64),
    /// nobody knows
    Unknown,
}

/// How far a function has come that aligns its stack as GCC does it: R10 points above the return address, RSP is aligned,
/// RBP is a frame pointer below that, and R10 is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Realigned {
    /// it does not, or not yet
    No,
    /// R10 points above the return address
    Pointer,
    /// RBP points this many bytes below the aligned place
    Based(u64),
    /// RBP does, and this many bytes below it is what R10 was; the word at RBP is the caller's
    Saved(u64),
}

/// What is known at a spot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) stack: Stack,
    /// RBP points this many bytes below the entry's RSP
    pub(super) base: Option<u64>,
    /// the caller's RBP is saved this many bytes below the entry's RSP; `None`: it is still in RBP, unless `base` is known
    pub(super) saved_base: Option<u64>,
    pub(super) realigned: Realigned,
}

impl Frame {
    const ENTRY: Self =
        Self { stack: Stack::Below(0), base: None, saved_base: None, realigned: Realigned::No };
}

/// What is known at `spot` of the function there.
pub(super) fn frame_at(spot: Spot, symbols: &Symbols, memory: &Virtual<'_>) -> Option<Frame> {
    let here = symbols.function(spot.inside())?;
    // A part that the compiler thinks is seldom needed lies elsewhere and is only jumped to.
    let entries: Vec<u64> = match here.name.split_once(".cold") {
        Some((whole, _)) => symbols.addresses(whole).take(4).collect(),
        None => vec![here.start],
    };
    entries.into_iter().find_map(|entry| Walk::new(symbols, memory, entry)?.to(spot))
}

/// A way through a function.
struct Walk<'a> {
    symbols: &'a Symbols,
    memory: &'a Virtual<'a>,
    /// the function's name
    name: &'a str,
    entry: u64,
    /// where the function was seen to be, and what was known there first
    seen: BTreeMap<u64, Frame>,
    /// ways to go on: those that are surely taken, and those that begin behind something that may not come back
    sure: Vec<(u64, Frame)>,
    doubtful: VecDeque<(u64, Frame)>,
}

impl<'a> Walk<'a> {
    fn new(symbols: &'a Symbols, memory: &'a Virtual<'a>, entry: u64) -> Option<Self> {
        let function = symbols.function(entry).filter(|function| function.start == entry)?;
        Some(Self {
            symbols,
            memory,
            name: function.name,
            entry,
            seen: BTreeMap::new(),
            sure: vec![(entry, Frame::ENTRY)],
            doubtful: VecDeque::new(),
        })
    }

    fn to(mut self, spot: Spot) -> Option<Frame> {
        while let Some((address, frame)) = self.sure.pop().or_else(|| self.doubtful.pop_front()) {
            if self.seen.len() >= MAX_INSTRUCTIONS {
                return None;
            }
            if self.seen.contains_key(&address) || !self.is_within(address) {
                continue;
            }
            self.seen.insert(address, frame);
            if spot == Spot::Before(address) {
                return Some(frame);
            }
            let Some(instruction) = decode(address, self.memory) else { continue };
            if let Some(found) = self.follow(&instruction, frame, spot) {
                return Some(found);
            }
        }
        None
    }

    fn follow(&mut self, instruction: &Instruction, frame: Frame, spot: Spot) -> Option<Frame> {
        let next = instruction.next_ip();
        match instruction.flow_control() {
            FlowControl::Next => self.sure.push((next, effect(instruction, frame))),
            FlowControl::ConditionalBranch => {
                self.sure.push((next, frame));
                self.sure.push((instruction.near_branch_target(), frame));
            }
            FlowControl::UnconditionalBranch => self.sure.push((instruction.near_branch_target(), frame)),
            FlowControl::IndirectBranch => {
                let targets = self.table(instruction);
                self.sure.extend(targets.into_iter().map(|target| (target, frame)));
            }
            FlowControl::Call | FlowControl::IndirectCall => {
                if spot == Spot::Return(next) {
                    return Some(frame);
                }
                self.doubtful.push_front((next, frame));
            }
            // WARN() goes on behind its UD2, BUG() does not.
            FlowControl::Exception => self.doubtful.push_back((next, frame)),
            FlowControl::Return | FlowControl::Interrupt | FlowControl::XbeginXabortXend => {}
        }
        None
    }

    /// Where a jump through a table in memory can go: `jmp *table(,%reg,8)`.
    fn table(&self, instruction: &Instruction) -> Vec<u64> {
        let through_table = instruction.op0_kind() == OpKind::Memory
            && instruction.memory_base() == Register::None
            && instruction.memory_index() != Register::None
            && instruction.memory_index_scale() == 8;
        let table = instruction.memory_displacement64();
        if !through_table || table < UPPER_HALF {
            return Vec::new();
        }
        let entries = (0..MAX_TABLE).map_while(|number| self.memory.word(table.checked_add(number * 8)?));
        entries.take_while(|target| self.is_within(*target)).collect()
    }

    /// True if `address` is in the function or in its part that lies elsewhere.
    fn is_within(&self, address: u64) -> bool {
        self.symbols.function(address).is_some_and(|Symbol { name, start, .. }| {
            start == self.entry || name.strip_prefix(self.name).is_some_and(|rest| rest.starts_with(".cold"))
        })
    }
}

/// The instruction at `address`.
pub(super) fn decode(address: u64, memory: &Virtual<'_>) -> Option<Instruction> {
    let mut bytes = [0; LONGEST];
    let length = memory.read(address, &mut bytes);
    let mut decoder = Decoder::with_ip(64, &bytes[..length], address, DecoderOptions::NONE);
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// What an instruction that goes on to the next does to what is known.
fn effect(instruction: &Instruction, frame: Frame) -> Frame {
    let Frame { stack, base, saved_base, realigned } = frame;
    let operand = |number| {
        let is_register = instruction.op_count() > number && instruction.op_kind(number) == OpKind::Register;
        if is_register { instruction.op_register(number) } else { Register::None }
    };
    let (first, second) = (operand(0), operand(1));
    let immediate = (instruction.op_count() == 2).then(|| instruction.try_immediate(1).ok()).flatten();
    let below = |bytes: Option<u64>| bytes.map_or(Stack::Unknown, Stack::Below);
    let address = || {
        let plain = instruction.memory_index() == Register::None;
        let from = match instruction.memory_base() {
            Register::RSP => match stack {
                Stack::Below(bytes) => Some(bytes),
                _ => None,
            },
            Register::RBP => base,
            _ => None,
        };
        let from = i64::try_from(from.filter(|_| plain)?).ok()?;
        from.checked_sub(instruction.memory_displacement64().cast_signed())
    };
    let forget_base = Frame { base: None, realigned: Realigned::No, ..frame };
    let moves = instruction.stack_pointer_increment();
    match (instruction.mnemonic(), first) {
        (Mnemonic::Push, Register::RBP) if base.is_none() && saved_base.is_none() => {
            let stack = moved(stack, -8);
            let saved_base = match stack {
                Stack::Below(bytes) => Some(bytes),
                _ => None,
            };
            Frame { stack, saved_base, ..frame }
        }
        (Mnemonic::Push, Register::R10) => {
            let stack = moved(stack, -8);
            let realigned = match (realigned, stack) {
                (Realigned::Based(base), Stack::Aligned(below)) => Realigned::Saved(below - base),
                _ => realigned,
            };
            Frame { stack, realigned, ..frame }
        }
        (Mnemonic::Pop, Register::RBP) => Frame { stack: moved(stack, 8), saved_base: None, ..forget_base },
        (Mnemonic::Pop, Register::RSP) => match stack {
            Stack::Switched { outer, inner: 0 } => Frame { stack: Stack::Below(outer), ..frame },
            _ => Frame { stack: Stack::Unknown, ..frame },
        },
        (Mnemonic::Leave, _) => {
            let stack = below(base.and_then(|base| base.checked_sub(8)));
            Frame { stack, saved_base: None, ..forget_base }
        }
        (Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push, _) => Frame { stack: moved(stack, moves), ..frame },
        (Mnemonic::Add, Register::RSP) => Frame { stack: by(stack, immediate, false), ..frame },
        (Mnemonic::Sub, Register::RSP) => Frame { stack: by(stack, immediate, true), ..frame },
        (Mnemonic::And, Register::RSP) if realigned == Realigned::Pointer => {
            Frame { stack: Stack::Aligned(0), ..frame }
        }
        (Mnemonic::Lea, Register::RSP) => Frame { stack: below(address().and_then(to_u64)), ..frame },
        (Mnemonic::Lea, Register::RBP) => Frame { base: address().and_then(to_u64), ..forget_base },
        (Mnemonic::Lea, Register::R10) if address() == Some(-8) => {
            Frame { realigned: Realigned::Pointer, ..frame }
        }
        (Mnemonic::Mov, Register::RSP) => {
            let stack = match (second, stack) {
                (Register::RBP, _) => below(base),
                (Register::None, _) => Stack::Unknown,
                (_, Stack::Below(outer)) => Stack::Switched { outer, inner: 0 },
                _ => Stack::Unknown,
            };
            Frame { stack, ..frame }
        }
        (Mnemonic::Mov, Register::RBP) if second == Register::RSP => match stack {
            Stack::Below(bytes) => Frame { base: Some(bytes), ..forget_base },
            Stack::Aligned(bytes) => Frame { realigned: Realigned::Based(bytes), ..forget_base },
            _ => forget_base,
        },
        (Mnemonic::Xchg, _) if second == Register::RSP => Frame { stack: Stack::Unknown, ..frame },
        (_, Register::RSP | Register::ESP | Register::SP | Register::SPL) => {
            Frame { stack: Stack::Unknown, ..frame }
        }
        (_, Register::RBP | Register::EBP | Register::BP | Register::BPL) => {
            Frame { stack: moved(stack, moves), ..forget_base }
        }
        (Mnemonic::Enter, _) => Frame { stack: Stack::Unknown, saved_base: None, ..forget_base },
        _ => Frame { stack: moved(stack, moves), ..frame },
    }
}

fn to_u64(bytes: i64) -> Option<u64> {
    u64::try_from(bytes).ok()
}

/// RSP moved by `bytes`, up if positive.
fn moved(stack: Stack, bytes: i32) -> Stack {
    let down = i64::from(bytes).saturating_neg();
    match stack {
        Stack::Below(below) => below.checked_add_signed(down).map_or(Stack::Unknown, Stack::Below),
        Stack::Switched { outer, inner } => match inner.checked_add_signed(down) {
            Some(inner) => Stack::Switched { outer, inner },
            None => Stack::Unknown,
        },
        Stack::Aligned(below) => below.checked_add_signed(down).map_or(Stack::Unknown, Stack::Aligned),
        Stack::Unknown => Stack::Unknown,
    }
}

/// RSP moved by an immediate operand, sign-extended to 64 bits.
fn by(stack: Stack, immediate: Option<u64>, down: bool) -> Stack {
    let bytes = immediate.and_then(|bytes| i32::try_from(bytes.cast_signed()).ok());
    let bytes = bytes.and_then(|bytes| if down { bytes.checked_neg() } else { Some(bytes) });
    bytes.map_or(Stack::Unknown, |bytes| moved(stack, bytes))
}

#[cfg(test)]
mod tests {
    use iced_x86::code_asm::*;

    use super::*;
    use crate::engine::cpu::CpuState;
    use crate::machine::memory::GuestRam;

    const START: u64 = 0xffff_ffff_8000_0000;

    /// RAM from guest physical address 0, 2 MiB of it at [`START`].
    fn kernel(code: &[u8]) -> (CpuState, GuestRam) {
        let ram = GuestRam::new(4 << 20).unwrap();
        for (at, entry) in [(0x1000 + 511 * 8, 0x2003_u64), (0x2000 + 510 * 8, 0x3003), (0x3000, 0x81)] {
            ram.write(at, &entry.to_le_bytes()).unwrap();
        }
        ram.write(0x10_0000, code).unwrap();
        let state = CpuState { cr0: 1 << 31, cr3: 0x1000, efer: 1 << 10, ..CpuState::default() };
        (state, ram)
    }

    const CODE: u64 = START + 0x10_0000;

    fn frames(code: &mut CodeAssembler, map: &str, spots: &[Spot]) -> Vec<Option<Frame>> {
        let (state, ram) = kernel(&code.assemble(CODE).unwrap());
        let memory = Virtual::new(&state, &ram);
        let map = format!("{CODE:x} t f\n{map}ffffffff80200000 d end\n");
        let symbols = Symbols::of_map(map.as_bytes(), "");
        spots.iter().map(|spot| frame_at(*spot, &symbols, &memory)).collect()
    }

    /// The address of each instruction.
    fn addresses(code: &mut CodeAssembler) -> Vec<u64> {
        let bytes = code.assemble(CODE).unwrap();
        let mut addresses: Vec<u64> = Decoder::with_ip(64, &bytes, CODE, 0).iter().map(|i| i.ip()).collect();
        addresses.push(CODE + bytes.len() as u64);
        addresses
    }

    fn below(frame: &Option<Frame>) -> u64 {
        match frame.unwrap().stack {
            Stack::Below(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_pushed_and_made_room_for_counts_on_every_way() -> Result<(), IcedError> {
        let mut a = CodeAssembler::new(64)?;
        let (mut early, mut back) = (a.create_label(), a.create_label());
        a.test(rdi, rdi)?;
        a.je(early)?;
        a.push(rbp)?;
        a.push(rbx)?;
        a.sub(rsp, 0x28)?;
        a.set_label(&mut back)?;
        a.call(CODE + 0x8000)?; // 5
        a.dec(rbx)?;
        a.jne(back)?;
        a.add(rsp, 0x28)?;
        a.pop(rbx)?;
        a.pop(rbp)?; // 10
        a.ret()?;
        a.set_label(&mut early)?;
        a.push(rax)?;
        a.call(rax)?; // 13: the last instruction
        let at = addresses(&mut a);
        let spots = [
            Spot::Before(at[0]),
            Spot::Before(at[4]),
            Spot::Return(at[6]),
            Spot::Before(at[9]),
            Spot::Before(at[11]),
            Spot::Before(at[12]),
            Spot::Return(at[14]),
        ];
        let map = format!("{:x} t g\n", at[14]);
        let found = frames(&mut a, &map, &spots);
        assert_eq!(found.iter().map(below).collect::<Vec<_>>(), [0, 16, 56, 16, 0, 0, 8]);
        assert_eq!(found[2].unwrap().saved_base, Some(8));
        assert_eq!(found[4].unwrap().saved_base, None);
        Ok(())
    }

    #[test]
    fn frame_pointers_are_followed() -> Result<(), IcedError> {
        let mut a = CodeAssembler::new(64)?;
        a.push(rbp)?;
        a.mov(rbp, rsp)?;
        a.push(r12)?;
        a.and(rsp, -32)?;
        a.sub(rsp, 0x40)?;
        a.call(CODE + 0x8000)?; // 5
        a.lea(rsp, qword_ptr(rbp) - 8)?;
        a.pop(r12)?;
        a.leave()?;
        a.ret()?;
        let at = addresses(&mut a);
        let found = frames(&mut a, "", &[Spot::Return(at[6]), Spot::Before(at[7]), Spot::Before(at[9])]);
        assert_eq!(
            found[0].unwrap(),
            Frame { stack: Stack::Unknown, base: Some(8), saved_base: Some(8), realigned: Realigned::No }
        );
        assert_eq!(below(&found[1]), 16);
        assert_eq!(found[2].unwrap(), Frame::ENTRY);
        Ok(())
    }

    #[test]
    fn a_stack_that_is_aligned_leads_back_through_what_is_saved() -> Result<(), IcedError> {
        let mut a = CodeAssembler::new(64)?;
        a.lea(r10, qword_ptr(rsp) + 8)?;
        a.and(rsp, -16)?;
        a.push(qword_ptr(r10) - 8)?;
        a.push(rbp)?;
        a.mov(rbp, rsp)?;
        a.push(r12)?;
        a.push(r10)?;
        a.sub(rsp, 0x90)?;
        a.call(CODE + 0x8000)?; // 8
        a.ret()?;
        let at = addresses(&mut a);
        let found = frames(&mut a, "", &[Spot::Return(at[9]), Spot::Before(at[5])]);
        assert_eq!(found[0].unwrap().realigned, Realigned::Saved(16));
        assert_eq!(found[1].unwrap().realigned, Realigned::Based(16));
        Ok(())
    }

    #[test]
    fn another_stack_leads_back() -> Result<(), IcedError> {
        // As Linux calls a handler on its interrupt stack.
        let mut a = CodeAssembler::new(64)?;
        a.push(rbx)?;
        a.mov(qword_ptr(r11), rsp)?;
        a.mov(rsp, r11)?;
        a.call(CODE + 0x8000)?;
        a.push(rax)?;
        a.pop(rax)?;
        a.pop(rsp)?; // 6
        a.pop(rbx)?;
        a.ret()?;
        let at = addresses(&mut a);
        let found = frames(&mut a, "", &[Spot::Return(at[4]), Spot::Before(at[5]), Spot::Before(at[8])]);
        assert_eq!(found[0].unwrap().stack, Stack::Switched { outer: 8, inner: 0 });
        assert_eq!(found[1].unwrap().stack, Stack::Switched { outer: 8, inner: 8 });
        assert_eq!(below(&found[2]), 0);
        Ok(())
    }

    #[test]
    fn cold_parts_and_jump_tables_belong_to_the_function() -> Result<(), IcedError> {
        let mut a = CodeAssembler::new(64)?;
        let (mut cold, mut case) = (a.create_label(), a.create_label());
        a.push(rbx)?;
        a.je(cold)?;
        a.jmp(qword_ptr(rax * 8 + (CODE as i64 + 0x1000)))?;
        a.int3()?;
        a.set_label(&mut case)?;
        a.push(rcx)?; // 4
        a.call(CODE + 0x8000)?;
        a.set_label(&mut cold)?;
        a.push(rdx)?; // 6, in another symbol
        a.call(CODE + 0x8000)?;
        let at = addresses(&mut a);
        let mut code = a.assemble(CODE)?;
        code.resize(0x1000, 0xcc);
        code.extend(at[4].to_le_bytes());
        let (state, ram) = kernel(&code);
        let memory = Virtual::new(&state, &ram);
        let map =
            format!("{CODE:x} t f\n{:x} t f.cold\n{:x} t other\n{:x} d end\n", at[6], at[8], CODE + 0x1000);
        let symbols = Symbols::of_map(map.as_bytes(), "");
        assert_eq!(below(&frame_at(Spot::Return(at[6]), &symbols, &memory)), 16);
        assert_eq!(below(&frame_at(Spot::Return(at[8]), &symbols, &memory)), 16);
        assert_eq!(frame_at(Spot::Before(at[3]), &symbols, &memory), None, "nothing leads there");
        Ok(())
    }
}
