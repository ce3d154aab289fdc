//! Tables as scripts/kallsyms.c writes them, small.

use proptest::prelude::*;

use super::*;
use crate::engine::cpu::DescriptorTable;
use crate::machine::memory::GuestRam;

/// The kernel is here, in one page of 2 MiB, at guest physical [`RAM`].
const KERNEL: u64 = 0xffff_ffff_8100_0000;
const RAM: u64 = 0x20_0000;
/// The table is here in it.
const TABLE: u64 = 0x10_0000;
const SYSCALL: u64 = KERNEL + 0x40;

/// Names with their types; number `n` is at `KERNEL + 0x40 * (n + 1)`.
fn names(count: usize) -> Vec<String> {
    let first = ["Tentry_SYSCALL_64", "Tasm_exc_divide_error", "Tasm_exc_invalid_op", "tlocal_function"];
    let others = (first.len()..count).map(|number| format!("tfunction_{number}"));
    first.into_iter().map(String::from).chain(others).collect()
}

struct Table {
    bytes: Vec<u8>,
}

impl Table {
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    fn offsets(&mut self, names: &[String], negative: bool) {
        for (number, name) in names.iter().enumerate() {
            let offset = u32::try_from(0x40 * (number + 1)).unwrap();
            // A variable of each processor's own is at a small number.
            let absolute = name.starts_with('D');
            let word = if absolute {
                0x28
            } else if negative {
                !offset
            } else {
                offset
            };
            self.bytes.extend(word.to_le_bytes());
        }
        self.align();
        self.bytes.extend(KERNEL.to_le_bytes());
    }

    /// Count, names, markers, tokens, index. Token 200 is `function_`, token 201 is not used.
    fn rest(&mut self, names: &[String], ordered: bool) {
        self.bytes.extend(u32::try_from(names.len()).unwrap().to_le_bytes());
        self.align();
        let begin = self.bytes.len();
        let mut markers = Vec::new();
        for (number, name) in names.iter().enumerate() {
            if number % BLOCK == 0 {
                markers.push(u32::try_from(self.bytes.len() - begin).unwrap());
            }
            let tokens = match name.split_once("function_") {
                Some((before, after)) => [before.as_bytes(), &[200], after.as_bytes()].concat(),
                None => name.as_bytes().to_vec(),
            };
            // The long form, now and then.
            match number {
                3 => self.bytes.extend([0x80 | u8::try_from(tokens.len()).unwrap(), 0]),
                _ => self.bytes.push(u8::try_from(tokens.len()).unwrap()),
            }
            self.bytes.extend(tokens);
        }
        self.align();
        markers.iter().for_each(|marker| self.bytes.extend(marker.to_le_bytes()));
        self.align();
        if ordered {
            self.bytes.extend((0..3 * names.len()).map(|byte| byte.to_le_bytes()[0]));
            self.align();
        }
        let begin = self.bytes.len();
        let mut index = Vec::new();
        for token in 0..=255_u8 {
            index.push(u16::try_from(self.bytes.len() - begin).unwrap());
            match token {
                200 => self.bytes.extend(b"function_"),
                b'!'..=b'~' => self.bytes.push(token),
                _ => {}
            }
            self.bytes.push(0);
        }
        self.align();
        index.iter().for_each(|offset| self.bytes.extend(offset.to_le_bytes()));
        self.align();
    }
}

/// How the parts lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// up to Linux 6.1
    Old,
    /// with the order of the names: 6.2 and 6.3, and Debian's 6.1
    Ordered,
    /// since 6.4
    New,
}

fn table(names: &[String], layout: Layout, negative: bool) -> Vec<u8> {
    let mut table = Table { bytes: Vec::new() };
    if layout == Layout::New {
        table.rest(names, false);
        table.offsets(names, negative);
    } else {
        table.offsets(names, negative);
        table.rest(names, layout == Layout::Ordered);
    }
    table.bytes
}

