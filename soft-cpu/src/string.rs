//! String instructions: MOVS CMPS STOS LODS SCAS INS OUTS, with and without REP.
//!
//! An iteration is a whole: registers move on after each, so a fault, an exit, a place to stop at or a kick can come
//! between any two. Each iteration of REP counts as one instruction; REP with a counter of 0 counts as one too.
//!
//! **Sync points inside REP** follow what KVM does (docs/determinism.md, section 1): behind each element that was written
//! to a port or a device; behind the last of a batch of INS; for elements read from a device when the counter's lowest ten
//! bits become 0.

use iced_x86::{Instruction, Mnemonic};
use scribe_types::stop::Exit;

use crate::cpu::{Cpu, Done, ES, RAX, RCX, RDI, RDX, RSI, Trap};
use crate::flags::{Arithmetic, DF};
use crate::lower::{Choice, Context};
use crate::op::{Handler, Op, truncate};
use crate::word::Word;

/// Iterations after which the run loop gets to look for kicks.
const MOST_AT_ONCE: u64 = 1 << 16;
/// Most bytes of a batch of INS.
const BATCH: u64 = 1024;

/// One iteration. True: REPE or REPNE ends here.
type Iteration = fn(&mut Cpu, &Op) -> Result<bool, Trap>;

/// Many iterations at once, at most so many: how many were done, all of them without anything to be noticed.
type Stretch = fn(&mut Cpu, &Op, u64) -> u64;

trait Element {
    const GO: Iteration;
    const STRETCH: Stretch;
    /// bytes of a port access: permission is asked for even if there is no iteration
    const PORT: u8;
}

impl Cpu {
    fn string_linear(
        &mut self,
        seg: usize,
        number: u8,
        op: &Op,
        bytes: u64,
        write: bool,
    ) -> Result<u64, Trap> {
        let offset = truncate(self.reg(number), op.address);
        if self.is_long() && seg < 4 {
            return Ok(offset);
        }
        self.linear_in(seg, offset, bytes, write)
    }

    fn string_source(&mut self, op: &Op, bytes: u64) -> Result<u64, Trap> {
        self.string_linear(op.seg.into(), RSI, op, bytes, false)
    }

    fn string_destination(&mut self, op: &Op, bytes: u64, write: bool) -> Result<u64, Trap> {
        self.string_linear(ES, RDI, op, bytes, write)
    }

    /// Moves rSI or rDI to the next element.
    fn advance(&mut self, number: u8, op: &Op, bytes: u64) {
        let step = if self.flags.system & DF != 0 { bytes.wrapping_neg() } else { bytes };
        let value = self.reg::<u64>(number).wrapping_add(step);
        self.set_by_address(number, op, value);
    }

    fn set_by_address(&mut self, number: u8, op: &Op, value: u64) {
        match op.address {
            64 => self.set_reg(number, value),
            32 => self.set_reg(number, value as u32),
            _ => self.set_reg(number, value as u16),
        }
    }
}

fn movs<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<bool, Trap> {
    let from = cpu.string_source(op, W::BYTES)?;
    let value: W = cpu.load(from)?;
    let to = cpu.string_destination(op, W::BYTES, true)?;
    cpu.store(to, value)?;
    cpu.advance(RSI, op, W::BYTES);
    cpu.advance(RDI, op, W::BYTES);
    Ok(false)
}

/// True if elements go upwards through flat memory, none of them on the edge of two pages.
fn is_plain<W: Word>(cpu: &Cpu, op: &Op, address: u64) -> bool {
    op.address == 64 && op.seg < 4 && cpu.flags.system & DF == 0 && address & (W::BYTES - 1) == 0
}

fn movs_stretch<W: Word>(cpu: &mut Cpu, op: &Op, most: u64) -> u64 {
    let (from, to): (u64, u64) = (cpu.reg(RSI), cpu.reg(RDI));
    if !is_plain::<W>(cpu, op, from | to) {
        return 0;
    }
    let bytes = cpu.copy_stretch(from, to, most.min(MOST_AT_ONCE) * W::BYTES);
    cpu.set_reg(RSI, from.wrapping_add(bytes));
    cpu.set_reg(RDI, to.wrapping_add(bytes));
    bytes / W::BYTES
}

