//! From a configuration to a machine, the same way for run, record and replay: everything a machine is made of is in a
//! recording's header.

use std::path::{Path, PathBuf};

use scribe_devices::guest_interface::CommandTooLong;
use scribe_log::header::{BootFile, Engine as EngineName, Header, Host, Image, Origin, Pace, TimeConstants};

use super::files::{self, DigestCache};
use crate::engine::kvm::Kvm;
use crate::engine::{Engine, EngineError};
use crate::machine::boot::{self, BootError, SEED_BYTES};
use crate::machine::bus::Devices;
use crate::machine::disk::{Disk, DiskError};
use crate::machine::kernel::{self, Blob, BootFiles, KernelError};
use crate::machine::memory::{GuestRam, MemoryError};
use crate::machine::{Machine, cpuid, digest, platform};

/// What the user asks for.
#[derive(Debug, Clone)]
pub struct GuestConfig {
    /// disk image; without one there must be a kernel
    pub image: Option<PathBuf>,
    /// kernel on the host, instead of the image's
    pub kernel: Option<PathBuf>,
    /// initrd on the host, instead of the image's
    pub initrd: Option<PathBuf>,
    /// kernel arguments after the platform's own
    pub append: Option<String>,
    /// bytes of RAM
    pub memory: u64,
    /// CMD and ARGS
    pub command: Vec<Vec<u8>>,
    /// entropy for the guest
    pub seed: [u8; SEED_BYTES],
    /// seconds since 1970 at power-on
    pub rtc: i64,
    /// whether idle time passes on the host too
    pub pace: Pace,
    /// exits between two digests of RAM; 0: at the end only
    pub digest_every: u64,
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The kernel or initrd.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Loading it.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// RAM.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file of the host.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// the file
        path: PathBuf,
        /// errno
        source: std::io::Error,
    },
    /// The kernel reads clocks that KVM cannot deny it.
    #[error(
        "{0}: this Linux kernel does not say that it reads no TSC (no ELF note `Scribe`), and KVM cannot keep it from \
         doing so; use the guest kernel of this project (make image), with --kernel if need be"
    )]
    KernelWithoutNote(String),
    /// The kernel needs a newer guest interface.
    #[error("{kernel}: needs guest interface version {needed}, this program has {ours}")]
    KernelTooNew {
        /// where the kernel came from
        kernel: String,
        /// what its note says
        needed: u32,
        /// what there is
        ours: u32,
    },
    /// CMD and ARGS are too long.
    #[error(transparent)]
    Command(#[from] CommandTooLong),
    /// A file is not what it was when the recording was made.
    #[error("{path}: {what} since it was recorded; replay needs the very same bytes")]
    Changed {
        /// the file
        path: PathBuf,
        /// what is different
        what: String,
    },
    /// The recording needs something this program does not have.
    #[error("the recording needs {0}, which this program does not have")]
    Unsupported(String),
}

/// Version of the guest interface (docs/guest-interface.md).
const GUEST_INTERFACE: u32 = 1;

/// Finds and reads the guest's files and writes down what the machine is.
///
/// # Errors
/// One line that says which file is unusable and why.
pub fn describe(
    config: &GuestConfig,
    cache: &DigestCache,
    host: Host,
) -> Result<(Header, BootFiles), ConfigError> {
    let read_error = |path: &Path| {
        let path = path.to_owned();
        move |source| ConfigError::Read { path, source }
    };
    let image = match &config.image {
        Some(path) => {
            let size = std::fs::metadata(path).map_err(read_error(path))?.len();
            let blake3 = cache.of_file(path).map_err(read_error(path))?;
            Some(Image { path: path.canonicalize().map_err(read_error(path))?, size, blake3 })
        }
        None => None,
    };
    let files = kernel::find(config.image.as_deref(), config.kernel.as_deref(), config.initrd.as_deref())?;
    check_note(&files.kernel)?;
    let mut cmdline = boot::default_command_line(image.is_some());
    if let Some(append) = &config.append {
        cmdline = format!("{cmdline} {append}");
    }
    let header = Header {
        program: env!("CARGO_PKG_VERSION").into(),
        platform: platform::NAME.into(),
        engine: EngineName::Kvm,
        cpu: cpuid::SCRIBE_V1.into(),
        digest_version: digest::VERSION,
        counter: None,
        time: TimeConstants { ns_per_branch: 0, ns_per_exit: platform::NS_PER_EXIT },
        memory: config.memory,
        vcpus: 1,
        image,
        kernel: boot_file(&files.kernel, config.kernel.is_some())?,
        initrd: files.initrd.as_ref().map(|blob| boot_file(blob, config.initrd.is_some())).transpose()?,
        cmdline,
        command: config.command.clone(),
        seed: config.seed,
        rtc: config.rtc,
        pace: config.pace,
        digest_every: config.digest_every,
        host,
    };
    Ok((header, files))
}

fn boot_file(blob: &Blob, from_host: bool) -> Result<BootFile, ConfigError> {
    let path = PathBuf::from(&blob.source);
    let (origin, path) = if from_host {
        let found = path.canonicalize().map_err(|source| ConfigError::Read { path, source })?;
        (Origin::Host, found)
    } else {
        (Origin::Image, path)
    };
    Ok(BootFile { origin, path, blake3: files::of_bytes(&blob.bytes) })
}