fn running(table: &[u8]) -> (CpuState, GuestRam) {
    let ram = GuestRam::new(8 << 20).unwrap();
    let put = |at: u64, word: u64| ram.write(at, &word.to_le_bytes()).unwrap();
    put(0x1000 + 511 * 8, 0x2003);
    put(0x2000 + 510 * 8, 0x3003);
    put(0x3000 + 8 * 8, RAM | 0x81);
    // A hole of 2 MiB, and something behind it.
    put(0x3000 + 10 * 8, 0x40_0000 | 0x81);
    ram.write(RAM + TABLE, table).unwrap();
    let idt = RAM + 0x1000;
    for (vector, handler) in [(0, KERNEL + 0x80), (6, KERNEL + 0xc0)] {
        put(idt + 16 * vector, handler & 0xffff | (handler & 0xffff_0000) << 32 | 0x8e00_0010_0000);
        put(idt + 16 * vector + 8, handler >> 32);
    }
    let state = CpuState {
        cr0: 1 << 31 | 1,
        cr3: 0x1000,
        cr4: 1 << 5,
        efer: 1 << 10,
        idt: DescriptorTable { base: KERNEL + 0x1000, limit: 0xfff },
        msrs: vec![(0xc000_0082, SYSCALL)],
        ..CpuState::default()
    };
    (state, ram)
}

fn found((state, ram): &(CpuState, GuestRam)) -> Option<Symbols> {
    read(state, &Virtual::new(state, ram))
}

#[test]
fn each_layout_is_read() {
    for count in [5, 256, 257, 700] {
        let names = names(count);
        let layouts = [Layout::Old, Layout::Ordered, Layout::New].into_iter();
        for (layout, negative) in layouts.flat_map(|layout| [(layout, false), (layout, true)]) {
            let symbols = found(&running(&table(&names, layout, negative)));
            let Some(symbols) = symbols else { panic!("{count} {layout:?} {negative}") };
            assert_eq!(symbols.len(), count);
            let at = |number: u64| symbols.lookup(KERNEL + 0x40 * (number + 1) + 3).unwrap().to_string();
            assert_eq!(at(3), "local_function+0x3/0x40");
            assert_eq!(symbols.addresses("entry_SYSCALL_64").next(), Some(SYSCALL));
            if count > 300 {
                assert_eq!(at(300), "function_300+0x3/0x40");
            }
        }
    }
}

#[test]
fn variables_of_processors_are_no_places() {
    let mut names = names(20);
    names[10] = "Dcurrent_task".into();
    let symbols = found(&running(&table(&names, Layout::New, true))).unwrap();
    assert_eq!((symbols.len(), symbols.addresses("current_task").count()), (19, 0));
}

#[test]
fn another_kernels_table_is_refused() {
    let good = table(&names(20), Layout::New, false);
    let (state, ram) = running(&good);
    let elsewhere = CpuState { msrs: vec![(0xc000_0082, SYSCALL + 0x20_0000)], ..state.clone() };
    assert!(found(&(elsewhere, ram.clone())).is_none());
    let before = CpuState { msrs: Vec::new(), ..state.clone() };
    assert!(found(&(before, ram.clone())).is_none());
    // No table, or one that ends in the midst.
    assert!(found(&running(&[])).is_none());
    assert!(found(&running(&good[..good.len() - 8])).is_none());
    assert!(found(&(state, ram)).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_damage_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        layout in prop::sample::select(vec![Layout::Old, Layout::Ordered, Layout::New]),
    ) {
        let mut table = table(&names(300), layout, false);
        for (at, value) in changes {
            let at = at.index(table.len());
            table[at] = value;
        }
        if let Some(symbols) = found(&running(&table)) {
            prop_assert_eq!(symbols.addresses("entry_SYSCALL_64").next(), Some(SYSCALL));
            prop_assert!(symbols.len() <= 512);
        }
    }
}
