//! Random operands for an opcode form.

use super::forms::Form;
use super::layout::{CODE, DATA, DATA_BYTES, READ_ONLY};
use super::rng::Rng;
use super::values;
use iced_x86::{Code, Instruction, Mnemonic, OpCodeOperandKind as Op, OpKind, Register};

/// Which general registers have a value known here.
pub type Known = [Option<u64>; 16];

/// What operands are made from.
pub struct Operands<'a> {
    /// random numbers
    pub rng: &'a mut Rng,
    /// known values
    pub known: &'a Known,
    /// 64 or 32
    pub bitness: u32,
    /// where the instruction will lie
    pub ip: u64,
}

fn nth(first: Register, index: u64) -> Register {
    first + index as u32
}

impl Operands<'_> {
    fn general(&mut self, bytes: usize) -> Register {
        let wide = self.bitness == 64;
        let mut index = self.rng.below(if wide { 16 } else { 8 });
        if index == 4 && self.rng.chance(70) {
            index = self.rng.below(4); // most sequences keep their stack
        }
        match bytes {
            1 => nth(Register::AL, self.rng.below(if wide { 20 } else { 8 })),
            2 => nth(Register::AX, index),
            4 => nth(Register::EAX, index),
            _ => nth(Register::RAX, index),
        }
    }

    /// An address to access, mostly one that can be.
    fn target(&mut self, size: u64) -> u64 {
        let inside = DATA + self.rng.below(DATA_BYTES as u64 - size.min(1024));
        match self.rng.below(100) {
            0..=74 => inside & !(size.next_power_of_two().min(64) - 1),
            75..=89 => inside,
            90..=93 => DATA + 4096 - self.rng.below(size.min(64)) - 1,
            94..=95 => READ_ONLY - self.rng.below(size.min(64)) - 1,
            96 => READ_ONLY + self.rng.below(4000),
            97 => READ_ONLY + 4096 - self.rng.below(size.min(64)),
            98 => DATA.wrapping_sub(self.rng.below(32)),
            _ => CODE + self.rng.below(4096),
        }
    }

    fn memory(&mut self, instruction: &mut Instruction, operand: u32, size: u64) {
        instruction.set_op_kind(operand, OpKind::Memory);
        let target = self.target(size.max(1));
        if self.rng.chance(4) {
            let segment = self.rng.pick(&[Register::ES, Register::CS, Register::SS, Register::DS]);
            instruction.set_segment_prefix(segment);
        }
        let roll = self.rng.below(100);
        if self.bitness == 64 && roll < 12 {
            instruction.set_memory_base(if self.rng.chance(85) { Register::RIP } else { Register::EIP });
            instruction.set_memory_displacement64(target);
            instruction.set_memory_displ_size(4);
            return;
        }
        if roll < 20 {
            let size = if self.bitness == 64 { self.rng.pick(&[8, 4]) } else { self.rng.pick(&[4, 2]) };
            instruction.set_memory_displacement64(target);
            instruction.set_memory_displ_size(size);
            return;
        }
        if self.bitness == 32 && roll < 35 {
            return self.memory16(instruction, target);
        }
        let narrow = self.bitness == 32 || roll < 35;
        let mask = if narrow { 0xffff_ffff } else { u64::MAX };
        let first = if narrow { Register::EAX } else { Register::RAX };
        let registers = if self.bitness == 64 { 16 } else { 8 };
        let wild = self.rng.chance(4);
        for _ in 0..10 {
            let base = self.rng.below(registers);
            let index = self.rng.below(registers);
            let scale = self.rng.pick(&[1, 2, 4, 8]);
            let (with_base, with_index) =
                self.rng.pick(&[(true, false), (true, false), (true, true), (true, true), (false, true)]);
            if index == 4 && with_index {
                continue;
            }
            let value = |register: u64| if wild { Some(0) } else { self.known[register as usize] };
            let mut sum = 0_u64;
            if with_base {
                let Some(value) = value(base) else { continue };
                sum = value & mask;
            }
            if with_index {
                let Some(value) = value(index) else { continue };
                sum = sum.wrapping_add((value & mask).wrapping_mul(scale));
            }
            let displacement = target.wrapping_sub(sum) as i64;
            let displacement = if narrow { i64::from(displacement as i32) } else { displacement };
            if i32::try_from(displacement).is_err() {
                continue;
            }
            if with_base {
                instruction.set_memory_base(nth(first, base));
            }
            if with_index {
                instruction.set_memory_index(nth(first, index));
                instruction.set_memory_index_scale(scale as u32);
            }
            let small = i8::try_from(displacement).is_ok() && with_base;
            let zero = displacement == 0 && with_base && base & 7 != 5;
            instruction.set_memory_displacement64(displacement as u64 & mask);
            instruction.set_memory_displ_size(match (zero, small, narrow) {
                (true, ..) => 0,
                (_, true, _) => 1,
                (_, _, true) => 4,
                (_, _, false) => 8,
            });
            return;
        }
        instruction.set_memory_displacement64(target);
        instruction.set_memory_displ_size(if self.bitness == 64 { 8 } else { 4 });
    }

    fn memory16(&mut self, instruction: &mut Instruction, target: u64) {
        let (base, index) = self.rng.pick(&[
            (Register::BX, Register::SI),
            (Register::BX, Register::DI),
            (Register::BP, Register::SI),
            (Register::BP, Register::DI),
            (Register::SI, Register::None),
            (Register::DI, Register::None),
            (Register::BP, Register::None),
            (Register::BX, Register::None),
        ]);
        let value = |register: Register| match register {
            Register::None => 0,
            register => self.known[register.number()].unwrap_or(0),
        };
        let displacement = target.wrapping_sub(value(base)).wrapping_sub(value(index)) & 0xffff;
        instruction.set_memory_base(base);
        instruction.set_memory_index(index);
        instruction.set_memory_displacement64(displacement);
        instruction.set_memory_displ_size(2);
    }

    fn immediate(&mut self) -> u64 {
        match self.rng.below(4) {
            0 => self.rng.bits(),
            _ => values::integer(self.rng),
        }
    }

    /// One operand; false if its kind is unknown here.
    fn operand(&mut self, instruction: &mut Instruction, form: &Form, operand: u32) -> bool {
        let size = form.op.memory_size().size() as u64;
        let in_register = self.rng.chance(55);
        let set = |instruction: &mut Instruction, register: Register| {
            instruction.set_op_kind(operand, OpKind::Register);
            instruction.set_op_register(operand, register);
        };
        let immediate = |instruction: &mut Instruction, kind: OpKind, value: u64| {
            instruction.set_op_kind(operand, kind);
            match kind {
                OpKind::Immediate8 => instruction.set_immediate8(value as u8),
                OpKind::Immediate8_2nd => instruction.set_immediate8_2nd(value as u8),
                OpKind::Immediate16 => instruction.set_immediate16(value as u16),
                OpKind::Immediate32 => instruction.set_immediate32(value as u32),
                OpKind::Immediate64 => instruction.set_immediate64(value),
                OpKind::Immediate8to16 => instruction.set_immediate8to16(i16::from(value as i8)),
                OpKind::Immediate8to32 => instruction.set_immediate8to32(i32::from(value as i8)),
                OpKind::Immediate8to64 => instruction.set_immediate8to64(i64::from(value as i8)),
                _ => instruction.set_immediate32to64(i64::from(value as i32)),
            }
        };
        let vectors = if self.bitness == 64 { 16 } else { 8 };
        match form.op.op_kind(operand) {
            Op::r8_or_mem
            | Op::r16_or_mem
            | Op::r32_or_mem
            | Op::r64_or_mem
            | Op::mm_or_mem
            | Op::xmm_or_mem
                if !in_register =>
            {
                self.memory(instruction, operand, size);
            }
            Op::mem => self.memory(instruction, operand, size),
            Op::r8_or_mem | Op::r8_reg | Op::r8_opcode => set(instruction, self.general(1)),
            Op::r16_or_mem | Op::r16_reg | Op::r16_rm | Op::r16_opcode => set(instruction, self.general(2)),
            Op::r32_or_mem | Op::r32_reg | Op::r32_rm | Op::r32_opcode => set(instruction, self.general(4)),
            Op::r64_or_mem | Op::r64_reg | Op::r64_rm | Op::r64_opcode => set(instruction, self.general(8)),
            Op::mm_or_mem | Op::mm_reg | Op::mm_rm => set(instruction, nth(Register::MM0, self.rng.below(8))),
            Op::xmm_or_mem | Op::xmm_reg | Op::xmm_rm => {
                set(instruction, nth(Register::XMM0, self.rng.below(vectors)));
            }
            Op::seg_reg => set(instruction, nth(Register::ES, self.rng.below(6))),
            Op::cr_reg => {
                set(instruction, self.rng.pick(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4]))
            }
            Op::dr_reg => {
                set(instruction, self.rng.pick(&[Register::DR0, Register::DR3, Register::DR6, Register::DR7]))
            }
            Op::es => set(instruction, Register::ES),
            Op::cs => set(instruction, Register::CS),
            Op::ss => set(instruction, Register::SS),
            Op::ds => set(instruction, Register::DS),
            Op::fs => set(instruction, Register::FS),
            Op::gs => set(instruction, Register::GS),
            Op::al => set(instruction, Register::AL),
            Op::cl => set(instruction, Register::CL),
            Op::ax => set(instruction, Register::AX),
            Op::dx => set(instruction, Register::DX),
            Op::eax => set(instruction, Register::EAX),
            Op::rax => set(instruction, Register::RAX),
            Op::st0 => set(instruction, Register::ST0),
            Op::sti_opcode => set(instruction, nth(Register::ST0, self.rng.below(8))),
            Op::imm8 if operand == 1 && form.op.mnemonic() == Mnemonic::Enter => {
                let level = if self.rng.chance(80) { self.rng.below(4) } else { self.rng.bits() };
                immediate(instruction, OpKind::Immediate8_2nd, level);
            }
            Op::imm8 => {
                let value = self.immediate();
                // system calls are no user-mode results
                let value =
                    if form.op.mnemonic() == Mnemonic::Int && value as u8 == 0x80 { 3 } else { value };
                immediate(instruction, OpKind::Immediate8, value);
            }
            Op::imm8_const_1 => immediate(instruction, OpKind::Immediate8, 1),
            Op::imm8sex16 => immediate(instruction, OpKind::Immediate8to16, self.immediate()),
            Op::imm8sex32 => immediate(instruction, OpKind::Immediate8to32, self.immediate()),
            Op::imm8sex64 => immediate(instruction, OpKind::Immediate8to64, self.immediate()),
            Op::imm16 => {
                let small =
                    matches!(form.op.mnemonic(), Mnemonic::Enter | Mnemonic::Ret) && self.rng.chance(80);
                let value = if small { self.rng.below(128) } else { self.immediate() };
                immediate(instruction, OpKind::Immediate16, value);
            }
            Op::imm32 => immediate(instruction, OpKind::Immediate32, self.immediate()),
            Op::imm32sex64 => immediate(instruction, OpKind::Immediate32to64, self.immediate()),
            Op::imm64 => immediate(instruction, OpKind::Immediate64, self.immediate()),
            Op::mem_offs => {
                instruction.set_op_kind(operand, OpKind::Memory);
                let target = self.target(size);
                let wide =
                    if self.bitness == 64 { self.rng.pick(&[8, 8, 4]) } else { self.rng.pick(&[4, 4, 2]) };
                instruction.set_memory_displacement64(target);
                instruction.set_memory_displ_size(wide);
            }
            Op::seg_rSI | Op::es_rDI | Op::seg_rDI => {
                let kinds = match form.op.op_kind(operand) {
                    Op::seg_rSI => [OpKind::MemorySegRSI, OpKind::MemorySegESI, OpKind::MemorySegSI],
                    Op::es_rDI => [OpKind::MemoryESRDI, OpKind::MemoryESEDI, OpKind::MemoryESDI],
                    _ => [OpKind::MemorySegRDI, OpKind::MemorySegEDI, OpKind::MemorySegDI],
                };
                // both operands of CMPS and MOVS have one address size
                let narrow = self.ip.is_multiple_of(5);
                let at = usize::from(self.bitness == 32) + usize::from(narrow);
                if self.ip.is_multiple_of(23) {
                    instruction.set_segment_prefix(self.rng.pick(&[
                        Register::CS,
                        Register::SS,
                        Register::DS,
                    ]));
                }
                instruction.set_op_kind(operand, kinds[at]);
            }
            Op::seg_rBX_al => {
                instruction.set_op_kind(operand, OpKind::Memory);
                let narrow = self.rng.chance(15);
                instruction.set_memory_base(match (self.bitness, narrow) {
                    (64, false) => Register::RBX,
                    (32, true) => Register::BX,
                    _ => Register::EBX,
                });
                instruction.set_memory_index(Register::AL);
            }
            Op::br16_1 | Op::br16_2 => {
                instruction.set_op_kind(operand, OpKind::NearBranch16);
                instruction.set_near_branch16(self.ip as u16);
            }
            Op::br32_1 | Op::br32_4 => {
                instruction.set_op_kind(operand, OpKind::NearBranch32);
                instruction.set_near_branch32(self.ip as u32);
            }
            Op::br64_1 | Op::br64_4 => {
                instruction.set_op_kind(operand, OpKind::NearBranch64);
                instruction.set_near_branch64(self.ip);
            }
            _ => return false,
        }
        true
    }

    /// A random instruction of a form; it may be one that cannot be encoded.
    pub fn instruction(&mut self, form: &Form) -> Option<Instruction> {
        let mut instruction = Instruction::default();
        instruction.set_code(form.code);
        for operand in 0..form.op.op_count() {
            if !self.operand(&mut instruction, form, operand) {
                return None;
            }
        }
        if form.op.can_use_rep_prefix() && self.rng.chance(60) {
            instruction.set_has_rep_prefix(true);
        } else if form.op.can_use_repne_prefix() && self.rng.chance(60) {
            instruction.set_has_repne_prefix(true);
        }
        let memory = (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory);
        if form.op.can_use_lock_prefix() && memory && self.rng.chance(40) && form.code != Code::INVALID {
            instruction.set_has_lock_prefix(true);
        }
        Some(instruction)
    }
}