fn stos_stretch<W: Word>(cpu: &mut Cpu, op: &Op, most: u64) -> u64 {
    let to: u64 = cpu.reg(RDI);
    if !is_plain::<W>(cpu, op, to) {
        return 0;
    }
    let value: W = cpu.reg(RAX);
    let bytes = cpu.fill_stretch(to, value, most.min(MOST_AT_ONCE) * W::BYTES);
    cpu.set_reg(RDI, to.wrapping_add(bytes));
    bytes / W::BYTES
}

fn no_stretch<W: Word>(_: &mut Cpu, _: &Op, _: u64) -> u64 {
    0
}

fn stos<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<bool, Trap> {
    let to = cpu.string_destination(op, W::BYTES, true)?;
    let value: W = cpu.reg(RAX);
    cpu.store(to, value)?;
    cpu.advance(RDI, op, W::BYTES);
    Ok(false)
}

fn lods<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<bool, Trap> {
    let from = cpu.string_source(op, W::BYTES)?;
    let value: W = cpu.load(from)?;
    cpu.set_reg(RAX, value);
    cpu.advance(RSI, op, W::BYTES);
    Ok(false)
}

/// Flags of `a - b`; whether a REPE or REPNE ends.
fn compared<W: Word>(cpu: &mut Cpu, op: &Op, a: W, b: W) -> bool {
    let difference = W::cut(a.wide().wrapping_sub(b.wide()));
    cpu.flags.set(Arithmetic::Sub, W::WIDTH, difference.wide(), b.wide());
    (a == b) != (op.rep == 1)
}

fn cmps<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<bool, Trap> {
    let from = cpu.string_source(op, W::BYTES)?;
    let a: W = cpu.load(from)?;
    let to = cpu.string_destination(op, W::BYTES, false)?;
    let b: W = cpu.load(to)?;
    cpu.advance(RSI, op, W::BYTES);
    cpu.advance(RDI, op, W::BYTES);
    Ok(compared(cpu, op, a, b))
}

fn scas<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<bool, Trap> {
    let to = cpu.string_destination(op, W::BYTES, false)?;
    let b: W = cpu.load(to)?;
    let a: W = cpu.reg(RAX);
    cpu.advance(RDI, op, W::BYTES);
    Ok(compared(cpu, op, a, b))
}

fn ins<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<bool, Trap> {
    let port = cpu.reg::<u16>(RDX);
    cpu.check_io(port, W::BYTES as u8)?;
    let to = cpu.string_destination(op, W::BYTES, true)?;
    cpu.check_writable(to, W::BYTES)?;
    if cpu.accesses.batch == 0 {
        cpu.accesses.batch = batch::<W>(cpu, op);
    }
    let value = cpu.port_read(port, W::BYTES as u8)?;
    cpu.store(to, W::cut(value.into()))?;
    cpu.accesses.batch -= 1;
    cpu.advance(RDI, op, W::BYTES);
    Ok(false)
}

/// Elements of INS that come without a sync point between them: to the page's end, at most 1024 bytes, at least one.
fn batch<W: Word>(cpu: &Cpu, op: &Op) -> u64 {
    if op.rep == 0 {
        return 1;
    }
    let offset = cpu.reg::<u64>(RDI) & 0xfff;
    let on_page = if cpu.flags.system & DF != 0 { offset } else { 4096 - offset };
    let count = truncate(cpu.reg(RCX), op.address);
    (on_page.min(BATCH) / W::BYTES).min(count).max(1)
}

fn outs<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<bool, Trap> {
    let port = cpu.reg::<u16>(RDX);
    cpu.check_io(port, W::BYTES as u8)?;
    let from = cpu.string_source(op, W::BYTES)?;
    let value: W = cpu.load(from)?;
    cpu.port_write(port, W::BYTES as u8, value.wide() as u32)?;
    cpu.advance(RSI, op, W::BYTES);
    Ok(false)
}

fn once<E: Element>(cpu: &mut Cpu, op: &Op) -> Done {
    (E::GO)(cpu, op).map(|_| ())
}

