//! virtio-mmio registers, layout version 2, and virtio-blk requests (virtio 1.2, sections 4.2 and 5.2).

use std::fmt;

use super::{Field, Meaning, Named};

use Field::Bit;

const STATUS: &[Field] = &[
    Bit(0, "ACKNOWLEDGE"),
    Bit(1, "DRIVER"),
    Bit(3, "FEATURES_OK"),
    Bit(2, "DRIVER_OK"),
    Bit(6, "DEVICE_NEEDS_RESET"),
    Bit(7, "FAILED"),
];
const INTERRUPT: &[Field] = &[Bit(0, "used buffers"), Bit(1, "configuration")];
const FEATURES_LOW: &[Field] = &[
    Bit(1, "SIZE_MAX"),
    Bit(2, "SEG_MAX"),
    Bit(4, "GEOMETRY"),
    Bit(5, "RO"),
    Bit(6, "BLK_SIZE"),
    Bit(9, "FLUSH"),
    Bit(10, "TOPOLOGY"),
    Bit(11, "CONFIG_WCE"),
    Bit(12, "MQ"),
    Bit(13, "DISCARD"),
    Bit(14, "WRITE_ZEROES"),
    Bit(28, "INDIRECT_DESC"),
    Bit(29, "EVENT_IDX"),
];
const FEATURES_HIGH: &[Field] = &[
    Bit(0, "VERSION_1"),
    Bit(1, "ACCESS_PLATFORM"),
    Bit(2, "RING_PACKED"),
    Bit(3, "IN_ORDER"),
    Bit(4, "ORDER_PLATFORM"),
];

/// Registers that only have a name.
const PLAIN: [(u64, &str); 11] = [
    (0x000, "MagicValue"),
    (0x004, "Version"),
    (0x008, "DeviceID"),
    (0x00c, "VendorID"),
    (0x0ac, "SHMSel"),
    (0x0b0, "SHMLenLow"),
    (0x0b4, "SHMLenHigh"),
    (0x0b8, "SHMBaseLow"),
    (0x0bc, "SHMBaseHigh"),
    (0x0c0, "QueueReset"),
    (0x0fc, "ConfigGeneration"),
];
/// Registers of the queue that QueueSel selects.
const OF_QUEUE: [(u64, &str); 9] = [
    (0x034, "QueueNumMax"),
    (0x038, "QueueNum"),
    (0x044, "QueueReady"),
    (0x080, "QueueDescLow"),
    (0x084, "QueueDescHigh"),
    (0x090, "QueueDriverLow"),
    (0x094, "QueueDriverHigh"),
    (0x0a0, "QueueDeviceLow"),
    (0x0a4, "QueueDeviceHigh"),
];
/// Configuration space starts here.
pub(super) const CONFIG: u64 = 0x100;

/// What is known of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mmio {
    device_features: u64,
    driver_features: u64,
    queue: u64,
}

impl Mmio {
    /// The register at `offset` from the device's first address, and what was read or written there.
    pub(super) fn access(&mut self, offset: u64, value: u64, write: bool) -> Named {
        let select = |register: &mut u64| {
            *register = if write { value } else { *register };
            Meaning::None
        };
        match offset {
            0x010 => Named("DeviceFeatures", features(self.device_features, value)),
            0x014 => Named("DeviceFeaturesSel", select(&mut self.device_features)),
            0x020 => Named("DriverFeatures", features(self.driver_features, value)),
            0x024 => Named("DriverFeaturesSel", select(&mut self.driver_features)),
            0x030 => Named("QueueSel", select(&mut self.queue)),
            0x050 => Named("QueueNotify", Meaning::Number("queue", value)),
            0x060 => Named("InterruptStatus", Meaning::Fields(INTERRUPT, value)),
            0x064 => Named("InterruptACK", Meaning::Fields(INTERRUPT, value)),
            0x070 if value == 0 => Named("Status", Meaning::Phrase("reset")),
            0x070 => Named("Status", Meaning::Fields(STATUS, value)),
            _ => self.other(offset),
        }
    }

