//! Finding the guest's kernel and initrd, and what the kernel says about itself.

use std::io::Read;
use std::path::Path;

use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, ProgramHeader};

/// Largest kernel or initrd accepted, and largest kernel unpacked from a bzImage to look at its notes.
const MAX_BYTES: u64 = 512 << 20;

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file of the host cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// the file
        path: String,
        /// errno
        source: std::io::Error,
    },
    /// The image is not a file system that can be read.
    #[error(
        "{path}: no ext4 file system that can be read ({reason}); give the kernel with --kernel, or make the image \
         with mke2fs -t ext4 over the whole disk"
    )]
    Image {
        /// the image
        path: String,
        /// what was found
        reason: String,
    },
    /// The image has no kernel.
    #[error("{path}: no /boot/vmlinux* or /boot/vmlinuz* in it; put one there or give it with --kernel")]
    NoKernel {
        /// the image
        path: String,
    },
    /// The kernel is in no known format.
    #[error("{source_name}: neither an x86-64 ELF kernel nor a bzImage")]
    Format {
        /// where the kernel came from
        source_name: String,
    },
}

/// A kernel or initrd and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// path on the host, or path inside the image
    pub source: String,
    /// contents
    pub bytes: Vec<u8>,
}

/// What a guest starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFiles {
    /// the kernel
    pub kernel: Blob,
    /// the initrd
    pub initrd: Option<Blob>,
}

/// The two kernel formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// an uncompressed ELF vmlinux
    Elf,
    /// a bzImage, which unpacks itself
    BzImage,
}

/// Takes the kernel and initrd from the host's files where given, else out of the image: the newest `/boot/vmlinux*`,
/// or else the newest `/boot/vmlinuz*`, symbolic links followed, with the `/boot/initrd.img*` of the same version.
///
/// # Errors
/// One line that says what is wrong with which file.
pub fn find(
    image: Option<&Path>,
    kernel: Option<&Path>,
    initrd: Option<&Path>,
) -> Result<BootFiles, KernelError> {
    let initrd = initrd.map(read_file).transpose()?;
    if let Some(path) = kernel {
        return Ok(BootFiles { kernel: read_file(path)?, initrd });
    }
    let path = image.unwrap_or(Path::new("-"));
    let found = from_image(path)?;
    Ok(BootFiles { kernel: found.kernel, initrd: initrd.or(found.initrd) })
}

fn read_file(path: &Path) -> Result<Blob, KernelError> {
    let error = |source| KernelError::Read { path: path.display().to_string(), source };
    let bytes = read_some(path, MAX_BYTES).map_err(error)?;
    Ok(Blob { source: path.display().to_string(), bytes })
}

/// At most the first `limit` bytes of a file of the host.
///
/// # Errors
/// It cannot be read.
pub fn read_some(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file of the image at `image`, if it is there, can be read, and has at most `limit` bytes.
pub fn read_in_image(image: &Path, path: &str, limit: u64) -> Option<Vec<u8>> {
    let fs = ext4_view::Ext4::load_from_path(image).ok()?;
    (fs.metadata(path).ok()?.len() <= limit).then(|| fs.read(path).ok())?
}

fn from_image(path: &Path) -> Result<BootFiles, KernelError> {
    let name = path.display().to_string();
    let image_error =
        |error: ext4_view::Ext4Error| KernelError::Image { path: name.clone(), reason: error.to_string() };
    std::fs::File::open(path).map_err(|source| KernelError::Read { path: name.clone(), source })?;
    let fs = ext4_view::Ext4::load_from_path(path)
        .map_err(|error| KernelError::Image { path: name.clone(), reason: error.to_string() })?;
    let mut names = Vec::new();
    if fs.exists("/boot").map_err(image_error)? {
        for entry in fs.read_dir("/boot").map_err(image_error)? {
            let entry = entry.map_err(image_error)?;
            names.push(String::from_utf8_lossy(entry.file_name().as_ref()).into_owned());
        }
    }
    let newest = |prefix: &str| {
        names.iter().filter(|n| n.starts_with(prefix)).max_by_key(|n| version_key(&n[prefix.len()..]))
    };
    // "vmlinuz" does not start with "vmlinux", so the two do not mix.
    let Some(kernel) = newest("vmlinux").or_else(|| newest("vmlinuz")) else {
        return Err(KernelError::NoKernel { path: name });
    };
    let read = |file: &str| -> Result<Blob, KernelError> {
        let source = format!("/boot/{file}");
        let bytes = fs.read(source.as_str()).map_err(image_error)?;
        Ok(Blob { source, bytes })
    };
    let suffix = &kernel["vmlinux".len()..];
    let initrd = names.iter().find(|n| n.strip_prefix("initrd.img") == Some(suffix));
    Ok(BootFiles { kernel: read(kernel)?, initrd: initrd.map(|file| read(file)).transpose()? })
}

/// Orders version strings as people do: runs of digits by value, the rest by bytes.
fn version_key(text: &str) -> Vec<(String, u64)> {
    let mut key = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let word_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(word_end);
        let digits_end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (digits, tail) = tail.split_at(digits_end);
        key.push((word.to_owned(), digits.parse().unwrap_or(0)));
        rest = tail;
    }
    key
}

