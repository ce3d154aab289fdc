//! Whether symbols are those of the kernel that runs, and how far it has moved itself (KASLR).
//!
//! A running Linux has told the processor where some of its functions are: where SYSCALL goes, and the handlers of the
//! exceptions. All of them must be as far from their symbols as the first, and that must be a distance that a kernel is moved
//! by. Symbols for which nothing of that can be seen yet are believed only if they are the running kernel's own.

use super::find::{Found, NoSymbols};
use super::paging::Virtual;
use super::table::{Symbols, UPPER_HALF};
use crate::engine::cpu::CpuState;

/// The MSR that holds where SYSCALL goes.
const LSTAR: u32 = 0xc000_0082;
/// What a kernel is moved by is a multiple of this: CONFIG_PHYSICAL_ALIGN is at least 2 MiB on x86-64.
const ALIGNMENT: u64 = 2 << 20;
/// Anchors that must agree for symbols from another file than the kernel's.
const ENOUGH: usize = 3;

/// What the names of an ELF kernel's first handlers begin with.
const EARLY: &str = "early_idt_handler";

/// Exceptions and their handlers, by the names of Linux since 5.8 and before.
const HANDLERS: [(u64, [&str; 2]); 6] = [
    (0, ["asm_exc_divide_error", "divide_error"]),
    (6, ["asm_exc_invalid_op", "invalid_op"]),
    (11, ["asm_exc_segment_not_present", "segment_not_present"]),
    (13, ["asm_exc_general_protection", "general_protection"]),
    (14, ["asm_exc_page_fault", "page_fault"]),
    (16, ["asm_exc_coprocessor_error", "coprocessor_error"]),
];

/// The symbols where the kernel runs that the processor in `state` is executing.
///
/// # Errors
/// They are another kernel's, or it cannot be told.
pub fn place(found: Found, state: &CpuState, memory: &Virtual<'_>) -> Result<Symbols, NoSymbols> {
    let Found { symbols, certain } = found;
    let foreign =
        |reason: String| Err(NoSymbols::Foreign { source_name: symbols.source().to_owned(), reason });
    let mut slide = None;
    let mut agree = 0;
    for (name, there) in anchors(&symbols, state, memory) {
        let fits = |distance: &u64| {
            let first = slide.is_none_or(|slide| slide == *distance);
            first && if certain { *distance == 0 } else { distance.is_multiple_of(ALIGNMENT) }
        };
        match symbols.addresses(name).map(|linked| there.wrapping_sub(linked)).find(fits) {
            Some(distance) => {
                slide = Some(distance);
                agree += 1;
            }
            // An ELF kernel that starts has its first handlers there.
            None if certain && symbols.function(there).is_some_and(|found| found.name.starts_with(EARLY)) => {
            }
            None => return foreign(format!("{name} is at {there:#x}")),
        }
    }
    match slide {
        _ if certain => Ok(symbols),
        Some(slide) if agree >= ENOUGH => Ok(symbols.moved(slide)),
        _ => foreign("it has not set up its entry points, or has none of these names".into()),
    }
}

/// Where SYSCALL goes, if that is in a kernel.
pub(super) fn system_call(state: &CpuState) -> Option<u64> {
    let lstar = state.msrs.iter().find(|(index, _)| *index == LSTAR).map(|(_, value)| *value);
    lstar.filter(|there| *there >= UPPER_HALF)
}

/// Functions that the processor knows, and where.
fn anchors(symbols: &Symbols, state: &CpuState, memory: &Virtual<'_>) -> Vec<(&'static str, u64)> {
    let mut anchors = vec![("entry_SYSCALL_64", system_call(state).unwrap_or_default())];
    anchors.retain(|(name, _)| symbols.addresses(name).next().is_some());
    for (vector, names) in HANDLERS {
        let known = names.into_iter().find(|name| symbols.addresses(name).next().is_some());
        if let (Some(name), Some(there)) = (known, gate(vector, state, memory)) {
            anchors.push((name, there));
        }
    }
    anchors.retain(|(_, there)| *there >= UPPER_HALF);
    anchors
}

