//! The file `header`: everything about a recording that is known before the first instruction.
//!
//! It holds nothing that differs between two recordings of the same configuration on the same host: no time of creation,
//! no process number, no name of the recording.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::OpenError;

mod branch;
mod devices;
mod lossless;

pub use branch::{Chaos, Level, Parent, Start};
pub use devices::{Device, Mac};

/// The version of the format that this program writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Most bytes of the header's JSON body.
pub const MAX_BODY: usize = 1024 * 1024;
pub(crate) const MAGIC: [u8; 8] = *b"SCRIBEVM";
const FIXED_BYTES: usize = size_of::<Fixed>();

// Frozen: recordings exist.
const _: () = assert!(matches!(&MAGIC, b"SCRIBEVM"));
const _: () = assert!(FIXED_BYTES == 20);
const _: () = assert!(FORMAT_VERSION == 1);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Fixed {
    magic: [u8; 8],
    version: U32,
    body_length: U32,
    crc: U32,
}

const _: () = assert!(std::mem::offset_of!(Fixed, version) == 8);
const _: () = assert!(std::mem::offset_of!(Fixed, body_length) == 12);
const _: () = assert!(std::mem::offset_of!(Fixed, crc) == 16);

/// The configuration of a recording and what is known of its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the program that made the recording, such as "0.1.0".
    pub program: String,
    /// Version of the machine the guest sees, such as "scribe-pc-1".
    pub platform: String,
    /// What executed the guest.
    pub engine: Engine,
    /// CPU profile, such as "scribe-v1".
    pub cpu: String,
    /// Which of the results that the manuals leave open the processor gave, such as "zen"; `None`: those of the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behaviour: Option<String>,
    /// What the digests cover.
    pub digest_version: u32,
    /// What the branch counter counts; `None` if the recording was made without one.
    pub counter: Option<String>,
    /// How execution becomes guest time.
    pub time: TimeConstants,
    /// Guest RAM, in bytes.
    pub memory: u64,
    /// Number of vCPUs, at least 1.
    pub vcpus: u32,
    /// The disk image; `None`: a machine without a disk.
    pub image: Option<Image>,
    /// Virtio devices besides the disk of `image`, in the order of their slots, from slot 1 on.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "devices::some")]
    pub devices: Vec<Device>,
    /// The kernel.
    pub kernel: BootFile,
    /// The initial RAM disk, if there is one.
    pub initrd: Option<BootFile>,
    /// The kernel's command line, complete.
    pub cmdline: String,
    /// The command the guest runs and its arguments, byte for byte; empty if there is none.
    #[serde(with = "lossless::byte_strings")]
    pub command: Vec<Vec<u8>>,
    /// The entropy the guest was given.
    #[serde(with = "lossless::hex32")]
    pub seed: [u8; 32],
    /// What the real-time clock says at power-on: seconds since 1970-01-01 00:00 UTC.
    pub rtc: i64,
    /// Whether idle time passes at the host's speed.
    pub pace: Pace,
    /// Exits between two digests of RAM; 0: at the end only.
    pub digest_every: u64,
    /// Where it was recorded.
    pub host: Host,
    /// How much was noted.
    #[serde(default, skip_serializing_if = "Level::is_default")]
    pub level: Level,
    /// What made interrupts and inputs late; `None`: nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "branch::present")]
    pub chaos: Option<Chaos>,
    /// The recording that it branched off; `None` if it was made from power-on.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "branch::present")]
    pub parent: Option<Parent>,
    /// Where it begins; `None`: at power-on.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "branch::present")]
    pub start: Option<Start>,
}

/// What executes guest instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The host's KVM.
    Kvm,
    /// The deterministic CPU in software.
    Soft,
}

/// Whether a machine that idles sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// Guest time follows the host's clock while the guest idles.
    Real,
    /// Never sleeps.
    Max,
}

/// guest time = branches * `ns_per_branch` + exits * `ns_per_exit` + adjustments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeConstants {
    /// Nanoseconds per retired conditional branch (k1); 0 without a counter.
    pub ns_per_branch: u64,
    /// Nanoseconds per exit (k2).
    pub ns_per_exit: u64,
}

/// The disk image a recording was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Its path on the host, as it was given.
    #[serde(with = "lossless::path")]
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its BLAKE3 digest; 64 hex digits in the file.
    #[serde(with = "lossless::hex32")]
    pub blake3: [u8; 32],
}

/// A file the guest was booted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootFile {
    /// Where it was found.
    pub origin: Origin,
    /// Its path there.
    #[serde(with = "lossless::path")]
    pub path: PathBuf,
    /// Its BLAKE3 digest; 64 hex digits in the file.
    #[serde(with = "lossless::hex32")]
    pub blake3: [u8; 32],
}

/// Where a boot file was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// In the disk image.
    Image,
    /// In a file of the host.
    Host,
}