/// The format of a kernel.
///
/// # Errors
/// [`KernelError::Format`].
pub fn format(kernel: &Blob) -> Result<Format, KernelError> {
    if FileHeader64::<Endianness>::parse(kernel.bytes.as_slice()).is_ok() {
        return Ok(Format::Elf);
    }
    // Documentation/arch/x86/boot.rst: "HdrS" at 0x202.
    if kernel.bytes.get(0x202..0x206) == Some(b"HdrS") {
        return Ok(Format::BzImage);
    }
    Err(KernelError::Format { source_name: kernel.source.clone() })
}

/// The guest-interface version that the kernel's ELF note names (docs/guest-interface.md): it reads no TSC. `None`: no
/// such note, or a bzImage whose payload is packed in a way that is not looked into (gzip and zstd are).
pub fn note(kernel: &Blob) -> Option<u32> {
    match format(kernel).ok()? {
        Format::Elf => elf_note(&kernel.bytes),
        Format::BzImage => elf_note(&payload(&kernel.bytes)?),
    }
}

fn elf_note(bytes: &[u8]) -> Option<u32> {
    let header = FileHeader64::<Endianness>::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    for segment in header.program_headers(endian, bytes).ok()? {
        let Ok(Some(mut notes)) = segment.notes(endian, bytes) else {
            continue;
        };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == b"Scribe" && note.n_type(endian).0 == 1 {
                return note.desc().first_chunk().map(|word| u32::from_le_bytes(*word));
            }
        }
    }
    None
}

/// The unpacked payload of a bzImage, if it is packed with gzip or zstd: an ELF kernel.
pub fn payload(bytes: &[u8]) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let setup_sectors = match *bytes.get(0x1f1)? {
        0 => 4,
        n => usize::from(n),
    };
    let start = (setup_sectors + 1) * 512 + usize::try_from(word(0x248)?).ok()?;
    let packed = bytes.get(start..start.checked_add(usize::try_from(word(0x24c)?).ok()?)?)?;
    let mut unpacked = Vec::new();
    match packed {
        [0x1f, 0x8b, ..] => flate2::read::GzDecoder::new(packed).take(MAX_BYTES).read_to_end(&mut unpacked),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::stream::Decoder::with_buffer(packed).ok()?.single_frame();
            decoder.take(MAX_BYTES).read_to_end(&mut unpacked)
        }
        _ => return None,
    }
    .ok()?;
    Some(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_people_do() {
        let mut names = ["-6.1.0-9", "-6.1.0-10", "", "-6.12.0", "-5.10.0"];
        names.sort_by_key(|n| version_key(n));
        assert_eq!(names, ["", "-5.10.0", "-6.1.0-9", "-6.1.0-10", "-6.12.0"]);
    }

    #[test]
    fn other_files_are_no_kernel() {
        let blob = Blob { source: "x".into(), bytes: vec![0; 1024] };
        assert_eq!(format(&blob).unwrap_err().to_string(), "x: neither an x86-64 ELF kernel nor a bzImage");
        assert_eq!(note(&blob), None);
        assert!(payload(&[0x1f, 0x8b]).is_none());
    }
}
