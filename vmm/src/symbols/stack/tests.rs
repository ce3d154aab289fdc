//! Traces through a kernel that is made up instruction by instruction.

use iced_x86::code_asm::*;
use proptest::prelude::*;

use super::*;
use crate::engine::cpu::{Registers, Segment};

/// Kernel code from here on is at [`CODE_RAM`], its stack at [`STACK`] is at [`STACK_RAM`].
const CODE: u64 = 0xffff_ffff_8000_0000;
const CODE_RAM: u64 = 0x20_0000;
const STACK: u64 = 0xffff_ffff_8030_0000;
const STACK_RAM: u64 = 0x10_0000;
/// RSP is below this.
const TOP: u64 = STACK + STACK_BYTES;

/// A kernel whose functions call one another.
struct Kernel {
    ram: GuestRam,
    map: String,
    state: CpuState,
}

impl Kernel {
    fn new() -> Self {
        let ram = GuestRam::new(4 << 20).unwrap();
        let tables = [
            (0x1000 + 511 * 8, 0x2003_u64),
            (0x2000 + 510 * 8, 0x3003),
            (0x3000, CODE_RAM | 0x81),
            (0x3000 + 8, 1 << 63 | 0x83),
        ];
        for (at, entry) in tables {
            ram.write(at, &entry.to_le_bytes()).unwrap();
        }
        // STACK is the second large page, which begins at physical 0.
        let state = CpuState {
            cr0: 1 << 31 | 1,
            cr3: 0x1000,
            cr4: 1 << 5,
            efer: 1 << 10 | 1 << 11,
            segments: [Segment { selector: 0x10, attributes: CODE_64 | 0x9b, ..Segment::default() }; 8],
            ..CpuState::default()
        };
        Self { ram, map: String::new(), state }
    }