/// Where the gate of `vector` goes (Intel SDM vol. 3, 6.14.1).
fn gate(vector: u64, state: &CpuState, memory: &Virtual<'_>) -> Option<u64> {
    let offset = vector * 16;
    (offset + 15 <= u64::from(state.idt.limit)).then_some(())?;
    let at = state.idt.base.checked_add(offset)?;
    let (low, high) = (memory.word(at)?, memory.word(at.checked_add(8)?)?);
    (low >> 47 & 1 == 1).then_some(low & 0xffff | low >> 32 & 0xffff_0000 | high << 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cpu::DescriptorTable;
    use crate::machine::memory::GuestRam;

    const SYSCALL: u64 = 0xffff_ffff_8160_0040;
    const HANDLER: u64 = 0xffff_ffff_8160_0800;
    const IDT: u64 = 0x10_0000;

    fn map() -> String {
        let mut map = format!("{SYSCALL:x} T entry_SYSCALL_64\nffffffff82000000 D end\n");
        for (vector, names) in HANDLERS {
            map += &format!("{:x} T {}\n", HANDLER + vector * 16, names[0]);
        }
        map
    }

    fn found(certain: bool) -> Found {
        Found { symbols: Symbols::of_map(map().as_bytes(), "/boot/System.map"), certain }
    }

    /// A kernel that was moved, with `gates` gates set up.
    fn running(slide: u64, gates: usize) -> (CpuState, GuestRam) {
        let ram = GuestRam::new(2 << 20).unwrap();
        let state = CpuState {
            idt: DescriptorTable { base: IDT, limit: 0xfff },
            msrs: vec![(LSTAR, SYSCALL.wrapping_add(slide))],
            ..CpuState::default()
        };
        for (vector, _) in &HANDLERS[..gates] {
            let there = HANDLER.wrapping_add(slide) + vector * 16;
            let low = there & 0xffff | (there & 0xffff_0000) << 32 | 0x8e00_0010_0000;
            ram.write(IDT + vector * 16, &low.to_le_bytes()).unwrap();
            ram.write(IDT + vector * 16 + 8, &(there >> 32).to_le_bytes()).unwrap();
        }
        (state, ram)
    }

    fn placed(found: Found, (state, ram): &(CpuState, GuestRam)) -> Result<u64, String> {
        let symbols = place(found, state, &Virtual::new(state, ram)).map_err(|error| error.to_string())?;
        let address = symbols.addresses("entry_SYSCALL_64").next().unwrap();
        Ok(address.wrapping_sub(SYSCALL))
    }

    #[test]
    fn a_moved_kernel_is_found_where_it_is() {
        for slide in [0, 0x1e00_0000, 0x80_0000_u64.wrapping_neg()] {
            assert_eq!(placed(found(false), &running(slide, 6)), Ok(slide));
        }
    }

    #[test]
    fn another_kernels_symbols_are_refused() {
        let error = placed(found(false), &running(0x1000, 6)).unwrap_err();
        assert!(error.contains("/boot/System.map does not fit"), "{error}");
        let (state, ram) = running(0, 6);
        // One of them is elsewhere.
        ram.write(IDT + 14 * 16, &0x8e00_0010_1234_u64.to_le_bytes()).unwrap();
        assert!(placed(found(false), &(state, ram)).is_err());
        assert!(placed(found(true), &running(ALIGNMENT, 6)).is_err(), "an ELF kernel is not moved");
        assert_eq!(placed(found(true), &running(0, 6)), Ok(0));
    }

    #[test]
    fn before_there_are_anchors_only_its_own_are_believed() {
        let (state, ram) = running(0, 0);
        let early = (CpuState { msrs: Vec::new(), ..state }, ram);
        assert_eq!(placed(found(true), &early), Ok(0));
        let (state, ram) = running(0, 0);
        let early_handler = format!("{}ffffffff81700000 t early_idt_handler_array\n", map());
        ram.write(IDT, &0x8170_8e00_0010_0009_u64.to_le_bytes()).unwrap();
        ram.write(IDT + 8, &0xffff_ffff_u64.to_le_bytes()).unwrap();
        let symbols = Symbols::of_map(early_handler.as_bytes(), "vmlinux");
        let starting = (state, ram);
        assert_eq!(placed(Found { symbols, certain: true }, &starting), Ok(0));
        assert!(placed(found(true), &starting).is_err());
        assert!(placed(found(false), &early).is_err());
        assert!(placed(found(false), &running(0, 1)).is_err());
        assert_eq!(placed(found(false), &running(0, 2)), Ok(0));
    }
}
