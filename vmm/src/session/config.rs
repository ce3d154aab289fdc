//! From a configuration to a machine, the same way for run, record and replay: everything a machine is made of is in a
//! recording's header.

use std::path::{Path, PathBuf};

use scribe_devices::guest_interface::CommandTooLong;
use scribe_log::header::{
    BootFile, Chaos, Device, Engine as EngineName, Header, Host, Image, Level, Origin, Pace,
};

use super::choice::{self, Choice, HostCounter, SyncPoints, Wish};
use super::files::{self, DigestCache};
use crate::engine::cpu::CpuState;
use crate::engine::kvm::Kvm;
use crate::engine::soft::{self, Soft};
use crate::engine::{Engine, EngineError};
use crate::machine::boot::{self, BootError, SEED_BYTES};
use crate::machine::bus::Devices;
use crate::machine::disk::{Disk, DiskError};
use crate::machine::kernel::{self, Blob, BootFiles, KernelError};
use crate::machine::memory::{GuestRam, MemoryError};
use crate::machine::platform::Platform;
use crate::machine::virtio::{self, TooManyDevices};
use crate::machine::{Machine, apics, chaos, digest};

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
    /// the platform, if it is to be a certain one
    pub platform: Option<Platform>,
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
    /// what executes it
    pub engine: Wish,
    /// CPU profile, if not what suits the kernel
    pub cpu: Option<String>,
    /// kinds of sync points, if not what suits the engine
    pub sync_points: Option<SyncPoints>,
    /// open results of the soft engine's processor, if not the usual
    pub behaviour: Option<String>,
    /// what may count on kvm
    pub counter: HostCounter,
    /// virtio devices besides the disk and, on platforms that have more than it, the entropy device
    pub devices: Vec<Device>,
    /// seed by which interrupts and inputs come late, if they do
    pub chaos: Option<u64>,
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
         doing so; use --engine soft, or the guest kernel of this project (make image), with --kernel if need be"
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
    /// Options that do not go together.
    #[error("{0}")]
    Option(String),
    /// More devices than slots.
    #[error(transparent)]
    Devices(#[from] TooManyDevices),
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

impl GuestConfig {
    /// The platform: the first, unless there is something that only a later one has, or a disk that the kernel would not
    /// find without ACPI, since it is none of ours (`noted`).
    pub fn platform(&self, noted: bool) -> Platform {
        let later = !self.devices.is_empty() || (!noted && self.image.is_some());
        self.platform.unwrap_or(if later { Platform::Pc2 } else { Platform::Pc1 })
    }
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
    mut host: Host,
) -> Result<(Header, BootFiles, Choice), ConfigError> {
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
    let noted = has_note(&files.kernel)?;
    let choice = choice::for_guest(config, &files.kernel.source, noted)?;
    if choice.engine == EngineName::Soft {
        host.kvm_module = String::new(); // it has no part in it
    }
    let (counter, time) = choice.counting();
    let time = config.chaos.map_or(time, |seed| chaos::time_constants(seed, time));
    let platform = config.platform(noted);
    if platform == Platform::Pc1 && !config.devices.is_empty() {
        let least = Platform::Pc2.name();
        let reason =
            format!("{} has no device but the disk; use --platform {least}, or none", platform.name());
        return Err(ConfigError::Option(reason));
    }
    // Our kernel knows no ACPI.
    let named = platform == Platform::Pc1 || noted;
    let mut devices = config.devices.clone();
    if platform != Platform::Pc1 {
        devices.push(Device::Rng {});
    }
    let slots = if named { virtio::places(image.is_some(), &devices)? } else { Vec::new() };
    let mut cmdline = boot::default_command_line(named, &slots, image.is_some());
    if let Some(append) = &config.append {
        cmdline = format!("{cmdline} {append}");
    }
    let header = Header {
        program: env!("CARGO_PKG_VERSION").into(),
        platform: platform.name().into(),
        engine: choice.engine,
        cpu: choice.cpu.name.into(),
        behaviour: choice.behaviour.map(|behaviour| soft::name(behaviour).to_owned()),
        digest_version: digest::VERSION,
        counter,
        time,
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
        level: Level::Inputs,
        chaos: config.chaos.map(|seed| Chaos { version: chaos::VERSION, seed }),
        parent: None,
        start: None,
        devices,
    };
    Ok((header, files, choice))
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

/// True if the kernel says that it reads no clock behind the machine's back.
fn has_note(kernel: &Blob) -> Result<bool, ConfigError> {
    kernel::format(kernel)?;
    match kernel::note(kernel) {
        None => Ok(false),
        Some(needed) if needed > GUEST_INTERFACE => {
            Err(ConfigError::KernelTooNew { kernel: kernel.source.clone(), needed, ours: GUEST_INTERFACE })
        }
        Some(_) => Ok(true),
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

/// Checks that the files of a recording are what they were: its image by its digest, and with that what was read out of
/// it; files of the host by theirs. `header` then says where they lie now.
///
/// # Errors
/// A file is gone or has changed, or the recording needs what this program does not have.
pub fn check_files(header: &mut Header, moved: &Moved, cache: &DigestCache) -> Result<(), ConfigError> {
    check_supported(header)?;
    moved.apply(header)?;
    let digest_of = |path: &Path| {
        cache.of_file(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
    };
    if let Some(recorded) = &header.image {
        let path = recorded.path.clone();
        let read_error = |source| ConfigError::Read { path: path.clone(), source };
        let size = std::fs::metadata(&path).map_err(read_error)?.len();
        if size != recorded.size {
            let what = format!("the image's size has changed from {} to {size} bytes", recorded.size);
            return Err(ConfigError::Changed { path, what });
        }
        if digest_of(&path)? != recorded.blake3 {
            return Err(ConfigError::Changed { path, what: "the image's contents have changed".into() });
        }
    }
    let on_host = [Some(&header.kernel), header.initrd.as_ref()].into_iter().flatten();
    for file in on_host.filter(|file| file.origin == Origin::Host) {
        if digest_of(&file.path)? != file.blake3 {
            return Err(ConfigError::Changed {
                path: file.path.clone(),
                what: "the file has changed".into(),
            });
        }
    }
    Ok(())
}

/// Reads the boot files of a recording whose files [`check_files`] has found unchanged. True with them if the kernel has
/// the note.
///
/// # Errors
/// A file cannot be read, or what is read is not what was recorded.
pub fn find_again(header: &Header) -> Result<(BootFiles, bool), ConfigError> {
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
    let noted = has_note(&found.kernel)?;
    Ok((found, noted))
}

fn check_supported(header: &Header) -> Result<(), ConfigError> {
    let checks = [
        (Platform::named(&header.platform).is_some(), format!("platform {}", header.platform)),
        (
            header.devices.is_empty() || header.platform != Platform::Pc1.name(),
            format!("platform {} with devices that it does not have", header.platform),
        ),
        (header.digest_version == digest::VERSION, format!("digest version {}", header.digest_version)),
        (header.vcpus == 1, format!("{} vCPUs", header.vcpus)),
    ];
    match checks.into_iter().find(|(supported, _)| !supported) {
        Some((_, what)) => Err(ConfigError::Unsupported(what)),
        None => choice::check(header),
    }
}

fn platform(header: &Header) -> Result<Platform, ConfigError> {
    let unknown = || ConfigError::Unsupported(format!("platform {}", header.platform));
    Platform::named(&header.platform).ok_or_else(unknown)
}

/// Builds the machine that `header` describes as it is at power-on, on the engine of `choice`; the disk's overlay goes into
/// `scratch`.
///
/// # Errors
/// A file is unusable, or the host cannot run it.
pub fn assemble(
    header: &Header,
    files: &BootFiles,
    choice: &Choice,
    scratch: &Path,
) -> Result<Machine, ConfigError> {
    let ram = GuestRam::new(header.memory)?;
    let tables = match platform(header)? {
        Platform::Pc1 => None,
        Platform::Pc2 => Some(apics::description(virtio::places(header.image.is_some(), &header.devices)?)),
    };
    let start = boot::load(&ram, tables.as_ref(), files, &header.cmdline, &header.seed)?;
    build(header, choice, ram, disk(header, scratch)?, Some(&start))
}

/// The disk that `header` describes, nothing written to it.
///
/// # Errors
/// The image is unusable, or there is no room for an overlay.
pub fn disk(header: &Header, scratch: &Path) -> Result<Option<Disk>, ConfigError> {
    Ok(header.image.as_ref().map(|image| Disk::open(&image.path, scratch)).transpose()?)
}

fn engine(ram: &GuestRam, choice: &Choice) -> Result<Box<dyn Engine>, EngineError> {
    #[cfg(test)]
    if let Some(simulated) = crate::engine::approach::tests::engine::simulated(ram, choice) {
        return Ok(simulated);
    }
    Ok(match (choice.engine, &choice.counter) {
        (EngineName::Kvm, None) => Box::new(Kvm::new(ram)?),
        (EngineName::Kvm, Some(counter)) => Box::new(Kvm::with_counter(ram, counter)?),
        (EngineName::Soft, _) => Box::new(Soft::new(ram, choice.cpu, choice.behaviour.unwrap_or_default())),
    })
}

/// Puts the machine that `header` describes together; `start` is the vCPU's state if that is not restored later.
///
/// # Errors
/// The host cannot run it.
pub fn build(
    header: &Header,
    choice: &Choice,
    ram: GuestRam,
    disk: Option<Disk>,
    start: Option<&CpuState>,
) -> Result<Machine, ConfigError> {
    let mut engine = engine(&ram, choice)?;
    if let Some(start) = start {
        engine.set_state(start)?;
    }
    let command = header.command.iter().flat_map(|word| word.iter().copied().chain([0])).collect();
    let rtc = u64::try_from(header.rtc).unwrap_or(0);
    let mut devices = Devices::new(platform(header)?, command, rtc, disk)?;
    devices.add_virtio(&header.devices)?;
    let counted = choice.sync_points == SyncPoints::Counted;
    let mut machine = Machine::new(engine, ram, devices, header.time, counted)?;
    if let Some(Chaos { seed, .. }) = header.chaos {
        machine.shake(seed);
    }
    Ok(machine)
}
