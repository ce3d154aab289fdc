//! A table of symbols, out of an ELF symbol table or a `System.map`.

use std::fmt;

use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, SectionHeader, Sym};
use object::{Endianness, SectionIndex};

/// Most symbols read of one file: some ten times what a distribution's kernel has.
pub const MAX_SYMBOLS: usize = 2 << 20;
/// Longest name, in bytes. Linux has KSYM_NAME_LEN = 512.
pub const MAX_NAME: usize = 512;
/// Most bytes of all names.
const MAX_NAMES: usize = 64 << 20;
/// Where a 64-bit kernel begins: the upper half. What is below is no address but an offset or a constant.
pub const UPPER_HALF: u64 = 0xffff_8000_0000_0000;

/// Addresses with names, for as many of them as a file has.
#[derive(Debug, Clone, Default)]
pub struct Symbols {
    /// by address, and at one address the name that says most first
    entries: Vec<Entry>,
    names: String,
    /// added to the file's addresses
    slide: u64,
    source: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    address: u64,
    /// where in `names`
    name: (u32, u16),
    /// code, not data
    code: bool,
    /// among several names of one address the least says most
    rank: u8,
}

/// An address by its symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// the symbol's name
    pub name: &'a str,
    /// its address
    pub start: u64,
    /// bytes to the next symbol
    pub size: u64,
    /// bytes from its address to the one asked for
    pub offset: u64,
}

/// As Linux writes it: `do_idle+0x5a/0x120`.
impl fmt::Display for Symbol<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}/{:#x}", self.name, self.offset, self.size)
    }
}

impl Symbols {
    /// The symbol table of an x86-64 ELF file; without symbols if it has none or is damaged. `source` says where they are
    /// from.
    pub fn of_elf(bytes: &[u8], source: &str) -> Self {
        let mut builder = Builder::default();
        // A damaged file has the symbols that were read before the damage was seen: there are checks against wrong ones.
        let _ = read_elf(bytes, &mut builder);
        builder.finish(source)
    }

    /// The lines of a `System.map`: address, type and name. Lines that are none are skipped.
    pub fn of_map(bytes: &[u8], source: &str) -> Self {
        let mut builder = Builder::default();
        for line in bytes.split(|byte| *byte == b'\n') {
            let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
            let fields = [fields.next(), fields.next(), fields.next(), fields.next()];
            let [Some(address), Some([kind]), Some(name), None] = fields else { continue };
            let Some(address) = hexadecimal(address) else { continue };
            builder.add_typed(address, name, *kind);
        }
        builder.finish(source)
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where they are from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The same for a kernel that was moved by `slide` bytes.
    #[must_use]
    pub fn moved(mut self, slide: u64) -> Self {
        self.slide = slide;
        self
    }

    /// True if the kernel runs where the symbols say.
    pub(super) fn is_unmoved(&self) -> bool {
        self.slide == 0
    }

    /// The symbol that `address` is in.
    pub fn lookup(&self, address: u64) -> Option<Symbol<'_>> {
        self.find(address).map(|(symbol, _)| symbol)
    }

