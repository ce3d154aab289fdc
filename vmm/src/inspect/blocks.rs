//! Executed code, block by block: where each block is in the run, when it was, and in which function.

use std::io::{self, Write};

use scribe_log::Position;
use scribe_log::header::TimeConstants;
use serde::Serialize;

use super::decode::Device;
use super::text;
use crate::engine::{Answer, ExecutedBlock, Exit, Progress};
use crate::machine::observe::Moment;
use crate::symbols::Symbol;

/// The kind's name, beside those of events.
pub const KIND: &str = "block";

/// Where an exit is, and what time it was there.
#[derive(Debug, Clone, Copy)]
struct Base {
    exit: u64,
    /// guest time there (ns), sleep since included
    time: u64,
}

/// Places blocks, told of everything that a machine tells besides them.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    ns_per_branch: u64,
    base: Base,
    /// how far the exit told of last is from the one before
    before: Progress,
    /// the instruction of that exit, which has not retired, is behind this one
    exiting: Option<Base>,
}

impl Places {
    /// For a machine at `at`, which has just come to an exit or from power-on.
    pub fn new(at: Moment, time: TimeConstants) -> Self {
        let base = Base { exit: at.position.exit, time: at.guest_time };
        Self { ns_per_branch: time.ns_per_branch, base, before: Progress::NONE, exiting: None }
    }

    /// Blocks are told of from here on.
    pub fn begin(&mut self, at: Moment) {
        let slept = at.position.branches.saturating_mul(self.ns_per_branch);
        self.base = Base { exit: at.position.exit, time: at.guest_time.saturating_sub(slept) };
        self.exiting = None;
    }

    /// The guest has come this far to the exit told of next.
    pub fn before_exit(&mut self, progress: Progress) {
        self.before = progress;
    }

    /// An exit was served.
    pub fn exit(&mut self, at: Moment, _exit: &Exit, answer: Answer) {
        // An instruction that faults does not retire.
        self.exiting = (answer != Answer::GeneralProtection).then_some(self.base);
        self.base = Base { exit: at.position.exit, time: at.guest_time };
    }

    /// The halted vCPU sleeps until this guest time.
    pub fn idle(&mut self, at: Moment, until: u64) {
        self.base.time = until.saturating_sub(at.position.branches.saturating_mul(self.ns_per_branch));
    }

    /// Where and when a block was, which is the next to be told of.
    pub fn of(&mut self, block: &ExecutedBlock) -> Moment {
        let Progress { branches, steps } = block.progress;
        let base = self.exiting.take().filter(|_| block.progress == self.before).unwrap_or(self.base);
        Moment {
            position: Position { exit: base.exit, branches, steps },
            guest_time: base.time.saturating_add(branches.saturating_mul(self.ns_per_branch)),
        }
    }
}

/// A block with everything that is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// where and when it begins
    pub at: Moment,
    /// the block
    pub block: &'a ExecutedBlock,
    /// what of the guest's kernel it begins in
    pub symbol: Option<Symbol<'a>>,
}

/// Appends the line of `row` for people, with its line feed, to `out`.
pub fn text_line(out: &mut Vec<u8>, row: &Row) {
    // Writing to memory cannot fail.
    let _ = columns(out, row);
    out.push(b'\n');
}

fn columns(out: &mut Vec<u8>, row: &Row) -> io::Result<()> {
    text::columns(out, row.at.position, Some(row.at.guest_time), 0, Device::Cpu, KIND)?;
    let ExecutedBlock { start, instructions, cpl, continues, .. } = *row.block;
    write!(out, "{start:#x}")?;
    match row.symbol {
        Some(symbol) => write!(out, " {symbol}")?,
        None if cpl == 3 => out.extend_from_slice(b" user"),
        None => {}
    }
    let plural = if instructions == 1 { "" } else { "s" };
    let more = if continues { " more" } else { "" };
    write!(out, ": {instructions}{more} instruction{plural}")
}

