//! Random cases: a form in turn, among others that go with it.

use super::case::{self, Case, Piece};
use super::flags;
use super::forms::{self, Accuracy, Form, Theme};
use super::layout::{CODE, CODE_BYTES, PAGE};
use super::operands::{Known, Operands};
use super::rng::Rng;
use super::values;
use super::world;
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpCodeOperandKind as Op, OpKind, Register,
};

/// Makes cases.
pub struct Generator {
    seed: u64,
    modes: Modes,
    longest: u64,
    /// forms of 64-bit mode, then those of compatibility mode
    forms: [Vec<Form>; 2],
    /// those that come in turn
    turns: [Vec<usize>; 2],
    info: InstructionInfoFactory,
}

/// Which modes are fuzzed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modes {
    /// 64-bit mode
    Long,
    /// 32-bit compatibility mode
    Compatibility,
    /// three of four in 64-bit mode
    Both,
}

impl Generator {
    /// Cases of `seed` with at most `longest` instructions; `only`: no forms but these mnemonics' (all if empty) come in
    /// turn.
    pub fn new(seed: u64, modes: Modes, longest: u64, only: &[String]) -> Self {
        let forms = [forms::list(64), forms::list(32)];
        let wanted = |form: &Form| {
            let name = format!("{:?}", form.code).to_lowercase();
            let mnemonic = format!("{:?}", form.op.mnemonic()).to_lowercase();
            only.is_empty() || only.iter().any(|o| *o == name || *o == mnemonic)
        };
        let turns = [0, 1].map(|mode| {
            let list: &Vec<Form> = &forms[mode];
            (0..list.len()).filter(|i| wanted(&list[*i])).collect()
        });
        Self { seed, modes, longest, forms, turns, info: InstructionInfoFactory::new() }
    }

    /// The forms of a mode (0: 64-bit, 1: compatibility).
    pub fn forms(&self, mode: usize) -> &[Form] {
        &self.forms[mode]
    }

    /// Case `number`.
    pub fn case(&mut self, number: u64) -> Case {
        let mut mode = match self.modes {
            Modes::Long => 0,
            Modes::Compatibility => 1,
            Modes::Both => usize::from(number % 4 == 3),
        };
        if self.turns[mode].is_empty() {
            mode = 1 - mode;
        }
        let mut rng = Rng::new(self.seed, number);
        let machine = case::machine(&mut rng, mode == 1);
        let turns = &self.turns[mode];
        let turn = match (self.modes, number % 4) {
            (Modes::Both, 3) => number / 4,
            (Modes::Both, rest) => number / 4 * 3 + rest,
            _ => number,
        };
        let main = turns[(turn % turns.len().max(1) as u64) as usize];
        let mut builder = Builder {
            known: machine.general.map(Some),
            rng,
            bitness: if mode == 1 { 32 } else { 64 },
            ip: 0,
            undefined: 0,
            forms: &self.forms[mode],
            info: &mut self.info,
            case: Case {
                number,
                compatibility: mode == 1,
                machine,
                pool_offset: 0,
                pieces: Vec::with_capacity(16),
            },
        };
        builder.sequence(main, self.longest);
        builder.case
    }
}

/// A case in the making.
pub(super) struct Builder<'a> {
    pub(super) rng: Rng,
    pub(super) known: Known,
    pub(super) bitness: u32,
    pub(super) ip: u64,
    pub(super) undefined: u64,
    pub(super) forms: &'a [Form],
    pub(super) info: &'a mut InstructionInfoFactory,
    pub(super) case: Case,
}