/// The host of a recording: shown when a replay diverges. Empty strings where not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Model name of its CPU.
    pub cpu_model: String,
    /// Microcode revision.
    pub microcode: String,
    /// Release of its kernel.
    pub kernel_release: String,
    /// Module that provides KVM, such as "kvm_amd".
    pub kvm_module: String,
}

/// A header that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeHeaderError {
    /// It cannot be expressed in JSON.
    #[error("the header cannot be encoded")]
    Json(#[source] serde_json::Error),
    /// It is above [`MAX_BODY`].
    #[error("the header is {length} bytes long, the limit is {MAX_BODY}")]
    TooLong {
        /// Bytes of its body.
        length: usize,
    },
}

impl Header {
    /// The bytes of the header file.
    ///
    /// # Errors
    /// If the configuration is too long, which takes a command line of hundreds of KiB.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeHeaderError> {
        self.encode_with_crc().map(|(bytes, _)| bytes)
    }

    /// The bytes of the header file, and its checksum: the start of the chain of segments.
    pub(crate) fn encode_with_crc(&self) -> Result<(Vec<u8>, u32), EncodeHeaderError> {
        let body = serde_json::to_vec(self).map_err(EncodeHeaderError::Json)?;
        let too_long = || EncodeHeaderError::TooLong { length: body.len() };
        if body.len() > MAX_BODY {
            return Err(too_long());
        }
        let mut fixed = Fixed {
            magic: MAGIC,
            version: FORMAT_VERSION.into(),
            body_length: u32::try_from(body.len()).map_err(|_| too_long())?.into(),
            crc: 0.into(),
        };
        let crc = checksum(&fixed, &body);
        fixed.crc = crc.into();
        let mut out = Vec::with_capacity(FIXED_BYTES + body.len());
        out.extend_from_slice(fixed.as_bytes());
        out.extend_from_slice(&body);
        Ok((out, crc))
    }

    /// What a branch knows its parent by: the BLAKE3 digest of the header file, as it would be at [`Level::Inputs`], so
    /// that dropping markers changes nothing.
    ///
    /// # Errors
    /// As [`Header::encode`].
    pub fn identity(&self) -> Result<[u8; 32], EncodeHeaderError> {
        let plain = Header { level: Level::Inputs, ..self.clone() };
        Ok(blake3::hash(&plain.encode()?).into())
    }

    /// Where the recording begins: power-on unless it says otherwise.
    pub fn start(&self) -> Start {
        self.start.unwrap_or_default()
    }

    /// Reads a header file.
    ///
    /// # Errors
    /// As [`crate::Recording::open`].
    pub fn read(path: &Path) -> Result<Header, OpenError> {
        read(path).map(|file| file.header)
    }
}

fn checksum(fixed: &Fixed, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&fixed.as_bytes()[..FIXED_BYTES - 4]);
    crc.update(body);
    crc.finalize()
}

/// A header file that was read.
#[derive(Debug)]
pub(crate) struct HeaderFile {
    pub(crate) header: Header,
    /// Its checksum.
    pub(crate) crc: u32,
    /// Its length in bytes.
    pub(crate) length: u64,
}

/// The header in the file at `path`.
pub(crate) fn read(path: &Path) -> Result<HeaderFile, OpenError> {
    let io = |error| OpenError::io("read", path)(error);
    let corrupt = |offset: usize, what: &str| OpenError::corrupt(path, offset as u64, what);
    let mut bytes = Vec::new();
    let limit = (FIXED_BYTES + MAX_BODY) as u64 + 1;
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(io)?;
    if bytes.iter().zip(&MAGIC).any(|(found, expected)| found != expected) {
        return Err(OpenError::NotARecording { path: path.to_owned() });
    }
    let Ok((fixed, body)) = Fixed::ref_from_prefix(&bytes) else {
        return Err(corrupt(bytes.len(), "the header is cut short"));
    };
    let found = fixed.version.get();
    if found > FORMAT_VERSION {
        return Err(OpenError::TooNew { path: path.to_owned(), found, supported: FORMAT_VERSION });
    }
    if found == 0 {
        return Err(corrupt(8, "there is no format version 0"));
    }
    if body.len() != fixed.body_length.get() as usize || body.len() > MAX_BODY {
        return Err(corrupt(12, "the header's length is wrong"));
    }
    if checksum(fixed, body) != fixed.crc.get() {
        return Err(corrupt(16, "the header has a wrong checksum"));
    }
    let header: Header = serde_json::from_slice(body)
        .map_err(|error| OpenError::UnknownHeader { path: path.to_owned(), what: error.to_string() })?;
    if header.vcpus == 0 {
        return Err(corrupt(FIXED_BYTES, "the machine has no vCPU"));
    }
    Ok(HeaderFile { header, crc: fixed.crc.get(), length: bytes.len() as u64 })
}
