//! A step of a hostile driver, out of random words: mostly something that means something, so that programs get far.

use scribe_devices::virtio::console::Size;
use scribe_devices::virtio::net::Frame;

/// What a step is made of.
pub(crate) type Words = (u64, u64, u64, u64);

/// One thing that a driver, or the world outside, does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Read {
        offset: u64,
        size: u8,
    },
    Write {
        offset: u64,
        size: u8,
        value: u64,
    },
    /// What a well-behaved driver does: reset, features, queues, DRIVER_OK.
    BringUp,
    Descriptor {
        queue: u16,
        index: u16,
        addr: u64,
        len: u32,
        flags: u16,
        next: u16,
    },
    /// A table elsewhere, for indirect descriptors.
    Indirect {
        index: u16,
        addr: u64,
        len: u32,
        flags: u16,
        next: u16,
    },
    Available {
        queue: u16,
        head: u16,
    },
    Poke {
        addr: u64,
        value: u64,
    },
    /// A request that the device can serve, all but its notification.
    Good {
        queue: u16,
        kind: u32,
        sector: u64,
        len: u32,
    },
    Notify {
        queue: u32,
    },
    /// A queue taken back and set up again while the device runs, one of its rings elsewhere.
    Requeue {
        queue: u16,
        ring: usize,
        addr: u64,
    },
    /// The index of the available ring jumps.
    Jump {
        queue: u16,
        index: u16,
    },
    Frame(Frame),
    Link(bool),
    Bytes(usize),
    Resize(Size),
    /// The host's disk works or does not.
    Disk {
        broken: bool,
    },
}

/// First address of a queue's descriptor table, available ring, used ring.
pub(crate) fn rings(queue: u16) -> [u64; 3] {
    [0x1000, 0x2000, 0x3000].map(|base| base + 0x400 * u64::from(queue))
}

/// Entries of a queue after [`Step::BringUp`], or fewer if the device has fewer.
pub(crate) const RING: u16 = 16;
pub(crate) const INDIRECT_TABLE: u64 = 0x4000;
/// Where good requests have their parts.
pub(crate) const DATA: u64 = 0x5000;

fn pick<T: Copy>(word: u64, list: &[T]) -> T {
    list[usize::try_from(word % list.len() as u64).unwrap()]
}

fn low16(word: u64) -> u16 {
    u16::try_from(word & 0xffff).unwrap()
}

fn low32(word: u64) -> u32 {
    u32::try_from(word & 0xffff_ffff).unwrap()
}

/// Addresses: rings, data, both sides of every edge of RAM, nonsense.
fn address(word: u64) -> u64 {
    let [desc, avail, used] = rings(low16(word >> 8) % 2);
    let list = [
        DATA,
        DATA + 0x800,
        0x9000,
        desc,
        avail,
        avail + 2,
        used,
        used + 2,
        INDIRECT_TABLE,
        0xfff0,
        0xffff,
        0x1_0000,
        0x1_fff8,
        0x2_0000,
        0x2_7ff0,
        0x2_7fff,
        0xffff_fff8,
        0x1_0000_0000,
        0x1_0000_3ff8,
        u64::MAX - 8,
        u64::MAX,
        word >> 16 & 0x2_ffff,
        word,
    ];
    pick(word, &list)
}

fn length(word: u64) -> u32 {
    let list = [
        0,
        1,
        4,
        12,
        14,
        16,
        17,
        20,
        72,
        256,
        512,
        513,
        1024,
        1526,
        1531,
        4096,
        0x8000,
        0x1_0000,
        0x1_0001,
        u32::MAX,
        low32(word >> 32) & 0x1fff,
        low32(word >> 32),
    ];
    pick(word, &list)
}

fn index(word: u64) -> u16 {
    if word.is_multiple_of(8) { low16(word >> 8) } else { low16(word >> 8) % (RING + 1) }
}

fn value(word: u64, more: u64) -> u64 {
    let list = [
        0,
        1,
        2,
        3,
        4,
        7,
        8,
        0x0b,
        0x0f,
        0x10,
        0x40,
        0x80,
        0xff,
        0xffff,
        0x1_0000,
        1 << 31,
        more,
        address(more),
    ];
    pick(word, &list)
}

fn register(word: u64) -> u64 {
    match word % 8 {
        0 => word >> 8,
        1 => 0x100 + (word >> 8) % 0x50,
        2 => (word >> 8) % 0x1000,
        _ => (word >> 8) % 0x40 * 4,
    }
}

fn size(word: u64) -> u8 {
    pick(word, &[4, 4, 4, 4, 4, 4, 1, 2, 8, 0, 3, 255])
}

/// The step that four words mean, for a device of this kind.
pub(crate) fn step(kind: usize, (a, b, c, d): Words) -> Step {
    let queue = low16(a >> 32) % 2;
    let flags = if d.is_multiple_of(16) { low16(d >> 4) } else { low16(d >> 4) % 8 };
    match a % 32 {
        0 => Step::Read { offset: register(b), size: size(c) },
        1..=4 => Step::Write { offset: register(b), size: size(c), value: value(d, c) },
        5..=8 => Step::BringUp,
        9 => Step::Requeue { queue, ring: pick(b, &[0, 1, 2]), addr: address(c) },
        10..=12 => Step::Descriptor {
            queue,
            index: index(b),
            addr: address(c),
            len: length(d),
            flags,
            next: index(c >> 32),
        },
        13 => {
            Step::Indirect { index: index(b), addr: address(c), len: length(d), flags, next: index(c >> 32) }
        }
        14 => Step::Available { queue, head: index(b) },
        15 if d.is_multiple_of(2) => Step::Poke { addr: address(b), value: value(c, d) },
        15 => Step::Jump { queue, index: low16(b >> 8) & pick(b, &[0x3f, 0xffff]) },
        16..=20 => Step::Good {
            queue,
            kind: pick(b, &[0, 0, 1, 1, 4, 8, 11, 13, 13, 14, 2, low32(c)]),
            sector: pick(c, &[0, 1, 30, 63, 64, d >> 60, d]),
            len: length(d),
        },
        21..=25 => Step::Notify { queue: pick(b, &[0, 0, 0, 1, 1, 1, 0, 1, 2, low32(c)]) },
        _ => match (kind, b % 4) {
            (0 | 1, _) => Step::Disk { broken: b.is_multiple_of(3) },
            (2, 0) => Step::Link(c.is_multiple_of(3)),
            (2, _) => {
                let len = pick(c, &[14, 60, 1514, 1518, 14 + usize::from(low16(d) % 1505)]);
                Step::Frame(Frame::new(vec![d.to_le_bytes()[0]; len]).unwrap())
            }
            (4, 0) => Step::Resize(Size { cols: low16(c), rows: low16(d) }),
            _ => Step::Bytes(pick(c, &[0, 1, 16, 64, 256, 257, 4096, 0x8000, 0x1_0001])),
        },
    }
}