fn repeated<E: Element, const CONDITION: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    if E::PORT != 0 {
        let port = cpu.reg(RDX);
        cpu.check_io(port, E::PORT)?;
    }
    let budget = cpu.iterations.min(MOST_AT_ONCE);
    let mut done = 0;
    let mut left = truncate(cpu.reg(RCX), op.address);
    while left != 0 {
        // A batch has no place to stop inside.
        if done >= budget && cpu.accesses.batch == 0 && !cpu.accesses.unbroken {
            cpu.instructions += done;
            return Err(Trap::Again);
        }
        if cpu.accesses.is_empty() && !cpu.accesses.unbroken {
            let stretch = (E::STRETCH)(cpu, op, left.min(budget.saturating_sub(done)));
            if stretch > 0 {
                left -= stretch;
                cpu.set_by_address(RCX, op, left);
                done += stretch;
                continue;
            }
        }
        let ended = match (E::GO)(cpu, op) {
            Ok(ended) => ended,
            Err(trap) => {
                cpu.instructions += done;
                return Err(trap);
            }
        };
        left -= 1;
        cpu.set_by_address(RCX, op, left);
        done += 1;
        let emulated = !cpu.accesses.is_empty() || cpu.accesses.unbroken;
        let sync = emulated && is_sync_point(cpu, left);
        cpu.accesses.unbroken = emulated && !sync && cpu.accesses.batch == 0;
        cpu.accesses.retire();
        if CONDITION && ended {
            break;
        }
        if sync {
            // Also behind the last element: RIP moves on when the instruction runs once more with its counter at 0. A batch
            // whose elements are stored to a device ends at each of them.
            cpu.accesses.batch = 0;
            cpu.instructions += done;
            return Err(Trap::Again);
        }
    }
    cpu.accesses.batch = 0;
    cpu.accesses.unbroken = false;
    cpu.instructions += done.saturating_sub(1);
    Ok(())
}

/// Behind an iteration that made an exit, with `left` to come.
fn is_sync_point(cpu: &Cpu, left: u64) -> bool {
    match cpu.accesses.last() {
        Some(Exit::PortRead { .. }) => cpu.accesses.batch == 0,
        Some(Exit::MmioRead { .. }) | None => left & 0x3ff == 0,
        _ => true,
    }
}

macro_rules! elements {
    ($bytes:expr, $rep:expr, $condition:literal, $f:ident, $stretch:ident, $port:expr) => {{
        struct B;
        struct W;
        struct D;
        struct Q;
        impl Element for B {
            const GO: Iteration = $f::<u8>;
            const STRETCH: Stretch = $stretch::<u8>;
            const PORT: u8 = $port * 1;
        }
        impl Element for W {
            const GO: Iteration = $f::<u16>;
            const STRETCH: Stretch = $stretch::<u16>;
            const PORT: u8 = $port * 2;
        }
        impl Element for D {
            const GO: Iteration = $f::<u32>;
            const STRETCH: Stretch = $stretch::<u32>;
            const PORT: u8 = $port * 4;
        }
        impl Element for Q {
            const GO: Iteration = $f::<u64>;
            const STRETCH: Stretch = $stretch::<u64>;
            const PORT: u8 = $port * 8;
        }
        match ($bytes, $rep) {
            (1, 0) => once::<B> as Handler,
            (2, 0) => once::<W>,
            (4, 0) => once::<D>,
            (8, 0) => once::<Q>,
            (1, _) => repeated::<B, $condition>,
            (2, _) => repeated::<W, $condition>,
            (4, _) => repeated::<D, $condition>,
            _ => repeated::<Q, $condition>,
        }
    }};
}

/// Handlers for the string instructions.
pub(crate) fn lower(i: &Instruction, op: &mut Op, _: &Context) -> Option<Choice> {
    use Mnemonic as M;
    if !i.is_string_instruction() {
        return None; // MOVSD and CMPSD are names of SSE instructions too
    }
    let bytes = i.memory_size().size();
    Some(match i.mnemonic() {
        M::Movsb | M::Movsw | M::Movsd | M::Movsq => {
            Choice::on(elements!(bytes, op.rep, false, movs, movs_stretch, 0))?
        }
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => {
            Choice::on(elements!(bytes, op.rep, false, stos, stos_stretch, 0))?
        }
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => {
            Choice::on(elements!(bytes, op.rep, false, lods, no_stretch, 0))?
        }
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => {
            Choice::on(elements!(bytes, op.rep, true, cmps, no_stretch, 0))?
        }
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => {
            Choice::on(elements!(bytes, op.rep, true, scas, no_stretch, 0))?
        }
        M::Insb | M::Insw | M::Insd => Choice::last(elements!(bytes, op.rep, false, ins, no_stretch, 1))?,
        M::Outsb | M::Outsw | M::Outsd => Choice::last(elements!(bytes, op.rep, false, outs, no_stretch, 1))?,
        _ => return None,
    })
}
