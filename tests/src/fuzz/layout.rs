//! Where a case finds its code and data. Everything lies below 64 KiB, so that 16-bit and 32-bit addresses reach it.

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// The page with the code: readable and executable, nothing mapped on either side.
pub const CODE: u64 = 0x8000;
/// The pages that a case may write, with nothing mapped in front of them.
pub const DATA: u64 = 0xb000;
/// Bytes that a case may write.
pub const DATA_BYTES: usize = 2 * PAGE as usize;
/// One page that can be read only, right behind the writable ones; nothing is mapped behind it.
pub const READ_ONLY: u64 = DATA + DATA_BYTES as u64;
/// Bytes of code of a case, at most.
pub const CODE_BYTES: usize = 384;
/// Cases a batch.
pub const BATCH: usize = 256;

/// Selector of Linux's 64-bit user code segment.
pub const CS64: u16 = 0x33;
/// Selector of Linux's 32-bit user code segment.
pub const CS32: u16 = 0x23;
/// Selector of Linux's user data segment.
pub const DS: u16 = 0x2b;
/// Where Linux's user addresses end: behind it the kernel reports a page fault as one of protection.
pub const USER_END: u64 = 0x7fff_ffff_f000;
