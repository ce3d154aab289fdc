//! Inputs to the machine's virtio devices, each to the device in one slot.

/// Most bytes of an Ethernet frame, without its checksum: header, one VLAN tag, 1500 bytes.
pub const MAX_FRAME: usize = 1518;
/// Least bytes of one: its header.
pub const MIN_FRAME: usize = 14;
/// Most bytes of entropy in one event.
pub const MAX_ENTROPY: usize = 256;

/// What came from outside to a device. All of them must be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceInput {
    /// A frame that the network device received: [`MIN_FRAME`] to [`MAX_FRAME`] bytes.
    Frame(Vec<u8>),
    /// The network device's link went up or down.
    Link {
        /// Up.
        up: bool,
    },
    /// The entropy device's oldest request was answered with these bytes, 1 to [`MAX_ENTROPY`].
    Entropy(Vec<u8>),
    /// Bytes typed at a console that is no serial port, at most [`MAX_DATA`](super::MAX_DATA).
    Typed(Vec<u8>),
    /// A console's terminal has this size now.
    Resize {
        /// Characters of a line.
        cols: u16,
        /// Lines.
        rows: u16,
    },
    /// The host failed the disk while the exit of this position was served. A replay must know before it serves that
    /// exit; so an event of this kind is the first of its position.
    DiskFailed {
        /// What the disk was asked for: 0 read, 1 write, 2 flush, 3 zero.
        operation: u8,
        /// Which of the disk's operations during that exit it was, from 0.
        number: u64,
        /// Its first sector.
        sector: u64,
    },
}

impl DeviceInput {
    /// The kind's name, as `scribe-vmm log` prints it.
    pub fn name(&self) -> &'static str {
        match self {
            DeviceInput::Frame(_) => "net-frame",
            DeviceInput::Link { .. } => "net-link",
            DeviceInput::Entropy(_) => "entropy",
            DeviceInput::Typed(_) => "typed",
            DeviceInput::Resize { .. } => "resize",
            DeviceInput::DiskFailed { .. } => "disk-failed",
        }
    }

    /// Bytes that it brings into the guest.
    pub fn len(&self) -> usize {
        match self {
            DeviceInput::Frame(bytes) | DeviceInput::Entropy(bytes) | DeviceInput::Typed(bytes) => {
                bytes.len()
            }
            DeviceInput::Link { .. } | DeviceInput::Resize { .. } | DeviceInput::DiskFailed { .. } => 0,
        }
    }

    /// It brings none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