    /// The function that `address` is in.
    pub fn function(&self, address: u64) -> Option<Symbol<'_>> {
        self.find(address).filter(|(_, code)| *code).map(|(symbol, _)| symbol)
    }

    /// True if `address` is in code, as far as the symbols know.
    pub fn is_code(&self, address: u64) -> bool {
        self.function(address).is_some()
    }

    fn find(&self, address: u64) -> Option<(Symbol<'_>, bool)> {
        let linked = address.wrapping_sub(self.slide);
        let next = self.entries.partition_point(|entry| entry.address <= linked);
        let start = self.entries.get(next.checked_sub(1)?)?.address;
        let first = self.entries.partition_point(|entry| entry.address < start);
        // Behind the last symbol nobody knows what there is.
        let end = self.entries.get(next).map(|entry| entry.address).or((linked == start).then_some(start))?;
        let entry = self.entries.get(first)?;
        let symbol = Symbol {
            name: self.name(entry),
            start: start.wrapping_add(self.slide),
            size: end - start,
            offset: linked - start,
        };
        Some((symbol, entry.code))
    }

    /// All of them, by address; of those at one address the one that says most first.
    pub fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        self.entries.iter().map(|entry| {
            let start = entry.address.wrapping_add(self.slide);
            Symbol {
                name: self.name(entry),
                start,
                size: self.lookup(start).map_or(0, |symbol| symbol.size),
                offset: 0,
            }
        })
    }

    /// Addresses of all symbols of this name.
    pub fn addresses<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u64> + 'a {
        let named = self.entries.iter().filter(move |entry| self.name(entry) == name);
        named.map(|entry| entry.address.wrapping_add(self.slide))
    }

    fn name(&self, entry: &Entry) -> &str {
        let (start, length) = (entry.name.0 as usize, usize::from(entry.name.1));
        self.names.get(start..start + length).unwrap_or_default()
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A table that is being read.
#[derive(Default)]
pub(super) struct Builder {
    entries: Vec<Entry>,
    names: String,
}

impl Builder {
    /// Notes a symbol, unless it says nothing of where something is in a kernel.
    pub(super) fn add(&mut self, address: u64, name: &[u8], code: bool, rank: u8) {
        let printable = !name.is_empty() && name.len() <= MAX_NAME && name.iter().all(u8::is_ascii_graphic);
        let room = self.entries.len() < MAX_SYMBOLS && self.names.len() + name.len() <= MAX_NAMES;
        if address < UPPER_HALF || !printable || !room {
            return;
        }
        let (Ok(name), Ok(start), Ok(length)) =
            (std::str::from_utf8(name), u32::try_from(self.names.len()), u16::try_from(name.len()))
        else {
            return;
        };
        self.names.push_str(name);
        self.entries.push(Entry { address, name: (start, length), code, rank });
    }

    /// Notes a symbol with the type that nm gives it, unless it is of a type that is no place in a kernel.
    pub(super) fn add_typed(&mut self, address: u64, name: &[u8], kind: u8) {
        let code = matches!(kind, b't' | b'T' | b'w' | b'W');
        if code || matches!(kind, b'b' | b'B' | b'd' | b'D' | b'r' | b'R' | b'v' | b'V') {
            self.add(address, name, code, u8::from(!kind.is_ascii_uppercase()));
        }
    }

    /// The table, from where `source` says.
    pub(super) fn finish(self, source: &str) -> Symbols {
        let mut symbols =
            Symbols { entries: Vec::new(), names: self.names, slide: 0, source: source.to_owned() };
        let mut entries = self.entries;
        // `_text`, `_stext` and `startup_64` are one address: code before data, functions before labels, and names that
        // need no underscores before those that do.
        entries.sort_by(|a, b| {
            let key = |entry: &Entry| {
                let name = symbols.name(entry);
                let underscores = name.bytes().take_while(|byte| *byte == b'_').count();
                (entry.address, !entry.code, entry.rank, underscores, name.len())
            };
            key(a).cmp(&key(b)).then_with(|| symbols.name(a).cmp(symbols.name(b)))
        });
        entries.dedup_by(|a, b| a.address == b.address && symbols.name(a) == symbols.name(b));
        symbols.entries = entries;
        symbols
    }
}

fn read_elf(bytes: &[u8], builder: &mut Builder) -> object::read::Result<()> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    if header.e_machine(endian) != elf::EM_X86_64 {
        return Ok(());
    }
    let sections = header.sections(endian, bytes)?;
    let table = sections.symbols(endian, bytes, elf::SHT_SYMTAB)?;
    for symbol in table.iter() {
        let kind = symbol.st_type();
        if matches!(kind, elf::STT_FILE | elf::STT_SECTION | elf::STT_TLS) {
            continue;
        }
        // Undefined and absolute ones are in no section.
        let index = SectionIndex(usize::from(symbol.st_shndx(endian).0));
        let Ok(section) = sections.section(index) else { continue };
        let code = section.sh_flags(endian).0 & elf::SHF_EXECINSTR.0 != 0;
        let Ok(name) = symbol.name(endian, table.strings()) else { continue };
        let label = kind != elf::STT_FUNC && kind != elf::STT_OBJECT;
        let local = symbol.st_bind() == elf::STB_LOCAL;
        builder.add(symbol.st_value(endian), name, code, 2 * u8::from(label) + u8::from(local));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAP: &[u8] = b"0000000000000000 D __per_cpu_start\n\
        ffffffff81000000 T _stext\nffffffff81000000 T _text\nffffffff81000000 T startup_64\n\
        ffffffff81000040 t secret\x1b[31m\n\
        ffffffff81000100 T do_idle\nffffffff81000220 t __pfx_helper\nffffffff81000230 t helper\n\
        ffffffff81000230 r also_here\nffffffff81800000 R _etext_or_so\n\
        ffffffffffffffff B The real System.map is in another package\nnonsense\n\n";

    #[test]
    fn addresses_have_the_name_that_says_most() {
        let symbols = Symbols::of_map(MAP, "/boot/System.map");
        let text = |address| symbols.lookup(address).map(|symbol| symbol.to_string());
        assert_eq!(text(0xffff_ffff_8100_015a).unwrap(), "do_idle+0x5a/0x120");
        assert_eq!(text(0xffff_ffff_8100_0000).unwrap(), "startup_64+0x0/0x100");
        assert_eq!(text(0xffff_ffff_8100_0231).unwrap(), "helper+0x1/0x7ffdd0");
        assert_eq!(text(0xffff_ffff_8180_0000).unwrap(), "_etext_or_so+0x0/0x0");
        assert_eq!(text(0xffff_ffff_8180_0001), None);
        assert_eq!((text(0), text(u64::MAX), text(0xffff_ffff_80ff_ffff)), (None, None, None));
        assert!(symbols.is_code(0xffff_ffff_8100_0230) && !symbols.is_code(0xffff_ffff_8180_0000));
        assert_eq!(symbols.len(), 8);
        assert_eq!(symbols.source(), "/boot/System.map");
    }

    #[test]
    fn a_moved_kernel_has_its_symbols_with_it() {
        let symbols = Symbols::of_map(MAP, "").moved(0x1e00_0000);
        let symbol = symbols.lookup(0xffff_ffff_9f00_0101).unwrap();
        assert_eq!((symbol.name, symbol.start, symbol.offset), ("do_idle", 0xffff_ffff_9f00_0100, 1));
        assert_eq!(symbols.addresses("helper").collect::<Vec<_>>(), [0xffff_ffff_9f00_0230]);
        assert_eq!(symbols.lookup(0xffff_ffff_8100_0101), None);
        let down = Symbols::of_map(MAP, "").moved(0x20_0000_u64.wrapping_neg());
        assert_eq!(down.lookup(0xffff_ffff_80e0_0102).unwrap().offset, 2);
    }

    #[test]
    fn what_is_no_symbol_table_has_no_symbols() {
        for bytes in
            [&b""[..], b"\x7fELF", &[0; 64], b"ffffffffffffffff B The real System.map is elsewhere\n"]
        {
            assert!(Symbols::of_elf(bytes, "").is_empty());
            assert!(Symbols::of_map(bytes, "").is_empty());
        }
    }

    /// The smallest ELF file with a symbol table: sections null, text, symbols, strings.
    pub(crate) fn tiny_elf() -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[6] = 1;
        let put =
            |file: &mut Vec<u8>, at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(&mut file, 16, &2_u16.to_le_bytes());
        put(&mut file, 18, &62_u16.to_le_bytes());
        put(&mut file, 40, &64_u64.to_le_bytes());
        put(&mut file, 58, &64_u16.to_le_bytes());
        put(&mut file, 60, &4_u16.to_le_bytes());
        put(&mut file, 62, &3_u16.to_le_bytes());
        let strings = b"\0main\0label\0absolute\0data\0";
        let symbols: [(u32, u8, u16, u64); 5] = [
            (0, 0, 0, 0),
            (6, 0, 1, 0xffff_ffff_8100_0000),    // label: no type, local
            (1, 0x12, 1, 0xffff_ffff_8100_0000), // main: function, global
            (12, 0x10, 0xfff1, 0xffff_ffff_8100_0010),
            (21, 0x11, 3, 0xffff_ffff_8100_0080),
        ];
        let table: Vec<u8> = symbols
            .iter()
            .flat_map(|(name, info, section, value)| {
                let mut entry = name.to_le_bytes().to_vec();
                entry.extend([*info, 0]);
                entry.extend(section.to_le_bytes());
                entry.extend(value.to_le_bytes());
                entry.extend([0; 8]);
                entry
            })
            .collect();
        let at = 64 + 4 * 64;
        let section = |kind: u32, flags: u64, offset: usize, size: usize, link: u32, entry: u64| {
            let mut header = 0_u32.to_le_bytes().to_vec();
            header.extend(kind.to_le_bytes());
            header.extend(flags.to_le_bytes());
            header.extend(0_u64.to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            header.extend((size as u64).to_le_bytes());
            header.extend(link.to_le_bytes());
            header.extend(0_u32.to_le_bytes());
            header.extend(8_u64.to_le_bytes());
            header.extend(entry.to_le_bytes());
            header
        };
        file.extend(section(0, 0, 0, 0, 0, 0));
        file.extend(section(1, 6, at, 0, 0, 0));
        file.extend(section(2, 0, at, table.len(), 3, 24));
        file.extend(section(3, 0, at + table.len(), strings.len(), 0, 0));
        file.extend(table);
        file.extend(strings);
        file
    }

    #[test]
    fn an_elf_symbol_table_is_read() {
        let symbols = Symbols::of_elf(&tiny_elf(), "vmlinux");
        assert_eq!(symbols.lookup(0xffff_ffff_8100_0007).unwrap().to_string(), "main+0x7/0x80");
        assert_eq!(symbols.addresses("label").count(), 1);
        assert_eq!(symbols.addresses("absolute").count(), 0);
        assert!(!symbols.is_code(0xffff_ffff_8100_0080));
    }

    proptest! {
        #[test]
        fn damaged_files_do_no_harm(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
            address in any::<u64>(),
        ) {
            let mut file = tiny_elf();
            for (at, value) in &changes {
                let at = at.index(file.len());
                file[at] = *value;
            }
            let symbols = Symbols::of_elf(&file, "");
            let _ = symbols.lookup(address).map(|symbol| symbol.to_string());
            file.truncate(cut.index(file.len()));
            let symbols = Symbols::of_elf(&file, "");
            let _ = symbols.lookup(0xffff_ffff_8100_0000 | address & 0xff).map(|symbol| symbol.to_string());
            let mut map = MAP.to_vec();
            for (at, value) in &changes {
                let at = at.index(map.len());
                map[at] = *value;
            }
            let _ = Symbols::of_map(&map, "").moved(address).lookup(address);
            prop_assert!(Symbols::of_map(&file, "").len() <= file.len());
        }
    }
}
