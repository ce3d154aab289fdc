//! x87.
//!
//! [`round`] is the core: everything is computed exactly or with a sticky bit, and rounded once. Nothing depends on the
//! host's floating point.
//!
//! Where manuals leave results open they are Zen's (all of it compared with a Zen 5), with either behaviour:
//! - A single or double FLD of a denormal pushes it even if DE is not masked.
//! - Division by 0 and stores of singles and doubles never raise DE; stores that OE or UE prevent raise nothing else.
//! - FCOMI and its like set RFLAGS even if IE or DE is not masked, and leave C1 alone, as FCMOVcc does; other
//!   instructions clear it.
//! - FSCALE beyond what unmasked OE and UE adjust gives infinity with C1, or 0.
//! - FPREM and FPREM1 without a quotient (NaN, invalid, stack fault) clear C2 and keep C0 and C3; a partial step takes 32
//!   to 63 bits of the quotient, so that the distance that remains is a multiple of 32.
//! - Aliases: FSTPNCE (D9 D8) of an empty register only pops; FFREEP (DF C0), FSTP (DF D0, DF D8), FXCH (DD C8, DF C8),
//!   FCOM (DC D0, DC D8, DE D0) are what they are called.
//! - FBLD: a digit above 9 counts what it is. F2XM1 above 1 and FYL2XP1 of -1 and less return ST(0), with PE.
//!
//! QEMU's emulated processor is not imitated where it differs; it computes FSIN, FCOS, FSINCOS and FPTAN in doubles.

mod arithmetic;
mod control;
mod convert;
mod extended;
mod memory;
mod register;
mod remainder;
mod round;
mod stack;
#[cfg(test)]
mod tests;
mod transcendental;

use iced_x86::{Code, Instruction, OpKind};

use crate::lower::{Choice, Context};
use crate::op::{Handler, Op};
use arithmetic::Binary;
use memory::{IntegerSource, RealSource, Source};
use register::{QUIET, TO_FLAGS};

/// What the handlers' `extra`, `size` (pops or format) say.
fn set(op: &mut Op, run: Handler, extra: u8, size: u8) -> Option<Handler> {
    op.extra = extra;
    op.size = size;
    Some(run)
}

pub(crate) fn lower(i: &Instruction, op: &mut Op, _: &Context) -> Option<Choice> {
    let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    let run = if memory {
        arithmetic_memory(i.code(), op).or_else(|| load_or_store(i.code(), op))
    } else {
        arithmetic(i.code(), op).or_else(|| on_stack(i.code(), op)).or_else(|| without_operand(i.code(), op))
    };
    Choice::on(run?)
}

fn with_source<S: Source>(op: &mut Op, kind: Binary) -> Option<Handler> {
    set(op, register::arithmetic_memory::<S>, kind as u8, 0)
}

fn compare_source<S: Source>(op: &mut Op, pops: u8) -> Option<Handler> {
    set(op, register::compare_memory::<S>, 0, pops)
}

fn arithmetic_memory(code: Code, op: &mut Op) -> Option<Handler> {
    use Binary as B;
    type Single = RealSource<u32>;
    type Double = RealSource<u64>;
    type Short = IntegerSource<u16>;
    type Long = IntegerSource<u32>;
    match code {
        Code::Fadd_m32fp => with_source::<Single>(op, B::Add),
        Code::Fmul_m32fp => with_source::<Single>(op, B::Mul),
        Code::Fcom_m32fp => compare_source::<Single>(op, 0),
        Code::Fcomp_m32fp => compare_source::<Single>(op, 1),
        Code::Fsub_m32fp => with_source::<Single>(op, B::Sub),
        Code::Fsubr_m32fp => with_source::<Single>(op, B::SubReverse),
        Code::Fdiv_m32fp => with_source::<Single>(op, B::Div),
        Code::Fdivr_m32fp => with_source::<Single>(op, B::DivReverse),
        Code::Fadd_m64fp => with_source::<Double>(op, B::Add),
        Code::Fmul_m64fp => with_source::<Double>(op, B::Mul),
        Code::Fcom_m64fp => compare_source::<Double>(op, 0),
        Code::Fcomp_m64fp => compare_source::<Double>(op, 1),
        Code::Fsub_m64fp => with_source::<Double>(op, B::Sub),
        Code::Fsubr_m64fp => with_source::<Double>(op, B::SubReverse),
        Code::Fdiv_m64fp => with_source::<Double>(op, B::Div),
        Code::Fdivr_m64fp => with_source::<Double>(op, B::DivReverse),
        Code::Fiadd_m16int => with_source::<Short>(op, B::Add),
        Code::Fimul_m16int => with_source::<Short>(op, B::Mul),
        Code::Ficom_m16int => compare_source::<Short>(op, 0),
        Code::Ficomp_m16int => compare_source::<Short>(op, 1),
        Code::Fisub_m16int => with_source::<Short>(op, B::Sub),
        Code::Fisubr_m16int => with_source::<Short>(op, B::SubReverse),
        Code::Fidiv_m16int => with_source::<Short>(op, B::Div),
        Code::Fidivr_m16int => with_source::<Short>(op, B::DivReverse),
        Code::Fiadd_m32int => with_source::<Long>(op, B::Add),
        Code::Fimul_m32int => with_source::<Long>(op, B::Mul),
        Code::Ficom_m32int => compare_source::<Long>(op, 0),
        Code::Ficomp_m32int => compare_source::<Long>(op, 1),
        Code::Fisub_m32int => with_source::<Long>(op, B::Sub),
        Code::Fisubr_m32int => with_source::<Long>(op, B::SubReverse),
        Code::Fidiv_m32int => with_source::<Long>(op, B::Div),
        Code::Fidivr_m32int => with_source::<Long>(op, B::DivReverse),
        _ => None,
    }
}

