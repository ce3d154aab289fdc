//! The symbol table that a running Linux carries with it (CONFIG_KALLSYMS), found in its memory.
//!
//! Kernels as distributions package them have no other: they are stripped, and their `System.map` is in another package. The
//! names are compressed, in parts that lie one behind the other but that nothing points to (scripts/kallsyms.c):
//! * the table of 256 tokens, and an index of it, which can be recognized;
//! * in front of them the count of symbols, the names, a marker for each 256 of them, and in some versions their order;
//! * the addresses, relative to one: behind the index since Linux 6.4, in front of the count before that.
//!
//! What is found must be consistent in itself, and fit where the kernel is. Modules are not in it.

use super::anchor;
use super::find::Found;
use super::paging::Virtual;
use super::table::{Builder, Symbols, UPPER_HALF};
use crate::engine::cpu::CpuState;

/// Where Linux maps itself: 1 GiB from here on.
const MAP: std::ops::Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_c000_0000;
/// The kernel is looked for this far (bytes) to both sides of where SYSCALL goes.
const REACH: u64 = 64 << 20;
/// A hole in the kernel's mapping, in bytes: what it gave back after it started.
const HOLE: u64 = 4 << 20;
const PAGE: u64 = 4096;

const TOKENS: usize = 256;
/// Tokens of characters that are used in names are first of all these characters: the digits are.
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
/// Symbols to a marker.
const BLOCK: usize = 256;
/// Names and markers take at most so many bytes: those of distributions take some 3 MB.
const MOST_NAMES: usize = 32 << 20;
/// And so many for each symbol, on average, beside so many for all.
const LONG_NAMES: usize = 64;
const SHORT_TABLE: usize = 4096;
/// Names that are looked at in search of the table.
const MOST_STEPS: usize = 4 << 20;
/// Longest name, expanded.
const MOST_NAME: usize = 1024;

/// The symbols of the kernel that the processor in `state` is executing, if its table is found.
pub fn read(state: &CpuState, memory: &Virtual<'_>) -> Option<Symbols> {
    let entry = anchor::system_call(state)?;
    let image = Image::around(entry, memory)?;
    let symbols = image.tables().find_map(|tokens| image.symbols(&tokens))?;
    // It must be this kernel's, and not have to be moved to fit.
    let found = Found { symbols, certain: false };
    let placed = anchor::place(found, state, memory).ok()?;
    placed.is_unmoved().then_some(placed)
}

/// A kernel's memory.
struct Image {
    start: u64,
    bytes: Vec<u8>,
}

/// A table of tokens and where it and its index lie.
struct Tokens {
    begin: usize,
    end: usize,
    /// begin and end of each
    each: Vec<(usize, usize)>,
}

impl Image {
    /// What is mapped around `address`.
    fn around(address: u64, memory: &Virtual<'_>) -> Option<Self> {
        MAP.contains(&address).then_some(())?;
        let mapped = |at: u64| memory.translate(at).map(|mapped| mapped.page);
        let lowest = address.saturating_sub(REACH).max(MAP.start);
        let mut start = address & !(PAGE - 1);
        let mut at = start;
        while at > lowest && start - at <= HOLE {
            let below = at - 1;
            match mapped(below) {
                Some(page) => {
                    at = (below & !(page - 1)).max(lowest);
                    start = at;
                }
                None => at = below & !(PAGE - 1),
            }
        }
        let highest = address.saturating_add(REACH).min(MAP.end);
        let mut end = start;
        let mut at = start;
        while at < highest && at - end <= HOLE {
            match mapped(at) {
                Some(page) => {
                    at = (at & !(page - 1)) + page;
                    end = at.min(highest);
                }
                None => at = (at & !(PAGE - 1)) + PAGE,
            }
        }
        let mut bytes = vec![0; usize::try_from(end - start).ok()?];
        let mut done = 0;
        while done < bytes.len() {
            let read = memory.read(start + done as u64, &mut bytes[done..]);
            // What is not there stays zeros.
            let hole = usize::try_from(PAGE).ok()?;
            done = if read == 0 { (done / hole + 1) * hole } else { done + read };
        }
        Some(Self { start, bytes })
    }

    fn half(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }

    fn long(&self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }

