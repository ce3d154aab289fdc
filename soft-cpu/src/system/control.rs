//! Control registers: MOV, SMSW, LMSW, CLTS, and what goes with paging: INVLPG, INVD, WBINVD.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::cpu::{
    ATTR_L, CR0_AM, CR0_CD, CR0_EM, CR0_ET, CR0_MP, CR0_NE, CR0_NW, CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_DE,
    CR4_MCE, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_PAE, CR4_PGE, CR4_PSE, CR4_PVI, CR4_SMAP, CR4_SMEP, CR4_TSD,
    CR4_VME, CS, Cpu, Done, EFER_LMA, EFER_LME,
};
use crate::lower::{Choice, Context};
use crate::op::{Handler, Op};
use crate::word::Word;

pub(crate) const CR0_KNOWN: u64 =
    CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;

const CR4_PCE: u64 = 1 << 8;

/// Also VME, PVI, MCE and PCE, which processors without the CPUID bits take from a guest, and do nothing here.
pub(crate) const CR4_KNOWN: u64 = CR4_VME
    | CR4_PVI
    | CR4_TSD
    | CR4_DE
    | CR4_PSE
    | CR4_PAE
    | CR4_MCE
    | CR4_PGE
    | CR4_PCE
    | CR4_OSFXSR
    | CR4_OSXMMEXCPT
    | CR4_SMEP
    | CR4_SMAP;

/// Bits of CR3 beyond the 40 physical address bits.
pub(crate) const CR3_RESERVED: u64 = !0xff_ffff_ffff;

pub(super) fn lower(i: &Instruction, op: &mut Op, _: &Context) -> Option<Choice> {
    match i.code() {
        Code::Mov_r32_cr | Code::Mov_r64_cr => {
            op.extra = known(i.op1_register().number())?;
            Choice::on(if i.code() == Code::Mov_r64_cr { read::<u64> } else { read::<u32> })
        }
        Code::Mov_cr_r32 | Code::Mov_cr_r64 => {
            op.extra = known(i.op0_register().number())?;
            Choice::last(if i.code() == Code::Mov_cr_r64 { write::<u64> } else { write::<u32> })
        }
        Code::Smsw_rm16 | Code::Smsw_r32m16 | Code::Smsw_r64m16 => {
            let run: Handler = match (i.op0_kind() == OpKind::Register, i.code()) {
                (false, _) => smsw_memory,
                (true, Code::Smsw_rm16) => smsw::<u16>,
                (true, Code::Smsw_r32m16) => smsw::<u32>,
                _ => smsw::<u64>,
            };
            Choice::on(run)
        }
        _ => match i.mnemonic() {
            Mnemonic::Lmsw => {
                Choice::last(if i.op0_kind() == OpKind::Register { lmsw::<true> } else { lmsw::<false> })
            }
            Mnemonic::Clts => Choice::last(clts),
            Mnemonic::Invlpg => Choice::last(invlpg),
            Mnemonic::Invd | Mnemonic::Wbinvd => Choice::on(flush_caches),
            _ => None,
        },
    }
}

fn known(number: usize) -> Option<u8> {
    matches!(number, 0 | 2 | 3 | 4 | 8).then_some(number as u8)
}

fn read<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_kernel()?;
    let value = match op.extra {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        _ => cpu.cr8,
    };
    cpu.set_reg(op.dst, W::cut(value));
    Ok(())
}

fn write<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_kernel()?;
    let value = cpu.reg::<W>(op.src).wide();
    match op.extra {
        0 => return cpu.write_cr0(value),
        2 => cpu.cr2 = value,
        3 => return cpu.write_cr3(value),
        4 => return cpu.write_cr4(value),
        _ if value > 15 => return Err(cpu.general_protection()),
        _ => cpu.cr8 = value,
    }
    Ok(())
}

impl Cpu {
    fn write_cr0(&mut self, value: u64) -> Done {
        let long = self.in_long_mode();
        let paging = value & CR0_PG != 0;
        let impossible = (paging && value & CR0_PE == 0) || (value & CR0_NW != 0 && value & CR0_CD == 0);
        if value >> 32 != 0 || impossible || (!paging && self.is_long()) {
            return Err(self.general_protection());
        }
        let mut efer = self.efer;
        if paging && self.cr0 & CR0_PG == 0 && efer & EFER_LME != 0 {
            if self.cr4 & CR4_PAE == 0 || self.segs[CS].attributes & ATTR_L != 0 {
                return Err(self.general_protection());
            }
            efer |= EFER_LMA;
        }
        if !paging && long {
            efer &= !EFER_LMA;
        }
        if paging && self.cr0 & CR0_PG == 0 && efer & EFER_LMA == 0 {
            self.check_pointer_table(self.cr3)?;
        }
        self.efer = efer;
        self.cr0 = value & CR0_KNOWN | CR0_ET;
        self.update_mode();
        Ok(())
    }

    /// #GP if an entry of PAE's page-directory-pointer table at `root` has reserved bits set (Intel SDM vol. 3, 5.4.1).
    fn check_pointer_table(&mut self, root: u64) -> Done {
        if self.cr4 & CR4_PAE != 0 && self.mmu.has_bad_pointers(root) {
            return Err(self.general_protection());
        }
        Ok(())
    }

    fn write_cr3(&mut self, value: u64) -> Done {
        if self.in_long_mode() && value & CR3_RESERVED != 0 {
            return Err(self.general_protection());
        }
        if self.cr0 & CR0_PG != 0 && !self.in_long_mode() {
            self.check_pointer_table(value)?;
        }
        self.cr3 = value;
        self.mmu.flush();
        self.update_mode();
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Done {
        if value & !CR4_KNOWN != 0 || (value & CR4_PAE == 0 && self.in_long_mode()) {
            return Err(self.general_protection());
        }
        self.cr4 = value;
        self.update_mode();
        Ok(())
    }
}

fn smsw<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.set_reg(op.dst, W::cut(cpu.cr0));
    Ok(())
}

fn smsw_memory(cpu: &mut Cpu, op: &Op) -> Done {
    let low = cpu.cr0 as u16;
    cpu.write_mem(op, low)
}

/// Sets PE, MP, EM, TS; PE is never cleared.
fn lmsw<const REGISTER: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_kernel()?;
    let value: u16 = if REGISTER { cpu.reg(op.dst) } else { cpu.read_mem(op)? };
    let keep = cpu.cr0 & !(CR0_MP | CR0_EM | CR0_TS);
    cpu.write_cr0(keep | u64::from(value) & 0xf)
}

fn clts(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_kernel()?;
    cpu.cr0 &= !CR0_TS;
    Ok(())
}

fn invlpg(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_kernel()?;
    let linear = cpu.segs[usize::from(op.seg & 7)].base.wrapping_add(op.offset(cpu));
    cpu.mmu.invalidate_page(linear);
    Ok(())
}

fn flush_caches(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_kernel()
}