    /// Puts a function there; gives the address behind its last call.
    fn function(&mut self, at: u64, name: &str, emit: impl FnOnce(&mut CodeAssembler)) -> u64 {
        let mut code = CodeAssembler::new(64).unwrap();
        emit(&mut code);
        let bytes = code.assemble(CODE + at).unwrap();
        self.ram.write(CODE_RAM + at, &bytes).unwrap();
        self.map += &format!("{:x} t {name}\n", CODE + at);
        let decoder = iced_x86::Decoder::with_ip(64, &bytes, CODE + at, 0);
        let is_call = |found: &iced_x86::Instruction| {
            matches!(found.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
        };
        decoder.into_iter().filter(is_call).last().map_or(CODE + at, |call| call.next_ip())
    }

    /// Words of the stack, the last of them right below its end.
    fn stack(&mut self, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.ram.write(STACK_RAM + STACK_BYTES - bytes.len() as u64, &bytes).unwrap();
        self.state.registers.general[4] = TOP - bytes.len() as u64;
    }

    fn symbols(&self) -> Symbols {
        let map = format!("{}{:x} t end\n{:x} d data\n", self.map, CODE + 0x8000, CODE + 0x9000);
        Symbols::of_map(map.as_bytes(), "")
    }

    fn trace(&self, with_symbols: bool) -> Vec<String> {
        let symbols = self.symbols();
        let trace = trace(&self.state, &self.ram, with_symbols.then_some(&symbols));
        assert_eq!(trace.mode, Mode::Kernel);
        trace.frames.iter().map(ToString::to_string).collect()
    }
}

/// `outer` calls `inner` through a pointer, `inner` calls `leaf`; each has something on the stack, and there are return
/// addresses left over from before.
fn three() -> (Kernel, [u64; 3]) {
    let mut kernel = Kernel::new();
    kernel.function(0x100, "leaf", |a| {
        a.push(rbx).unwrap();
        a.sub(rsp, 16).unwrap();
        a.nop().unwrap();
        a.ret().unwrap();
    });
    let inner = kernel.function(0x200, "inner", |a| {
        a.push(r12).unwrap();
        a.call(CODE + 0x100).unwrap();
        a.ret().unwrap();
    });
    let outer = kernel.function(0x300, "outer", |a| {
        a.sub(rsp, 8).unwrap();
        a.call(rax).unwrap();
        a.ret().unwrap();
    });
    let old = kernel.function(0x400, "old", |a| {
        a.call(CODE + 0x100).unwrap();
        a.ret().unwrap();
    });
    kernel.state.registers.rip = CODE + 0x105;
    (kernel, [inner, outer, old])
}

#[test]
fn code_leads_past_what_is_left_over() {
    let (mut kernel, [inner, outer, old]) = three();
    // Two words of leaf's own, and what it has saved.
    kernel.stack(&[old, old, 1, inner, old, outer, 0, CODE + 0x7000]);
    let lines = kernel.trace(true);
    assert_eq!(lines, ["  leaf+0x5/0x100", "  inner+0x7/0x100", "  outer+0x6/0x100"]);
}

#[test]
fn what_was_only_looked_for_has_a_mark() {
    let (mut kernel, [inner, outer, old]) = three();
    kernel.stack(&[old, old, 1, inner, old, outer, old]);
    let lines = kernel.trace(false);
    let text = |mark: &str, address: u64| format!("{mark} {address:#018x}");
    let expected = [
        text(" ", CODE + 0x105),
        text("?", old),
        text("?", old),
        text("?", inner),
        text("?", old),
        text("?", outer),
    ];
    assert_eq!(lines[..6], expected);
    // The code of leaf is not what leads to a return address: what is on the stack has to.
    kernel.stack(&[1, 2, 3, 4, inner, 5, outer, 0]);
    assert_eq!(kernel.trace(true), ["  leaf+0x5/0x100", "? inner+0x7/0x100", "? outer+0x6/0x100"]);
}

#[test]
fn frame_pointers_lead_without_symbols() {
    let (mut kernel, [inner, outer, old]) = three();
    kernel.stack(&[old, TOP - 16, inner, old, 0, outer]);
    kernel.state.registers.general[5] = TOP - 40;
    let lines = kernel.trace(false);
    assert_eq!(lines[1..], [format!("  {inner:#018x}"), format!("  {outer:#018x}")]);
    // Not if they lead nowhere.
    kernel.state.registers.general[5] = TOP - 48;
    assert_eq!(kernel.trace(false)[1], format!("? {old:#018x}"));
}

/// What an interrupt or a system call saves: `struct pt_regs`.
fn saved(instruction: u64, code: u64, stack: u64, segment: u64) -> Vec<u64> {
    let mut words = vec![0; 16];
    words.extend([instruction, code, 0x246, stack, segment]);
    words
}

#[test]
fn an_interrupt_leads_to_where_it_came() {
    let (mut kernel, [inner, outer, _]) = three();
    let handler = kernel.function(0x500, "asm_common_interrupt", |a| {
        a.call(CODE + 0x100).unwrap();
    });
    let system_call = kernel.function(0x600, "entry_SYSCALL_64_after_hwframe", |a| {
        a.call(CODE + 0x300).unwrap();
    });
    let mut words = vec![0, 0, 0, handler];
    words.extend(saved(CODE + 0x202, 0x10, TOP - 8 * (21 + 4), 0x18));
    words.extend([7, outer, 0, system_call]);
    words.extend(saved(0x40_1234, 0x33, 0x7ffe_0000, 0x2b));
    kernel.stack(&words);
    let lines = kernel.trace(true);
    let _ = inner;
    assert_eq!(
        lines,
        [
            "  leaf+0x5/0x100",
            "  asm_common_interrupt+0x5/0x100",
            "  -- interrupted --",
            "  inner+0x2/0x100",
            "  outer+0x6/0x100",
            "  entry_SYSCALL_64_after_hwframe+0x5/0x7a00",
            "  -- entered from a program: rip 0x401234, rsp 0x7ffe0000 --"
        ]
    );
}

#[test]
fn what_is_being_saved_is_found_too() {
    let (mut kernel, _) = three();
    kernel.function(0x500, "__entry_text_start", |_| {});
    let entry = kernel.function(0x500, "asm_common_interrupt", |a| {
        a.call(CODE + 0x580).unwrap();
    });
    kernel.function(0x580, "error_entry", |a| {
        a.push(rsi).unwrap();
        a.mov(rsi, qword_ptr(rsp) + 8).unwrap();
        a.mov(qword_ptr(rsp) + 8, rdi).unwrap();
        a.push(rdx).unwrap();
        a.lea(rax, qword_ptr(rsp) + 8).unwrap();
        a.ret().unwrap();
    });
    kernel.function(0x600, "__entry_text_end", |_| {});
    let frame = [CODE + 0x202, 0x10, 0x246, TOP - 8, 0x18];
    let ends = ["  -- interrupted --", "  inner+0x2/0x100"];
    // Before and after the call, and in what it calls.
    kernel.state.registers.rip = CODE + 0x500;
    kernel.stack(&[&[0x30], &frame[..]].concat());
    assert_eq!(kernel.trace(true)[1..], ends);
    kernel.state.registers.rip = CODE + 0x581;
    kernel.stack(&[&[1, entry, 0x30], &frame[..]].concat());
    let lines = kernel.trace(true);
    assert_eq!(lines[..2], ["  error_entry+0x1/0x80", "  asm_common_interrupt+0x5/0x80"]);
    assert_eq!(lines[2..], ends);
}

#[test]
fn a_system_call_that_has_just_begun_says_who_made_it() {
    let (mut kernel, _) = three();
    kernel.function(0x500, "entry_SYSCALL_64", |a| {
        a.swapgs().unwrap();
    });
    kernel.function(0x600, "__entry_text_end", |_| {});
    kernel.map += &format!("{:x} t __entry_text_start\n", CODE + 0x500);
    kernel.state.registers.rip = CODE + 0x500;
    kernel.state.registers.general[1] = 0x40_1002;
    kernel.state.registers.general[4] = 0x7ffe_0000;
    let lines = kernel.trace(true);
    assert_eq!(lines[1..], ["  -- entered from a program: rip 0x401002, rsp 0x7ffe0000 --"]);
}

#[test]
fn a_kernel_thread_ends_where_it_began() {
    let (mut kernel, [_, outer, old]) = three();
    let began = kernel.function(0x500, "ret_from_fork_asm", |a| {
        a.call(CODE + 0x300).unwrap();
    });
    kernel.state.registers.rip = outer;
    let mut words = vec![0, began];
    words.extend([0; 21]);
    words.push(old);
    kernel.stack(&words);
    assert_eq!(kernel.trace(true), ["  outer+0x6/0x100", "  ret_from_fork_asm+0x5/0x7b00"]);
}

#[test]
fn code_of_the_start_that_was_freed_is_still_named() {
    let (mut kernel, [_, outer, old]) = three();
    // Only the symbols are left of it.
    kernel.function(0x500, "_sinittext", |_| {});
    kernel.function(0x510, "start_kernel", |_| {});
    kernel.function(0x600, "_einittext", |_| {});
    kernel.state.registers.rip = outer;
    kernel.stack(&[0, CODE + 0x520, old]);
    assert_eq!(kernel.trace(true), ["  outer+0x6/0x100", "  start_kernel+0x10/0xf0"]);
}

#[test]
fn programs_and_early_code_have_no_trace() {
    let (mut kernel, _) = three();
    kernel.stack(&[0; 4]);
    kernel.state.segments[CS].selector = 0x33;
    let of = |state: &CpuState| trace(state, &kernel.ram, None);
    assert_eq!((of(&kernel.state).mode, of(&kernel.state).frames.len()), (Mode::User, 0));
    let early = CpuState { efer: 0, segments: [Segment::default(); 8], ..kernel.state.clone() };
    assert_eq!((of(&early).mode, of(&early).frames.len()), (Mode::Early, 0));
}

#[test]
fn a_circle_comes_to_an_end() {
    let (mut kernel, _) = three();
    let handler = kernel.function(0x500, "asm_common_interrupt", |a| {
        a.call(CODE + 0x100).unwrap();
    });
    let mut words = vec![0, 0, 0, handler];
    // The interrupted place is the one that it began with.
    words.extend(saved(CODE + 0x105, 0x10, TOP - 25 * 8, 0x18));
    kernel.stack(&words);
    let trace = trace(&kernel.state, &kernel.ram, Some(&kernel.symbols()));
    assert!(trace.cut && trace.frames.len() <= MAX_FRAMES + 1);
}

proptest! {
    #[test]
    fn any_memory_can_be_traced(
        words in prop::collection::vec((0_u64..0x8000, any::<u64>()), 0..200),
        code in prop::collection::vec(any::<u8>(), 0..4096),
        stack in prop::collection::vec((0_u64..0x900).prop_map(|at| CODE + at), 0..200),
        registers in any::<[u64; 16]>(),
        near in any::<bool>(),
    ) {
        let (mut kernel, _) = three();
        for name in ["asm_x", "entry_x", "x.cold", "x"] {
            kernel.map += &format!("{:x} t {name}\n", CODE + 0x500 + 0x40 * name.len() as u64);
        }
        kernel.ram.write(CODE_RAM + 0x500, &code).unwrap();
        kernel.stack(&stack);
        let mut general = registers;
        if near {
            general[4] = kernel.state.registers.general[4];
            general[5] = TOP - registers[5] % 0x1000;
        }
        kernel.state.registers = Registers { general, rip: CODE + registers[0] % 0x1000, rflags: 2 };
        for with_symbols in [false, true] {
            prop_assert!(kernel.trace(with_symbols).len() <= MAX_FRAMES + 1);
        }
        for (at, word) in words {
            kernel.ram.write(at, &word.to_le_bytes()).unwrap();
        }
        for with_symbols in [false, true] {
            prop_assert!(kernel.trace(with_symbols).len() <= MAX_FRAMES + 1);
        }
    }
}
