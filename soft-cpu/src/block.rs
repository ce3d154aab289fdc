//! Pre-decoded basic blocks and the cache that keeps them.
//!
//! A block is a run of instructions on one page (its last one may reach into the next), found by the guest physical
//! address of its first byte and the mode it was decoded for. So translations may change under it, and only a write to
//! its bytes makes it wrong: pages with blocks are marked, and a write to a marked page drops the blocks it meets.
//!
//! Where blocks are cut can be noticed, if hardly: by `tcg`'s BT, by instructions that store to their own page, by a
//! block that reaches beyond CS's limit. So a stop in the middle is remembered ([`Behind`]), and what follows is cut as if
//! there had been none.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

use crate::Behaviour;
use crate::cpu::{Cpu, Mode, Trap};
use crate::lower::{Context, lower};
use crate::mmu::NO_PAGE;
use crate::op::{Ends, Op};
use crate::ram::Page;

/// The most instructions of a block.
pub(crate) const LONGEST: usize = 64;
/// Instructions in the cache before it is emptied: 40 bytes each.
const MOST_OPS: usize = 600_000;
/// What a block takes besides its instructions, in instructions.
const OVERHEAD: usize = 5;
/// Slots of the direct-mapped front of the cache.
const FRONT: usize = 1 << 15;
const NO_BLOCK: u32 = u32::MAX;

/// A run of instructions.
#[derive(Debug)]
pub(crate) struct Block {
    pub ops: Box<[Op]>,
    /// how it ends behind the last
    pub ends: Ends,
    /// bytes
    pub length: u16,
    /// one of them is a string instruction with REP
    pub has_rep: bool,
    /// pages of RAM it lies on
    pub pages: [usize; 2],
    /// guest physical address of the next page, if the block reaches into it
    pub second: Option<u64>,
    key: Key,
    /// where execution has gone from here on the same linear page
    links: [Link; 2],
}

/// Execution went from the end of one block to another on the same page, `delta` behind the first one's start. Where one
/// is mapped and may be executed, so may the other be, whatever linear address they have. It holds as long as no block
/// has been dropped since.
#[derive(Debug, Clone, Copy)]
struct Link {
    delta: u64,
    to: u32,
    generation: u64,
}

impl Block {
    /// What has run when `number` of its instructions have.
    pub(crate) fn behind(&self, number: u64) -> Behind {
        let instructions = self.key.behind.instructions + number as u8;
        Behind { instructions, flags: self.ops.get(number as usize).map_or(0, |op| op.flags) }
    }

    /// Where instruction `number` starts, counted from the block's start.
    pub(crate) fn start_of(&self, number: u64) -> u64 {
        match number.checked_sub(1) {
            None => 0,
            Some(before) => self.ops.get(before as usize).map_or(0, |op| op.next.into()),
        }
    }
}

/// What has run of a block when execution stops in its middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Behind {
    /// instructions, less than [`LONGEST`]
    pub instructions: u8,
    /// [`Op::flags`] of the next one
    pub flags: u8,
}

/// What a block is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    gpa: u64,
    bitness: u8,
    stack: u8,
    protected: bool,
    flat: bool,
    /// of one instruction only
    single: bool,
    behind: Behind,
}

/// The block wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Want {
    /// of the first instruction only
    Single,
    /// the longest, less what has run of it
    Rest(Behind),
}

impl Want {
    /// The longest.
    pub(crate) const WHOLE: Self = Self::Rest(Behind { instructions: 0, flags: 0 });
}

impl Key {
    #[inline(always)]
    fn new(gpa: u64, mode: Mode, want: Want) -> Self {
        let Mode { bitness, stack, protected, flat, .. } = mode;
        let (single, behind) = match want {
            Want::Single => (true, Behind::default()),
            Want::Rest(behind) => (false, behind),
        };
        Self { gpa, bitness, stack, protected, flat, single, behind }
    }

    /// The most instructions of the block.
    fn most(self) -> usize {
        if self.single { 1 } else { LONGEST - usize::from(self.behind.instructions) }
    }

