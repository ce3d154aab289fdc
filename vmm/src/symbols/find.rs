//! Where the symbols of a recording's kernel are: in the kernel itself, or in a file that belongs to it.

use std::path::Path;

use scribe_log::header::{BootFile, Header, Origin};

use super::table::Symbols;
use crate::machine::kernel::{self, Blob, Format, KernelError};

/// Longest `System.map` that is read, in bytes: those of distributions have some 10 MB.
const MAX_MAP: u64 = 64 << 20;
/// Longest kernel that is read for its symbols, in bytes.
const MAX_KERNEL: u64 = 1 << 30;

/// Symbols, and how far they are to be believed.
#[derive(Debug, Clone)]
pub struct Found {
    /// they are as linked, not yet where the kernel runs
    pub symbols: Symbols,
    /// they are the running kernel's own, at its own addresses: an ELF kernel is not moved when it is loaded
    pub certain: bool,
}

/// Why there are no symbols.
#[derive(Debug, thiserror::Error)]
pub enum NoSymbols {
    /// The kernel cannot be read any more.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// There is no file with symbols.
    #[error("{kernel} has no symbol table, and there is no {map} {place}")]
    NoFile {
        /// where the kernel is
        kernel: String,
        /// what was looked for
        map: String,
        /// where
        place: &'static str,
    },
    /// They do not belong to what runs.
    #[error("{source_name} does not fit the kernel that runs: {reason}")]
    Foreign {
        /// where they are from
        source_name: String,
        /// what does not fit
        reason: String,
    },
}

/// The symbols of the kernel that `header` names, whose files lie where it says: of the kernel's ELF symbol table, else of
/// `/boot/System.map` with the kernel's version, else of one without, in the disk image or, for a kernel of the host, beside
/// it. A kernel with debug information below `/usr/lib/debug` counts too.
///
/// # Errors
/// There are none, or the files cannot be read.
pub fn find(header: &Header) -> Result<Found, NoSymbols> {
    let own = &header.kernel;
    let image = header.image.as_ref().map(|image| image.path.as_path());
    let on_host = (own.origin == Origin::Host).then_some(own.path.as_path());
    let kernel = kernel::find(image, on_host, None)?.kernel;
    if let Some(found) = in_kernel(&kernel) {
        return Ok(found);
    }
    let names = beside(own);
    for (name, limit) in &names {
        let bytes = match (on_host, image) {
            (Some(_), _) => kernel::read_some(Path::new(name), *limit).ok(),
            (None, Some(image)) => kernel::read_in_image(image, name, *limit),
            (None, None) => None,
        };
        let symbols = bytes.map(|bytes| match name.contains("System.map") {
            true => Symbols::of_map(&bytes, name),
            false => Symbols::of_elf(&bytes, name),
        });
        if let Some(symbols) = symbols.filter(|symbols| !symbols.is_empty()) {
            return Ok(Found { symbols, certain: false });
        }
    }
    let map = names.first().map_or_else(|| "System.map".to_owned(), |(name, _)| name.clone());
    let place = if on_host.is_some() { "beside it" } else { "in the image" };
    Err(NoSymbols::NoFile { kernel: kernel.source, map, place })
}

fn in_kernel(kernel: &Blob) -> Option<Found> {
    let (symbols, certain) = match kernel::format(kernel).ok()? {
        Format::Elf => (Symbols::of_elf(&kernel.bytes, &kernel.source), true),
        Format::BzImage => (Symbols::of_elf(&kernel::payload(&kernel.bytes)?, &kernel.source), false),
    };
    (!symbols.is_empty()).then_some(Found { symbols, certain })
}

/// Files that may have the symbols of `kernel`, and how much of them is read.
fn beside(kernel: &BootFile) -> Vec<(String, u64)> {
    let directory = kernel.path.parent().unwrap_or(Path::new(""));
    let name = kernel.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let version = name.strip_prefix("vmlinuz").or(name.strip_prefix("vmlinux")).unwrap_or_default();
    let in_directory = |name: String| directory.join(name).to_string_lossy().into_owned();
    let mut files = Vec::new();
    if !version.is_empty() {
        files.push((in_directory(format!("System.map{version}")), MAX_MAP));
        files.push((format!("/usr/lib/debug/boot/System.map{version}"), MAX_MAP));
        files.push((in_directory(format!("vmlinux{version}")), MAX_KERNEL));
        files.push((format!("/usr/lib/debug/boot/vmlinux{version}"), MAX_KERNEL));
    }
    files.push((in_directory("System.map".into()), MAX_MAP));
    if name != "vmlinux" {
        files.push((in_directory("vmlinux".into()), MAX_KERNEL));
    }
    files
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const BZIMAGE: usize = 0x400;

    fn host_kernel(path: &Path) -> Header {
        let kernel = BootFile { origin: Origin::Host, path: path.to_owned(), blake3: [0; 32] };
        Header { kernel, ..crate::session::tests::header() }
    }

    /// What looks like a bzImage and has nothing in it.
    fn empty_bzimage() -> Vec<u8> {
        let mut bytes = vec![0; BZIMAGE];
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes
    }

    fn map(symbol: &str) -> String {
        format!("ffffffff81000000 T {symbol}\nffffffff82000000 D end\n")
    }

    #[test]
    fn a_kernel_of_the_host_has_its_map_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinuz-6.1.0-9");
        fs::write(&path, empty_bzimage()).unwrap();
        let header = host_kernel(&path);
        let none = find(&header).unwrap_err().to_string();
        assert!(none.contains("System.map-6.1.0-9 beside it"), "{none}");
        let of = |header: &Header| {
            let found = find(header).unwrap();
            assert!(!found.certain);
            found.symbols.lookup(0xffff_ffff_8100_0000).unwrap().name.to_owned()
        };
        fs::write(directory.path().join("System.map"), map("of_any_version")).unwrap();
        assert_eq!(of(&header), "of_any_version");
        // Debian's, without its debug package: no symbols.
        let placeholder =
            "ffffffffffffffff B The real System.map is in the linux-image-VERSION-dbg package\n";
        fs::write(directory.path().join("System.map-6.1.0-9"), placeholder).unwrap();
        assert_eq!(of(&header), "of_any_version");
        fs::write(directory.path().join("System.map-6.1.0-9"), map("of_this_version")).unwrap();
        assert_eq!(of(&header), "of_this_version");
    }

    #[test]
    fn an_elf_kernel_has_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinux");
        fs::write(&path, super::super::table::tests::tiny_elf()).unwrap();
        fs::write(directory.path().join("System.map"), map("of_another")).unwrap();
        let found = find(&host_kernel(&path)).unwrap();
        assert!(found.certain);
        assert_eq!(found.symbols.lookup(0xffff_ffff_8100_0000).unwrap().name, "main");
        assert_eq!(found.symbols.source(), path.to_str().unwrap());
    }

    #[test]
    fn a_kernel_that_is_gone_is_named() {
        let error = find(&host_kernel(Path::new("/nowhere/vmlinux"))).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/vmlinux"), "{error}");
    }
}
