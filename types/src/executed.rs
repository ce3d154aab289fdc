//! What code a vCPU has executed, for those who want to look: block by block.

use crate::stop::Progress;

/// Instructions that retired one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutedBlock {
    /// linear address of the first
    pub start: u64,
    /// where the guest was before the first, since its last exit
    pub progress: Progress,
    /// how many, at least 1; each iteration of a REP string instruction is one
    pub instructions: u64,
    /// CR3 before the first
    pub cr3: u64,
    /// CPL before the first
    pub cpl: u8,
    /// A block is not entered here: the one before was left at a stop, and this is more of it.
    pub continues: bool,
}

/// Who is told of each block as soon as its instructions have retired, in their order.
pub type BlockSink = Box<dyn FnMut(ExecutedBlock)>;