    fn slot(self) -> usize {
        let mixed = self.gpa.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> 40) as usize ^ usize::from(self.bitness) ^ usize::from(self.single)) & (FRONT - 1)
    }
}

/// All blocks.
pub(crate) struct Cache {
    blocks: Vec<Block>,
    free: Vec<u32>,
    /// last block found for a slot
    front: Vec<u32>,
    /// blocks by address; a page's are neighbours
    index: BTreeMap<Key, u32>,
    /// blocks that reach into a page from the one before, by page
    reaching: BTreeMap<usize, Vec<u32>>,
    ops: usize,
    /// rises whenever a block goes
    generation: u64,
}

/// A block to run, or one that could not be cached.
pub(crate) enum Found {
    Cached(u32),
    /// code that is not in RAM
    Nowhere,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            blocks: Vec::new(),
            free: Vec::new(),
            front: vec![NO_BLOCK; FRONT],
            index: BTreeMap::new(),
            reaching: BTreeMap::new(),
            ops: 0,
            generation: 0,
        }
    }

    #[inline(always)]
    pub(crate) fn block(&self, number: u32) -> &Block {
        &self.blocks[number as usize]
    }

    /// Rises whenever a block goes.
    #[inline(always)]
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The block that execution goes to from block `from` at `old`, if it has done so before, now that it is at `rip`.
    #[inline(always)]
    pub(crate) fn linked(&self, from: u32, old: u64, rip: u64) -> Option<u32> {
        if (old ^ rip) >> 12 != 0 {
            return None;
        }
        let delta = rip.wrapping_sub(old);
        let links = &self.blocks.get(from as usize)?.links;
        links
            .iter()
            .find(|link| link.delta == delta && link.generation == self.generation)
            .map(|link| link.to)
    }

    /// Execution has gone from block `from` at `old` to block `to` at `rip`.
    pub(crate) fn link(&mut self, from: u32, old: u64, to: u32, rip: u64) {
        let generation = self.generation;
        if (old ^ rip) >> 12 == 0
            && let Some(block) = self.blocks.get_mut(from as usize)
        {
            block.links.swap(0, 1);
            block.links[0] = Link { delta: rip.wrapping_sub(old), to, generation };
        }
    }

    /// The block at `linear`, which code is fetched from.
    #[inline(always)]
    pub(crate) fn find(&mut self, cpu: &mut Cpu, linear: u64, want: Want) -> Result<Found, Trap> {
        let gpa = match cpu.held_code(linear) {
            Some(gpa) => gpa,
            None => {
                let gpa = cpu.walk_for_code(linear)?;
                self.take_overwritten(cpu);
                gpa
            }
        };
        let key = Key::new(gpa, cpu.mode, want);
        let number = self.front[key.slot()];
        if let Some(block) = self.blocks.get(number as usize)
            && block.key == key
            && block.second.is_none()
        {
            return Ok(Found::Cached(number));
        }
        self.find_slow(cpu, linear, key)
    }

    #[cold]
    fn find_slow(&mut self, cpu: &mut Cpu, linear: u64, key: Key) -> Result<Found, Trap> {
        if self.index.get(&key).is_some_and(|&number| self.blocks[number as usize].second.is_some()) {
            // The walk to the next page may have written over the block.
            cpu.next_code_page(linear)?;
            self.take_overwritten(cpu);
        }
        if let Some(&number) = self.index.get(&key) {
            match self.blocks[number as usize].second {
                None => {
                    self.front[key.slot()] = number;
                    return Ok(Found::Cached(number));
                }
                Some(second) if cpu.next_code_page(linear)? == second => {
                    return Ok(Found::Cached(number));
                }
                Some(_) => self.remove(number),
            }
        }
        let Some(page) = cpu.mmu.ram.page(key.gpa) else { return Ok(Found::Nowhere) };
        if self.ops > MOST_OPS {
            self.clear(cpu);
        }
        let decoded = decode(cpu, linear, key, page)?;
        self.take_overwritten(cpu);
        Ok(match decoded {
            Some(block) => Found::Cached(self.insert(cpu, block)),
            None => Found::Nowhere,
        })
    }

    fn insert(&mut self, cpu: &mut Cpu, block: Block) -> u32 {
        let (key, pages) = (block.key, block.pages);
        self.ops += block.ops.len() + OVERHEAD;
        let single = block.second.is_none();
        let number = match self.free.pop() {
            Some(number) => {
                self.blocks[number as usize] = block;
                number
            }
            None => {
                self.blocks.push(block);
                (self.blocks.len() - 1) as u32
            }
        };
        self.index.insert(key, number);
        if single {
            self.front[key.slot()] = number;
        } else {
            self.reaching.entry(pages[1]).or_default().push(number);
        }
        for page in pages {
            if page != NO_PAGE
                && let Some(page) = cpu.mmu.ram.page(cpu.mmu.ram.frame(page) << 12)
            {
                cpu.mmu.mark_code(page);
            }
        }
        number
    }

    fn remove(&mut self, number: u32) {
        let block = &mut self.blocks[number as usize];
        if block.key.gpa == u64::MAX {
            return; // it was met twice: both of its linear pages lie on the same page of RAM
        }
        self.generation += 1;
        self.ops -= block.ops.len() + OVERHEAD;
        block.ops = Box::default();
        let (key, pages, second) = (block.key, block.pages, block.second.take());
        block.key.gpa = u64::MAX;
        self.index.remove(&key);
        if second.is_some()
            && let Some(list) = self.reaching.get_mut(&pages[1])
        {
            list.retain(|&other| other != number);
        }
        self.free.push(number);
    }

    pub(crate) fn clear(&mut self, cpu: &mut Cpu) {
        if self.blocks.is_empty() {
            return;
        }
        self.generation += 1;
        self.blocks.clear();
        self.free.clear();
        self.front.fill(NO_BLOCK);
        self.index.clear();
        self.reaching.clear();
        self.ops = 0;
        cpu.mmu.ram.take(crate::ram::CODE);
    }

    /// Drops the blocks that lie on any of the bytes that have been written.
    #[cold]
    pub(crate) fn take_overwritten(&mut self, cpu: &mut Cpu) {
        if cpu.mmu.overwritten.is_empty() {
            return;
        }
        let ranges = std::mem::take(&mut cpu.mmu.overwritten);
        for (gpa, bytes) in &ranges {
            self.overwritten(cpu, *gpa, *bytes);
        }
        let mut ranges = ranges;
        ranges.clear();
        cpu.mmu.overwritten = ranges; // keeps its capacity
    }

    /// Drops the blocks of a range of at most one page.
    fn overwritten(&mut self, cpu: &mut Cpu, gpa: u64, bytes: u64) {
        let Some(page) = cpu.mmu.ram.page(gpa) else { return };
        let start = gpa & !0xfff;
        let first = |gpa| Key::new(gpa, Mode::default(), Want::WHOLE);
        let on_page: Vec<u32> =
            self.index.range(first(start)..first(start + 0x1000)).map(|(_, &n)| n).collect();
        let reaching = self.reaching.get(&page.index).cloned().unwrap_or_default();
        let mut left = 0;
        for number in on_page {
            let block = &self.blocks[number as usize];
            if block.key.gpa < gpa + bytes && gpa < block.key.gpa + u64::from(block.length) {
                self.remove(number);
            } else {
                left += 1;
            }
        }
        for number in reaching {
            let block = &self.blocks[number as usize];
            let end = (block.key.gpa & 0xfff) + u64::from(block.length) - 0x1000;
            if gpa & 0xfff < end {
                self.remove(number);
            } else {
                left += 1;
            }
        }
        if left == 0 {
            cpu.mmu.unmark_code(page);
        }
    }

    /// Somebody else has written a whole page.
    pub(crate) fn page_overwritten(&mut self, cpu: &mut Cpu, frame: u64) {
        let gpa = frame << 12;
        if let Some(page) = cpu.mmu.ram.page(gpa)
            && cpu.mmu.ram.flags(page) & crate::ram::CODE != 0
        {
            self.overwritten(cpu, gpa, 0x1000);
        }
    }
}