#[derive(Serialize)]
struct Object<'a> {
    position: String,
    exit: u64,
    branches: u64,
    steps: u64,
    time: u64,
    vcpu: u32,
    device: &'static str,
    kind: &'static str,
    address: String,
    instructions: u64,
    cpl: u8,
    cr3: String,
    continues: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    symbol: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

/// Appends the line of `row` for scripts, with its line feed, to `out`.
pub fn json_line(out: &mut Vec<u8>, row: &Row) {
    let Position { exit, branches, steps } = row.at.position;
    let ExecutedBlock { start, instructions, cpl, cr3, continues, .. } = *row.block;
    let object = Object {
        position: row.at.position.to_string(),
        exit,
        branches,
        steps,
        time: row.at.guest_time,
        vcpu: 0,
        device: Device::Cpu.name(),
        kind: KIND,
        address: format!("{start:#x}"),
        instructions,
        cpl,
        cr3: format!("{cr3:#x}"),
        continues,
        symbol: row.symbol.map(|symbol| symbol.name),
        offset: row.symbol.map(|symbol| symbol.offset),
    };
    // Numbers and strings can always be written; writing to memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, &object);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(branches: u64, steps: u64) -> ExecutedBlock {
        let progress = Progress { branches, steps };
        ExecutedBlock { start: 0x1000, progress, instructions: 2, cr3: 0x9000, cpl: 0, continues: false }
    }

    fn at(exit: u64, guest_time: u64) -> Moment {
        Moment { position: Position::exit(exit), guest_time }
    }

    #[test]
    fn blocks_are_placed_behind_the_exit_before_them() {
        let mut places = Places::new(at(0, 0), TimeConstants { ns_per_branch: 8, ns_per_exit: 2_000 });
        let of = |places: &mut Places, branches, steps| {
            let at = places.of(&block(branches, steps));
            (at.position.to_string(), at.guest_time)
        };
        assert_eq!(of(&mut places, 0, 0), ("exit:0".into(), 0));
        assert_eq!(of(&mut places, 5, 1), ("exit:0+5+1".into(), 40));
        // The exit's own instruction retires when it is served.
        places.before_exit(Progress { branches: 7, steps: 2 });
        places.exit(at(1, 2_056), &Exit::Halt, Answer::Done);
        assert_eq!(of(&mut places, 7, 2), ("exit:0+7+2".into(), 56));
        places.idle(at(1, 2_056), 10_000);
        assert_eq!(of(&mut places, 0, 0), ("exit:1".into(), 10_000));
        assert_eq!(of(&mut places, 2, 0), ("exit:1+2".into(), 10_016));
        // One that faults does not.
        places.before_exit(Progress::NONE);
        places.exit(at(2, 12_000), &Exit::MsrRead { index: 1 }, Answer::GeneralProtection);
        assert_eq!(of(&mut places, 0, 0), ("exit:2".into(), 12_000));
    }

    #[test]
    fn lines_keep_their_form() {
        let symbol = Symbol { name: "do_idle", start: 0xff0, size: 0x120, offset: 0x10 };
        let block = block(3, 1);
        let row = |symbol, block| Row { at: Moment { guest_time: 7, ..at(1, 0) }, block, symbol };
        let text = |row: Row| {
            let mut out = Vec::new();
            text_line(&mut out, &row);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            text(row(Some(symbol), &block)),
            "exit:1                    0.000000007  0 cpu      block          0x1000 do_idle+0x10/0x120: 2 instructions\n"
        );
        let user = ExecutedBlock { cpl: 3, instructions: 1, continues: true, ..block };
        assert!(text(row(None, &user)).ends_with(" 0x1000 user: 1 more instruction\n"));
        let mut out = Vec::new();
        json_line(&mut out, &row(Some(symbol), &block));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                r#"{"position":"exit:1","exit":1,"branches":0,"steps":0,"time":7,"vcpu":0,"device":"cpu","kind":"block","#,
                r#""address":"0x1000","instructions":2,"cpl":0,"cr3":"0x9000","continues":false,"symbol":"do_idle","offset":16}"#,
                "\n"
            )
        );
    }
}