fn load_or_store(code: Code, op: &mut Op) -> Option<Handler> {
    let (run, size): (Handler, u8) = match code {
        Code::Fld_m32fp => (memory::fld::<u32>, 0),
        Code::Fld_m64fp => (memory::fld::<u64>, 0),
        Code::Fld_m80fp => (memory::fld_80, 0),
        Code::Fst_m32fp => (memory::fst::<u32>, 0),
        Code::Fstp_m32fp => (memory::fst::<u32>, 1),
        Code::Fst_m64fp => (memory::fst::<u64>, 0),
        Code::Fstp_m64fp => (memory::fst::<u64>, 1),
        Code::Fstp_m80fp => (memory::fstp_80, 1),
        Code::Fild_m16int => (memory::fild::<u16>, 0),
        Code::Fild_m32int => (memory::fild::<u32>, 0),
        Code::Fild_m64int => (memory::fild::<u64>, 0),
        Code::Fist_m16int => (memory::fist::<u16>, 0),
        Code::Fist_m32int => (memory::fist::<u32>, 0),
        Code::Fistp_m16int => (memory::fist::<u16>, 1),
        Code::Fistp_m32int => (memory::fist::<u32>, 1),
        Code::Fistp_m64int => (memory::fist::<u64>, 1),
        Code::Fisttp_m16int => (memory::fisttp::<u16>, 1),
        Code::Fisttp_m32int => (memory::fisttp::<u32>, 1),
        Code::Fisttp_m64int => (memory::fisttp::<u64>, 1),
        Code::Fbld_m80bcd => (memory::fbld, 0),
        Code::Fbstp_m80bcd => (memory::fbstp, 1),
        Code::Fldcw_m2byte => (control::fldcw, 0),
        Code::Fnstcw_m2byte => (control::fnstcw, 0),
        Code::Fnstsw_m2byte => (control::fnstsw, 0),
        Code::Fldenv_m14byte => (control::fldenv, 16),
        Code::Fldenv_m28byte => (control::fldenv, 32),
        Code::Fnstenv_m14byte => (control::fnstenv, 16),
        Code::Fnstenv_m28byte => (control::fnstenv, 32),
        Code::Frstor_m94byte => (control::frstor, 16),
        Code::Frstor_m108byte => (control::frstor, 32),
        Code::Fnsave_m94byte => (control::fnsave, 16),
        Code::Fnsave_m108byte => (control::fnsave, 32),
        _ => return None,
    };
    set(op, run, 0, size)
}

fn arithmetic(code: Code, op: &mut Op) -> Option<Handler> {
    use Binary as B;
    let (kind, pops) = match code {
        Code::Fadd_st0_sti | Code::Fadd_sti_st0 => (B::Add, 0),
        Code::Fmul_st0_sti | Code::Fmul_sti_st0 => (B::Mul, 0),
        Code::Fsub_st0_sti | Code::Fsub_sti_st0 => (B::Sub, 0),
        Code::Fsubr_st0_sti | Code::Fsubr_sti_st0 => (B::SubReverse, 0),
        Code::Fdiv_st0_sti | Code::Fdiv_sti_st0 => (B::Div, 0),
        Code::Fdivr_st0_sti | Code::Fdivr_sti_st0 => (B::DivReverse, 0),
        Code::Faddp_sti_st0 => (B::Add, 1),
        Code::Fmulp_sti_st0 => (B::Mul, 1),
        Code::Fsubp_sti_st0 => (B::Sub, 1),
        Code::Fsubrp_sti_st0 => (B::SubReverse, 1),
        Code::Fdivp_sti_st0 => (B::Div, 1),
        Code::Fdivrp_sti_st0 => (B::DivReverse, 1),
        _ => return None,
    };
    set(op, register::arithmetic, kind as u8, pops)
}