    /// All that may be tables of tokens.
    fn tables(&self) -> impl Iterator<Item = Tokens> + '_ {
        let digits = self.bytes.windows(DIGITS.len()).enumerate().filter(|(_, bytes)| *bytes == DIGITS);
        digits.filter_map(|(at, _)| self.table(at))
    }

    /// The table of tokens whose token `0` is at `zero`.
    fn table(&self, zero: usize) -> Option<Tokens> {
        let mut at = zero;
        for _ in 1..b'0' {
            at = self.token_before(at)?;
        }
        // What is in front of the first may look like a part of it; it begins at a multiple of 8.
        let lowest = self.token_before(at)?;
        (lowest..at).filter(|begin| begin.is_multiple_of(8)).find_map(|begin| self.table_at(begin))
    }

    /// Where the token begins that ends in front of `at`.
    fn token_before(&self, at: usize) -> Option<usize> {
        let terminator = at.checked_sub(1).filter(|at| self.bytes.get(*at) == Some(&0))?;
        let before = self.bytes.get(..terminator)?.iter().rev().take(MOST_NAME);
        Some(terminator - before.take_while(|byte| **byte != 0).count())
    }

    /// The table of tokens at `begin`, if its index is behind it.
    fn table_at(&self, begin: usize) -> Option<Tokens> {
        let mut each = Vec::with_capacity(TOKENS);
        let mut at = begin;
        for _ in 0..TOKENS {
            let length = self.bytes.get(at..)?.iter().take(MOST_NAME).position(|byte| *byte == 0)?;
            each.push((at, at + length));
            at += length + 1;
        }
        let index = at.next_multiple_of(8);
        let fits = |(number, (token, _)): (usize, &(usize, usize))| {
            self.half(index + 2 * number).map(usize::from) == Some(token - begin)
        };
        let end = index + 2 * TOKENS;
        each.iter().enumerate().all(fits).then_some(Tokens { begin, end, each })
    }

    fn symbols(&self, tokens: &Tokens) -> Option<Symbols> {
        let (count_at, count) = self.count(tokens)?;
        let names = count_at + 8;
        let (offsets, base) = self.addresses(tokens, count_at, count)?;
        // On a kernel for several processors what is counted from the base is negative: the rest is of no place.
        let offset = |number: usize| self.word(offsets + 4 * number);
        let negative =
            (0..count).filter(|number| offset(*number).is_some_and(|word| word >> 31 == 1)).count();
        let mut builder = Builder::default();
        let mut at = names;
        for number in 0..count {
            let (name, next) = self.name(at, tokens)?;
            at = next;
            let offset = offset(number)?;
            let address = match (negative > count / 2, offset >> 31) {
                (false, _) => base.wrapping_add(offset.into()),
                (true, 1) => base.wrapping_add(u64::from(!offset)),
                (true, _) => continue,
            };
            if let [kind, name @ ..] = name.as_slice() {
                builder.add_typed(address, name, *kind);
            }
        }
        Some(builder.finish("the table in its memory"))
    }

    /// Where the count of symbols is, in front of the names, and what it is: the nearest in front of the tokens of which all
    /// that is in between is as it says.
    fn count(&self, tokens: &Tokens) -> Option<(usize, usize)> {
        let highest = tokens.begin.checked_sub(16)? & !7;
        let mut budget = MOST_STEPS;
        for at in (highest.saturating_sub(MOST_NAMES)..=highest).rev().step_by(8) {
            let count = usize::try_from(self.word(at)?).ok()?;
            let between = tokens.begin - at;
            let possible = count > 0 && 2 * count <= between && between <= LONG_NAMES * count + SHORT_TABLE;
            if self.word(at + 4)? == 0
                && possible
                && self.leads_to(at + 8, count, tokens.begin, &mut budget)?
            {
                return Some((at, count));
            }
        }
        None
    }

    /// True if from `names` on there are `count` names, markers of them, since Linux 6.2 perhaps a table of 3 bytes for each,
    /// and then `end`. `None`: it has been looked enough.
    fn leads_to(&self, names: usize, count: usize, end: usize, budget: &mut usize) -> Option<bool> {
        let mut at = names;
        let mut markers = Vec::new();
        for number in 0..count {
            *budget = budget.checked_sub(1)?;
            if number % BLOCK == 0 {
                markers.push(at - names);
            }
            match self.length(at) {
                Some((length, begin)) if length > 0 && begin + length <= end => at = begin + length,
                _ => return Some(false),
            }
        }
        let begin = at.next_multiple_of(8);
        let marker = |number: usize| usize::try_from(self.word(begin + 4 * number)?).ok();
        let all = markers.iter().enumerate().all(|(number, offset)| marker(number) == Some(*offset));
        let behind = (begin + 4 * markers.len()).next_multiple_of(8);
        Some(all && (behind == end || (behind + 3 * count).next_multiple_of(8) == end))
    }

    /// How many tokens the name at `at` has, and where the first is.
    fn length(&self, at: usize) -> Option<(usize, usize)> {
        let first = usize::from(*self.bytes.get(at)?);
        if first & 0x80 == 0 {
            return Some((first, at + 1));
        }
        let second = usize::from(*self.bytes.get(at + 1)?);
        Some((first & 0x7f | second << 7, at + 2))
    }

    /// The name at `at`, with its type in front of it, and where the next one is.
    fn name(&self, at: usize, tokens: &Tokens) -> Option<(Vec<u8>, usize)> {
        let (length, begin) = self.length(at)?;
        let end = begin.checked_add(length)?;
        let mut name = Vec::new();
        for token in self.bytes.get(begin..end)? {
            let (from, to) = *tokens.each.get(usize::from(*token))?;
            name.extend_from_slice(self.bytes.get(from..to)?);
            (name.len() <= MOST_NAME).then_some(())?;
        }
        Some((name, end))
    }

    /// Where the symbols' offsets are, and what they are counted from.
    fn addresses(&self, tokens: &Tokens, count_at: usize, count: usize) -> Option<(usize, u64)> {
        let bytes = (4 * count).next_multiple_of(8);
        let behind = (tokens.end.next_multiple_of(8), tokens.end.next_multiple_of(8).checked_add(bytes));
        let before = (count_at.checked_sub(8 + bytes), count_at.checked_sub(8));
        let candidates = [(Some(behind.0), behind.1), before];
        candidates.into_iter().find_map(|(offsets, base)| {
            let base = self.long(base?)?;
            let near = base >= UPPER_HALF && base.abs_diff(self.start) <= REACH;
            near.then_some((offsets?, base))
        })
    }
}

#[cfg(test)]
mod tests;
