//! Telling what is executed, block by block.

use scribe_types::executed::{BlockSink, ExecutedBlock};
use scribe_types::stop::Progress;

use crate::cpu::{CS, Cpu};

/// What is told of the block of the next instruction, before any has retired. `mark`: instructions retired at the last exit
/// or conditional branch.
pub(crate) fn entered(cpu: &Cpu, mark: u64, continues: bool) -> ExecutedBlock {
    let start = match cpu.is_long() {
        true => cpu.rip,
        false => cpu.rip.wrapping_add(cpu.segs[CS].base) & 0xffff_ffff,
    };
    ExecutedBlock {
        start,
        progress: Progress { branches: cpu.branches, steps: cpu.instructions - mark },
        instructions: 0,
        cr3: cpu.cr3,
        cpl: cpu.mode.cpl,
        continues,
    }
}

/// Tells of a block, if any of its instructions has retired.
pub(crate) fn executed(sink: &mut Option<BlockSink>, block: Option<ExecutedBlock>, instructions: u64) {
    if let (Some(sink), Some(block), true) = (sink, block, instructions > 0) {
        sink(ExecutedBlock { instructions, ..block });
    }
}
