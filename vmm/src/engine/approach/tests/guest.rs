//! Made-up guests: real-mode programs of random pieces, with everything on the way that a place can be near.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use proptest::prelude::*;
use scribe_soft_cpu::Behaviour;

use crate::engine::Engine;
use crate::engine::cpu::{CpuState, DescriptorTable, Fpu, Registers, Segment};
use crate::engine::soft::Soft;
use crate::machine::cpuid;
use crate::machine::memory::GuestRam;

const RAM: u64 = 2 << 20;
/// All that is used of it.
const USED: usize = 0x10000;
const CODE: u16 = 0x1000;
const DIVIDE_HANDLER: u16 = 0x600;
const SYSTEM_HANDLER: u16 = 0x640;
const IRQ_HANDLER: u16 = 0x680;
const DATA: u16 = 0x8000;

/// The vector that tests inject.
pub(super) const IRQ: u8 = 0x30;

/// A piece of program.
#[derive(Debug, Clone, Copy)]
pub(super) enum Block {
    /// a loop of so many turns: `dec`, `jnz`
    Turns(u16),
    /// a loop of LOOP
    Loop(u16),
    /// branches that go either way, by what was read last
    Ways,
    /// three branches side by side, of which one is taken; in no random program, for [`super::sim`] counts on what is between
    Adjacent,
    /// JCXZ, with CX zero and not
    Zero,
    /// REP MOVSB of so many bytes
    Move(u16),
    /// REPNE SCASB, which ends early
    Scan(u16),
    /// straight on: so many NOPs
    Straight(u8),
    /// a division by zero, and a handler that steps over it
    Divide,
    /// INT, IRET
    System,
    /// STI, an instruction in its shadow, another, CLI
    Window,
    /// MOV SS and its shadow
    Shadow,
    /// a CALL, a RET, and a JMP
    Call,
    /// CMOVcc and SETcc
    Moves,
    /// an exit with an answer
    Read,
    /// an exit without one
    Write,
    /// OUTS: an exit for each element
    Outs(u8),
}

/// Programs.
pub(super) fn blocks() -> impl Strategy<Value = Vec<Block>> {
    let block = prop_oneof![
        (1..3000u16).prop_map(Block::Turns),
        (1..3000u16).prop_map(Block::Loop),
        Just(Block::Ways),
        Just(Block::Zero),
        (0..300u16).prop_map(Block::Move),
        (0..300u16).prop_map(Block::Scan),
        any::<u8>().prop_map(Block::Straight),
        Just(Block::Divide),
        Just(Block::System),
        Just(Block::Window),
        Just(Block::Shadow),
        Just(Block::Call),
        Just(Block::Moves),
        Just(Block::Read),
        Just(Block::Write),
        (0..4u8).prop_map(Block::Outs),
    ];
    // Places are counted in branches, so there must be many.
    (prop::collection::vec(block, 0..8), 2000..20_000u16).prop_map(|(mut blocks, turns)| {
        blocks.push(Block::Turns(turns));
        blocks
    })
}

/// A guest's RAM.
pub(super) struct Machine {
    ram: GuestRam,
}

impl Machine {
    /// A guest that runs `blocks` over and over.
    pub(super) fn new(blocks: &[Block]) -> Self {
        let ram = GuestRam::new(RAM).unwrap();
        let put = |at: u16, emit: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>| {
            let mut assembler = CodeAssembler::new(16).unwrap();
            emit(&mut assembler).unwrap();
            ram.write(at.into(), &assembler.assemble(at.into()).unwrap()).unwrap();
        };
        put(CODE, &|a| program(a, blocks));
        put(DIVIDE_HANDLER, &|a| {
            a.push(bp)?;
            a.mov(bp, sp)?;
            a.add(word_ptr(bp + 2), 2)?; // DIV BX has two bytes
            a.pop(bp)?;
            a.iret()
        });
        for (at, count) in [(SYSTEM_HANDLER, 3u32), (IRQ_HANDLER, 5)] {
            put(at, &|a| {
                let mut again = a.create_label();
                a.push(cx)?;
                a.mov(cx, count)?;
                a.set_label(&mut again)?;
                a.inc(word_ptr(0x500))?;
                a.loop_(again)?;
                a.pop(cx)?;
                a.iret()
            });
        }
        for (vector, handler) in [(0, DIVIDE_HANDLER), (0x21, SYSTEM_HANDLER), (IRQ, IRQ_HANDLER)] {
            ram.write(u64::from(vector) * 4, &u32::from(handler).to_le_bytes()).unwrap();
        }
        Self { ram }
    }