    fn other(&self, offset: u64) -> Named {
        let find =
            |table: &[(u64, &'static str)]| table.iter().find(|(at, _)| *at == offset).map(|(_, name)| *name);
        if let Some(name) = find(&PLAIN) {
            return Named(name, Meaning::None);
        }
        if let Some(name) = find(&OF_QUEUE) {
            return Named(name, Meaning::Number("queue", self.queue));
        }
        match offset.checked_sub(CONFIG) {
            Some(0..8) => Named("Config", Meaning::Phrase("capacity")),
            Some(12..16) => Named("Config", Meaning::Phrase("seg_max")),
            Some(20..24) => Named("Config", Meaning::Phrase("blk_size")),
            Some(field) => Named("Config", Meaning::Hex("byte", field)),
            None => Named("reserved", Meaning::None),
        }
    }
}

fn features(select: u64, value: u64) -> Meaning {
    match select {
        0 => Meaning::Fields(FEATURES_LOW, value),
        1 => Meaning::Fields(FEATURES_HIGH, value),
        _ => Meaning::None,
    }
}

/// The name of a virtio-blk request's type.
pub fn request(kind: u32) -> Option<&'static str> {
    Some(match kind {
        0 => "read",
        1 => "write",
        4 => "flush",
        8 => "get-id",
        10 => "get-lifetime",
        11 => "discard",
        13 => "write-zeroes",
        14 => "secure-erase",
        _ => return None,
    })
}

/// The name of a virtio-blk request's status.
pub fn status(status: u8) -> Option<&'static str> {
    ["ok", "error", "unsupported"].get(usize::from(status)).copied()
}

/// A virtio-blk request, decoded.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// its type
    pub kind: u32,
    /// first sector
    pub sector: u64,
    /// bytes of data
    pub bytes: u64,
    /// what the driver was answered
    pub status: u8,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match request(self.kind) {
            Some(name @ ("flush" | "get-id" | "get-lifetime")) => f.write_str(name)?,
            Some(name) => write!(f, "{name} sector {} {} bytes", self.sector, self.bytes)?,
            None => write!(f, "type {} sector {} {} bytes", self.kind, self.sector, self.bytes)?,
        }
        match status(self.status) {
            Some(name) => write!(f, " -> {name}"),
            None => write!(f, " -> status {}", self.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(mmio: &mut Mmio, offset: u64, value: u64, write: bool) -> String {
        let Named(name, meaning) = mmio.access(offset, value, write);
        format!("{name}: {meaning}")
    }

    #[test]
    fn a_driver_starting_the_disk_is_followed() {
        let mut mmio = Mmio::default();
        for (offset, value, write, expected) in [
            (0x000, 0x7472_6976, false, "MagicValue: "),
            (0x070, 0, true, "Status: reset"),
            (0x070, 3, true, "Status: ACKNOWLEDGE, DRIVER"),
            (0x014, 1, true, "DeviceFeaturesSel: "),
            (0x010, 1, false, "DeviceFeatures: VERSION_1"),
            (0x014, 0, true, "DeviceFeaturesSel: "),
            (0x010, 0x244, false, "DeviceFeatures: SEG_MAX, BLK_SIZE, FLUSH"),
            (0x024, 1, true, "DriverFeaturesSel: "),
            (0x020, 1, true, "DriverFeatures: VERSION_1"),
            (0x024, 7, true, "DriverFeaturesSel: "),
            (0x020, 1, true, "DriverFeatures: "),
            (0x070, 15, true, "Status: ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK"),
            (0x030, 2, true, "QueueSel: "),
            (0x030, 9, false, "QueueSel: "),
            (0x034, 256, false, "QueueNumMax: queue 2"),
            (0x080, 0x1000, true, "QueueDescLow: queue 2"),
            (0x050, 0, true, "QueueNotify: queue 0"),
            (0x060, 1, false, "InterruptStatus: used buffers"),
            (0x064, 3, true, "InterruptACK: used buffers, configuration"),
            (0x100, 1, false, "Config: capacity"),
            (0x118, 1, false, "Config: byte 0x18"),
            (0x0d0, 1, false, "reserved: "),
        ] {
            assert_eq!(text(&mut mmio, offset, value, write), expected);
        }
    }

    #[test]
    fn requests_are_named() {
        let request = |kind, status| Request { kind, sector: 8, bytes: 4096, status }.to_string();
        assert_eq!(request(0, 0), "read sector 8 4096 bytes -> ok");
        assert_eq!(request(1, 1), "write sector 8 4096 bytes -> error");
        assert_eq!(request(4, 0), "flush -> ok");
        assert_eq!(request(8, 2), "get-id -> unsupported");
        assert_eq!(request(77, 9), "type 77 sector 8 4096 bytes -> status 9");
    }
}