fn on_stack(code: Code, op: &mut Op) -> Option<Handler> {
    let (run, extra, pops): (Handler, u8, u8) = match code {
        Code::Fcom_st0_sti | Code::Fcom_st0_sti_DCD0 => (register::compare_registers, 0, 0),
        Code::Fcomp_st0_sti | Code::Fcomp_st0_sti_DCD8 | Code::Fcomp_st0_sti_DED0 => {
            (register::compare_registers, 0, 1)
        }
        Code::Fcompp => {
            op.src = 1;
            (register::compare_registers, 0, 2)
        }
        Code::Fucom_st0_sti => (register::compare_registers, QUIET, 0),
        Code::Fucomp_st0_sti => (register::compare_registers, QUIET, 1),
        Code::Fucompp => {
            op.src = 1;
            (register::compare_registers, QUIET, 2)
        }
        Code::Fcomi_st0_sti => (register::compare_registers, TO_FLAGS, 0),
        Code::Fcomip_st0_sti => (register::compare_registers, TO_FLAGS, 1),
        Code::Fucomi_st0_sti => (register::compare_registers, TO_FLAGS | QUIET, 0),
        Code::Fucomip_st0_sti => (register::compare_registers, TO_FLAGS | QUIET, 1),
        Code::Fld_sti => (register::fld_register, 0, 0),
        Code::Fst_sti => (register::fst_register, 0, 0),
        Code::Fstp_sti | Code::Fstp_sti_DFD0 | Code::Fstp_sti_DFD8 => (register::fst_register, 0, 1),
        Code::Fstpnce_sti => (register::fstpnce, 0, 1),
        Code::Fxch_st0_sti | Code::Fxch_st0_sti_DDC8 | Code::Fxch_st0_sti_DFC8 => (register::fxch, 0, 0),
        Code::Fcmovb_st0_sti => (register::fcmov, 0, 0),
        Code::Fcmove_st0_sti => (register::fcmov, 1, 0),
        Code::Fcmovbe_st0_sti => (register::fcmov, 2, 0),
        Code::Fcmovu_st0_sti => (register::fcmov, 3, 0),
        Code::Fcmovnb_st0_sti => (register::fcmov, 4, 0),
        Code::Fcmovne_st0_sti => (register::fcmov, 5, 0),
        Code::Fcmovnbe_st0_sti => (register::fcmov, 6, 0),
        Code::Fcmovnu_st0_sti => (register::fcmov, 7, 0),
        Code::Ffree_sti => (control::ffree, 0, 0),
        Code::Ffreep_sti => (control::ffree, 0, 1),
        _ => return None,
    };
    set(op, run, extra, pops)
}

fn without_operand(code: Code, op: &mut Op) -> Option<Handler> {
    let (run, extra): (Handler, u8) = match code {
        Code::Wait => (control::wait, 0),
        Code::Fnop => (control::fnop, 0),
        Code::Fneni | Code::Fndisi | Code::Fnsetpm => (control::nothing, 0),
        Code::Fninit => (control::fninit, 0),
        Code::Fnclex => (control::fnclex, 0),
        Code::Fnstsw_AX => (control::fnstsw_ax, 0),
        Code::Fincstp => (control::rotate, 1),
        Code::Fdecstp => (control::rotate, 7),
        Code::Fld1 => (register::constant, 0),
        Code::Fldl2t => (register::constant, 1),
        Code::Fldl2e => (register::constant, 2),
        Code::Fldpi => (register::constant, 3),
        Code::Fldlg2 => (register::constant, 4),
        Code::Fldln2 => (register::constant, 5),
        Code::Fldz => (register::constant, 6),
        Code::Fchs => (register::fchs, 0),
        Code::Fabs => (register::fabs, 0),
        Code::Ftst => (register::ftst, 0),
        Code::Fxam => (register::fxam, 0),
        Code::Fsin => (transcendental::sine_or_cosine, 0),
        Code::Fcos => (transcendental::sine_or_cosine, 1),
        Code::Fsincos => (transcendental::two_results, 0),
        Code::Fptan => (transcendental::two_results, 1),
        Code::Fpatan => (transcendental::fpatan, 0),
        Code::F2xm1 => (transcendental::f2xm1, 0),
        Code::Fyl2x => (transcendental::fyl2x, 0),
        Code::Fyl2xp1 => (transcendental::fyl2xp1, 0),
        Code::Fprem => (remainder::fprem, 0),
        Code::Fprem1 => (remainder::fprem, 1),
        Code::Fscale => (remainder::fscale, 0),
        Code::Fxtract => (remainder::fxtract, 0),
        Code::Fsqrt => (register::fsqrt, 0),
        Code::Frndint => (register::frndint, 0),
        _ => return None,
    };
    set(op, run, extra, 0)
}