    /// A vCPU at the program's start.
    pub(super) fn soft(&self) -> Soft {
        let mut soft = Soft::new(&self.ram, cpuid::profile(cpuid::SCRIBE_V1).unwrap(), Behaviour::Zen);
        let segment = Segment { base: 0, limit: 0xffff, selector: 0, attributes: 0x93 };
        let ldt = Segment { attributes: 1 << 16, ..Segment::default() };
        let tss = Segment { limit: 0x67, attributes: 0x8b, ..Segment::default() };
        let mut registers = Registers { rip: CODE.into(), rflags: 2, ..Registers::default() };
        registers.general[4] = 0x7000;
        let [a, b, c, d, e, f] = [segment; 6];
        soft.set_state(&CpuState {
            registers,
            segments: [a, b, c, d, e, f, ldt, tss],
            idt: DescriptorTable { base: 0, limit: 0x3ff },
            cr0: 0x10,
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            fpu: Fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Fpu::default() },
            ..CpuState::default()
        })
        .unwrap();
        soft
    }

    /// All of RAM that the guest reaches.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; USED];
        self.ram.read(0, &mut bytes).unwrap();
        bytes
    }
}

fn program(a: &mut CodeAssembler, blocks: &[Block]) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    for block in blocks {
        emit(a, *block)?;
    }
    a.jmp(again)
}

/// A loop of `count` turns, closed by `close`.
fn turns(
    a: &mut CodeAssembler,
    count: u16,
    close: fn(&mut CodeAssembler, CodeLabel) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let mut turn = a.create_label();
    a.mov(cx, u32::from(count))?;
    a.set_label(&mut turn)?;
    close(a, turn)
}

fn emit(a: &mut CodeAssembler, block: Block) -> Result<(), IcedError> {
    match block {
        Block::Turns(count) => turns(a, count, |a, turn| {
            a.dec(cx)?;
            a.jnz(turn)
        }),
        Block::Loop(count) => turns(a, count, |a, turn| {
            a.add(bx, cx)?;
            a.loop_(turn)
        }),
        Block::Ways => (0..8u32).try_for_each(|bit| {
            let mut over = a.create_label();
            a.test(al, 1 << bit)?;
            a.jz(over)?;
            a.inc(word_ptr(0x502))?;
            a.set_label(&mut over)?;
            a.nop()
        }),
        Block::Adjacent => {
            let mut over = a.create_label();
            a.test(sp, sp)?;
            a.jz(over)?;
            a.js(over)?;
            a.jnz(over)?;
            a.set_label(&mut over)?;
            a.nop()
        }
        Block::Zero => [0u32, 7].into_iter().try_for_each(|count| {
            let mut over = a.create_label();
            a.mov(cx, count)?;
            a.jcxz(over)?;
            a.dec(cx)?;
            a.set_label(&mut over)?;
            a.nop()
        }),
        Block::Move(count) => {
            a.mov(si, u32::from(CODE))?;
            a.mov(di, u32::from(DATA))?;
            a.mov(cx, u32::from(count))?;
            a.rep().movsb()
        }
        Block::Scan(count) => {
            let mut over = a.create_label();
            a.mov(di, u32::from(DATA))?;
            a.mov(cx, u32::from(count))?;
            a.repne().scasb()?;
            a.jz(over)?;
            a.inc(word_ptr(0x504))?;
            a.set_label(&mut over)?;
            a.nop()
        }
        Block::Straight(count) => (0..count).try_for_each(|_| a.nop()),
        Block::Divide => {
            a.xor(bx, bx)?;
            a.div(bx)
        }
        Block::System => a.int(0x21),
        Block::Window => {
            a.sti()?;
            a.nop()?;
            a.inc(word_ptr(0x506))?;
            a.cli()
        }
        Block::Shadow => {
            a.mov(dx, ss)?;
            a.mov(ss, dx)?;
            a.inc(dx)
        }
        Block::Call => {
            let (mut function, mut over) = (a.create_label(), a.create_label());
            a.call(function)?;
            a.jmp(over)?;
            a.set_label(&mut function)?;
            a.inc(dx)?;
            a.ret()?;
            a.set_label(&mut over)?;
            a.nop()
        }
        Block::Moves => {
            a.test(al, 1)?;
            a.cmovz(dx, cx)?;
            a.setz(dl)
        }
        Block::Read => a.in_(al, 0x60),
        Block::Write => a.out(0x80, al),
        Block::Outs(count) => {
            a.mov(si, u32::from(CODE))?;
            a.mov(dx, 0x81u32)?;
            a.mov(cx, u32::from(count))?;
            a.rep().outsb()
        }
    }
}