fn check_note(kernel: &Blob) -> Result<(), ConfigError> {
    kernel::format(kernel)?;
    match kernel::note(kernel) {
        None => Err(ConfigError::KernelWithoutNote(kernel.source.clone())),
        Some(needed) if needed > GUEST_INTERFACE => {
            Err(ConfigError::KernelTooNew { kernel: kernel.source.clone(), needed, ours: GUEST_INTERFACE })
        }
        Some(_) => Ok(()),
    }
}

/// Where a recording's files lie now, as far as they were moved.
#[derive(Debug, Clone, Default)]
pub struct Moved {
    /// the disk image
    pub image: Option<PathBuf>,
    /// the kernel; only if it did not come out of the image
    pub kernel: Option<PathBuf>,
    /// the initrd; only if it did not come out of the image
    pub initrd: Option<PathBuf>,
}

impl Moved {
    fn apply(&self, header: &mut Header) -> Result<(), ConfigError> {
        if let (Some(recorded), Some(path)) = (&mut header.image, &self.image) {
            recorded.path.clone_from(path);
        }
        for (recorded, moved) in
            [(Some(&mut header.kernel), &self.kernel), (header.initrd.as_mut(), &self.initrd)]
        {
            let Some(path) = moved else { continue };
            match recorded {
                Some(file) if file.origin == Origin::Host => file.path.clone_from(path),
                _ => {
                    let path = path.clone();
                    return Err(ConfigError::Changed {
                        path,
                        what: "no such file of the host was used".into(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Finds the files of a recording again and checks that they are the same.
///
/// # Errors
/// A file is gone or has changed, or the recording needs what this program does not have.
pub fn find_again(header: &mut Header, moved: &Moved, cache: &DigestCache) -> Result<BootFiles, ConfigError> {
    check_supported(header)?;
    moved.apply(header)?;
    if let Some(recorded) = &header.image {
        let path = recorded.path.clone();
        let read_error = |source| ConfigError::Read { path: path.clone(), source };
        let size = std::fs::metadata(&path).map_err(read_error)?.len();
        if size != recorded.size {
            let what = format!("the image's size has changed from {} to {size} bytes", recorded.size);
            return Err(ConfigError::Changed { path, what });
        }
        if cache.of_file(&path).map_err(read_error)? != recorded.blake3 {
            return Err(ConfigError::Changed { path, what: "the image's contents have changed".into() });
        }
    }
    let on_host = |file: &BootFile| (file.origin == Origin::Host).then(|| file.path.clone());
    let kernel = on_host(&header.kernel);
    let initrd = header.initrd.as_ref().and_then(on_host);
    let image = header.image.as_ref().map(|image| image.path.as_path());
    let mut found = kernel::find(image, kernel.as_deref(), initrd.as_deref())?;
    if header.initrd.is_none() {
        found.initrd = None;
    }
    let pairs =
        [(Some(&header.kernel), Some(&found.kernel)), (header.initrd.as_ref(), found.initrd.as_ref())];
    for (recorded, blob) in pairs {
        let same = match (recorded, blob) {
            (Some(recorded), Some(blob)) => recorded.blake3 == files::of_bytes(&blob.bytes),
            (recorded, blob) => recorded.is_none() && blob.is_none(),
        };
        if !same {
            let path = recorded.map_or_else(PathBuf::new, |file| file.path.clone());
            return Err(ConfigError::Changed { path, what: "the file has changed".into() });
        }
    }
    Ok(found)
}

fn check_supported(header: &Header) -> Result<(), ConfigError> {
    let time = TimeConstants { ns_per_branch: 0, ns_per_exit: platform::NS_PER_EXIT };
    let checks = [
        (header.platform == platform::NAME, format!("platform {}", header.platform)),
        (header.cpu == cpuid::SCRIBE_V1, format!("CPU profile {}", header.cpu)),
        (header.engine == EngineName::Kvm, "the soft engine".into()),
        (header.digest_version == digest::VERSION, format!("digest version {}", header.digest_version)),
        (header.vcpus == 1, format!("{} vCPUs", header.vcpus)),
        (header.counter.is_none(), "a branch counter".into()),
        (header.time == time, "other time constants".into()),
    ];
    match checks.into_iter().find(|(supported, _)| !supported) {
        Some((_, what)) => Err(ConfigError::Unsupported(what)),
        None => Ok(()),
    }
}

/// Builds the machine that `header` describes; the disk's overlay goes into `scratch`.
///
/// # Errors
/// A file is unusable, or the host cannot run it.
pub fn assemble(header: &Header, files: &BootFiles, scratch: &Path) -> Result<Machine, ConfigError> {
    let ram = GuestRam::new(header.memory)?;
    let start = boot::load(&ram, files, &header.cmdline, &header.seed)?;
    let disk = header.image.as_ref().map(|image| Disk::open(&image.path, scratch)).transpose()?;
    let mut engine = Kvm::new(&ram)?;
    engine.set_state(&start)?;
    let command = header.command.iter().flat_map(|word| word.iter().copied().chain([0])).collect();
    let devices = Devices::new(command, u64::try_from(header.rtc).unwrap_or(0), disk)?;
    Ok(Machine::new(Box::new(engine), ram, devices))
}