/// `None`: an instruction that begins in RAM and does not end there.
fn decode(cpu: &mut Cpu, linear: u64, key: Key, page: Page) -> Result<Option<Block>, Trap> {
    let offset = (key.gpa & 0xfff) as usize;
    let mut bytes = [0; 4096 + 16];
    let mut end = 4096;
    cpu.mmu.ram.read(page, offset as u64, &mut bytes[offset..4096]);
    // RIP, which RIP-relative operands and branches start from; its difference to the linear address does not matter.
    let start = linear;
    let mut context = Context {
        mode: cpu.mode,
        behaviour: cpu.profile.behaviour,
        tsc: cpu.profile.tsc,
        start,
        too_long: false,
        flags_width: key.behind.flags.checked_sub(1),
    };
    let mut block = Block {
        ops: Box::default(),
        ends: Ends::Behind,
        length: 0,
        has_rep: false,
        pages: [page.index, NO_PAGE],
        second: None,
        key,
        links: [Link { delta: 0, to: NO_BLOCK, generation: u64::MAX }; 2],
    };
    let mut ops = Vec::new();
    let mut at = offset;
    while ops.len() < key.most() && at < 4096 {
        let mut i = decode_at(cpu.mode.bitness, &bytes[at..end], start.wrapping_add((at - offset) as u64));
        if i.1 == DecoderError::NoMoreBytes && end == 4096 {
            if !ops.is_empty() {
                break; // the next block starts with it: it may fault on the next page
            }
            let next = cpu.next_code_page(linear)?;
            let Some(second) = cpu.mmu.ram.page(next) else { return Ok(None) };
            // The walk may have set a bit in the very bytes.
            cpu.mmu.ram.read(page, offset as u64, &mut bytes[offset..4096]);
            cpu.mmu.ram.read(second, 0, &mut bytes[4096..]);
            end = bytes.len();
            i = decode_at(cpu.mode.bitness, &bytes[at..end], start);
            if at + i.0.len() > 4096 {
                block.pages[1] = second.index;
                block.second = Some(next & !0xfff);
            } else {
                end = 4096;
            }
        }
        context.too_long =
            i.0.is_invalid() && i.0.len() >= 15 && is_too_long(cpu.mode.bitness, &bytes[at..end]);
        let mut lowered = lower(&i.0, &context);
        if cpu.profile.behaviour == Behaviour::Tcg {
            lowered.op.flags = context.flags_width.map_or(0, |width| width + 1);
        }
        crate::int::track_flags(&i.0, &mut context);
        block.has_rep |= i.0.is_string_instruction() && lowered.op.rep != 0;
        ops.push(lowered.op);
        at += i.0.len().max(1);
        block.ends = lowered.ends;
        if lowered.ends != Ends::No {
            break;
        }
    }
    if block.ends == Ends::No {
        block.ends = Ends::Behind;
    }
    block.length = (at - offset) as u16;
    block.ops = ops.into_boxed_slice();
    Ok(Some(block))
}

fn decode_at(bitness: u8, bytes: &[u8], ip: u64) -> (Instruction, DecoderError) {
    let mut decoder = Decoder::with_ip(bitness.into(), bytes, ip, DecoderOptions::FORCE_RESERVED_NOP);
    let instruction = decoder.decode();
    (instruction, decoder.last_error())
}

/// True if it is the length that makes the instruction invalid: with all else forgiven it still has no end.
fn is_too_long(bitness: u8, bytes: &[u8]) -> bool {
    let options = DecoderOptions::FORCE_RESERVED_NOP | DecoderOptions::NO_INVALID_CHECK;
    Decoder::with_ip(bitness.into(), bytes, 0, options).decode().is_invalid()
}