impl Builder<'_> {
    fn sequence(&mut self, main: usize, longest: u64) {
        let rng = &mut self.rng;
        let start = match rng.chance(97) {
            true => CODE + rng.below(2048),
            false => CODE + PAGE - 8 - rng.below(60), // runs into the end of the page
        };
        self.case.machine.rip = start;
        self.ip = start;
        self.case.pool_offset =
            rng.below((values::POOL_BYTES - super::layout::DATA_BYTES) as u64 / 16) as usize * 16;
        let count = if rng.chance(35) { 1 } else { 1 + rng.below(longest) };
        let exact = |form: &Form| forms::accuracy(form.op.mnemonic()) == Accuracy::Exact;
        let place = match exact(&self.forms[main]) {
            false => count - 1,
            true if rng.chance(50) => 0,
            true => rng.below(count),
        };
        let main_theme = self.forms[main].theme;
        for at in 0..count {
            let form = if at == place {
                main
            } else {
                let any = self.rng.chance(30);
                let mut choice = main;
                for _ in 0..200 {
                    choice = self.rng.below(self.forms.len() as u64) as usize;
                    let form = &self.forms[choice];
                    let fits = any || form.theme == main_theme || main_theme == Theme::Trap;
                    if fits && form.theme != Theme::Trap && (exact(form) || at + 1 == count) {
                        break;
                    }
                }
                if !exact(&self.forms[choice]) && at + 1 != count || self.forms[choice].theme == Theme::Trap {
                    continue;
                }
                choice
            };
            if self.ip + 80 > start + CODE_BYTES as u64 {
                break;
            }
            self.form(form, at as usize);
        }
    }

    /// An instruction of a form with random operands, and what belongs around it.
    fn form(&mut self, form: usize, group: usize) {
        let description = self.forms[form];
        for _ in 0..12 {
            let mut operands =
                Operands { rng: &mut self.rng, known: &self.known, bitness: self.bitness, ip: self.ip };
            let Some(mut instruction) = operands.instruction(&description) else { return };
            let Some(bytes) = self.encode(&instruction) else { continue };
            if !description.op.fwait() && self.decode(&bytes).code() != description.code {
                continue;
            }
            if flags::wide_count(&instruction) {
                if !flags::counts_by_cl(&instruction) {
                    continue;
                }
                let fifteen = Instruction::with2(Code::And_rm32_imm8, Register::ECX, 15);
                self.guard(fifteen.ok(), group);
            }
            self.around(&description, &mut instruction, form, group);
            return;
        }
    }

    fn around(&mut self, form: &Form, instruction: &mut Instruction, index: usize, group: usize) {
        let near = form.op.op_count() > 0
            && matches!(
                form.op.op0_kind(),
                Op::br16_1 | Op::br16_2 | Op::br32_1 | Op::br32_4 | Op::br64_1 | Op::br64_4
            );
        let indirect = matches!(form.op.mnemonic(), Mnemonic::Jmp | Mnemonic::Call | Mnemonic::Ret) && !near;
        if near || indirect {
            world::branch(self, instruction, near, index, group);
            return;
        }
        for before in world::before(&mut self.rng, instruction) {
            self.guard(Some(before), group);
        }
        let lock = self.rng.chance(1) && form.theme != Theme::Trap && !instruction.has_lock_prefix();
        self.settle_flags(instruction, group);
        if lock && self.locked(instruction, index, group) {
            return;
        }
        self.push(instruction, Some(index), group);
        for after in world::after(instruction) {
            self.guard(Some(after), group);
        }
    }

    /// Defines all flags if `instruction` reads one that is undefined.
    pub(super) fn settle_flags(&mut self, instruction: &Instruction, group: usize) {
        if flags::read(instruction) & self.undefined != 0 {
            let base = Register::EAX;
            let (a, b) = (base + self.rng.below(8) as u32, base + self.rng.below(8) as u32);
            self.helper(Instruction::with2(Code::Cmp_rm32_r32, a, b).ok(), group);
        }
    }

    /// LOCK in front of what may be nothing that can be locked.
    fn locked(&mut self, instruction: &Instruction, form: usize, group: usize) -> bool {
        let Some(mut bytes) = self.encode(instruction) else { return false };
        bytes.insert(0, 0xf0);
        let decoded = self.decode(&bytes);
        if bytes.len() > 15 || !decoded.is_invalid() {
            return false;
        }
        self.place(bytes, decoded, Some(form), group);
        true
    }

    /// Adds an instruction that only helps.
    pub(super) fn helper(&mut self, instruction: Option<Instruction>, group: usize) {
        if let Some(instruction) = instruction {
            self.settle_flags(&instruction, group);
            self.push(&instruction, None, group);
        }
    }

    /// Adds an instruction without which the case would not be defined.
    fn guard(&mut self, instruction: Option<Instruction>, group: usize) {
        let before = self.case.pieces.len();
        self.helper(instruction, group);
        for piece in &mut self.case.pieces[before..] {
            piece.guard = true;
        }
    }

    /// Encoded here.
    pub(super) fn encode(&self, instruction: &Instruction) -> Option<Vec<u8>> {
        let mut encoder = Encoder::new(self.bitness);
        encoder.encode(instruction, self.ip).ok()?;
        Some(encoder.take_buffer())
    }

    fn decode(&self, bytes: &[u8]) -> Instruction {
        Decoder::with_ip(self.bitness, bytes, self.ip, DecoderOptions::NONE).decode()
    }

    /// Adds an instruction; false if it cannot be encoded.
    pub(super) fn push(&mut self, instruction: &Instruction, form: Option<usize>, group: usize) -> bool {
        let Some(bytes) = self.encode(instruction) else { return false };
        let waits = instruction.code().op_code().fwait();
        let decoded = if waits { *instruction } else { self.decode(&bytes) };
        self.place(bytes, decoded, form, group);
        true
    }

    fn place(&mut self, bytes: Vec<u8>, instruction: Instruction, form: Option<usize>, group: usize) {
        for used in self.info.info(&instruction).used_registers() {
            let full = used.register().full_register();
            let written =
                !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess);
            if written && full.is_gpr64() {
                self.known[full.number()] = None;
            }
        }
        let constant = instruction.op_count() == 2 && instruction.op1_kind() == OpKind::Immediate32;
        if instruction.mnemonic() == Mnemonic::Mov && constant && instruction.op0_register().is_gpr32() {
            self.known[instruction.op0_register().number()] = Some(u64::from(instruction.immediate32()));
        }
        self.ip += bytes.len() as u64;
        let piece = Piece { bytes, instruction, form, group, skips: false, guard: false, dropped: false };
        self.undefined = flags::after(&piece, self.undefined);
        self.case.pieces.push(piece);
    }
}
