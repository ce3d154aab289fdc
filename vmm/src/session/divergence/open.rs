//! Instructions whose results are not given by their operands alone, or not by the manuals: docs/determinism.md, sections 3
//! and 8.

use iced_x86::{Instruction, Mnemonic as M, OpKind, RflagsBits};

/// Where the result of an instruction comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Open {
    /// the host's clock, counters or noise
    Noise,
    /// the manuals leave what is written open
    Value,
    /// the manuals leave some flags open
    Flags,
}

/// If that is so with `instruction`: where its result comes from, and what there is to be said of it.
pub fn look(instruction: &Instruction) -> Option<(Open, &'static str)> {
    let words = instruction.op_count() > 0
        && match instruction.op_kind(0) {
            OpKind::Register => instruction.op_register(0).size() == 2,
            OpKind::Memory => instruction.memory_size().size() == 2,
            _ => false,
        };
    let shift = "OF with counts above 1, and AF";
    Some(match instruction.mnemonic() {
        M::Rdrand | M::Rdseed => (Open::Noise, "random numbers of the host"),
        M::Rdtsc | M::Rdtscp => (Open::Noise, "the host's clock"),
        M::Rdpid => (Open::Noise, "the host's processor number"),
        M::Rdpmc => (Open::Noise, "the host's counters"),
        M::Bsf | M::Bsr => (Open::Value, "the result for 0, and flags"),
        M::Tzcnt | M::Lzcnt => (Open::Value, "BSF or BSR on older processors, and flags"),
        M::Bswap if words => (Open::Value, "the result for 16 bits"),
        M::Shld | M::Shrd if words => (Open::Value, "the result of counts above 16, and flags"),
        M::Lar => (Open::Value, "bits 16 to 19"),
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss => (Open::Value, "the last bits of an approximation"),
        M::Fsin | M::Fcos | M::Fsincos | M::Fptan | M::Fpatan | M::F2xm1 | M::Fyl2x | M::Fyl2xp1 => {
            (Open::Value, "the last bits, and C1")
        }
        M::Fxsave | M::Fxsave64 => (Open::Value, "reserved fields"),
        M::Fnsave | M::Fnstenv | M::Fsave | M::Fstenv => {
            (Open::Value, "the last x87 instruction and its operand")
        }
        M::Shl | M::Shr | M::Sar | M::Sal if !by_one(instruction) => (Open::Flags, shift),
        M::Shl | M::Shr | M::Sar | M::Sal => (Open::Flags, "AF"),
        M::Shld | M::Shrd => (Open::Flags, shift),
        M::Rol | M::Ror | M::Rcl | M::Rcr if !by_one(instruction) => (Open::Flags, "OF with counts above 1"),
        M::Mul | M::Imul => (Open::Flags, "SF, ZF, AF and PF"),
        M::Div | M::Idiv => (Open::Flags, "all arithmetic flags"),
        M::Bt | M::Bts | M::Btr | M::Btc => (Open::Flags, "OF, SF, AF and PF"),
        M::And | M::Or | M::Xor | M::Test => (Open::Flags, "AF"),
        M::Aaa | M::Aas | M::Aad | M::Aam | M::Daa | M::Das => {
            (Open::Flags, "the flags of decimal arithmetic")
        }
        _ => return None,
    })
}

/// A shift by the constant 1.
fn by_one(instruction: &Instruction) -> bool {
    instruction.op_count() == 2
        && instruction.op_kind(1) != OpKind::Register
        && instruction.try_immediate(1).is_ok_and(|count| count == 1)
}

/// True if `instruction` leaves no open flag behind that an earlier one has left: it writes all of them.
pub fn settles_flags(instruction: &Instruction) -> bool {
    const ARITHMETIC: u32 =
        RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;
    let definite = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
    definite & ARITHMETIC == ARITHMETIC
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    fn of(bytes: &[u8]) -> Option<(Open, &'static str)> {
        look(&Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode())
    }

    #[test]
    fn open_results_are_known() {
        let kind = |bytes: &[u8]| of(bytes).map(|(kind, _)| kind);
        assert_eq!(kind(&[0x0f, 0xc7, 0xf0]), Some(Open::Noise), "rdrand eax");
        assert_eq!(kind(&[0x0f, 0x31]), Some(Open::Noise), "rdtsc");
        assert_eq!(kind(&[0x0f, 0xbc, 0xc1]), Some(Open::Value), "bsf eax, ecx");
        assert_eq!(kind(&[0x66, 0x0f, 0xa4, 0xc8, 20]), Some(Open::Value), "shld ax, cx, 20");
        assert_eq!(kind(&[0x0f, 0xa4, 0xc8, 20]), Some(Open::Flags), "shld eax, ecx, 20");
        assert_eq!(kind(&[0x66, 0x0f, 0xc8]), Some(Open::Value), "bswap ax");
        assert_eq!(kind(&[0x0f, 0xc8]), None, "bswap eax");
        assert_eq!(kind(&[0xd9, 0xfe]), Some(Open::Value), "fsin");
        assert_eq!(of(&[0xd1, 0xe0]), Some((Open::Flags, "AF")), "shl eax, 1");
        assert!(of(&[0xc1, 0xe0, 3]).unwrap().1.starts_with("OF"), "shl eax, 3");
        assert_eq!(kind(&[0xd1, 0xc0]), None, "rol eax, 1");
        assert_eq!(kind(&[0x01, 0xc8]), None, "add eax, ecx");
    }

    #[test]
    fn a_sum_settles_flags_and_a_product_does_not() {
        let settles =
            |bytes: &[u8]| settles_flags(&Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode());
        assert!(settles(&[0x01, 0xc8]), "add eax, ecx");
        assert!(!settles(&[0xf7, 0xe1]), "mul ecx");
        assert!(!settles(&[0xff, 0xc0]), "inc eax leaves CF");
    }
}
