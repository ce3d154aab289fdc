//! Which lane an exit or a disk request belongs to, and what to call it there.

use std::borrow::Cow;

use scribe_devices::virtio::blk::RequestRecord;

use super::lane::Kind;
use crate::engine::{Answer, Exit};
use crate::inspect::decode::{Decoder, Device, request_name, request_status};

/// An exit as its lane takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// the lane's name
    pub(super) lane: &'static str,
    pub(super) kind: Kind,
    /// port, address or number of the MSR
    pub(super) address: u64,
    /// what was read or written
    pub(super) value: u64,
    /// all of it in words
    pub(super) text: String,
}

/// Classifies an exit; `None` for HLT, which the idle time behind it shows.
pub(super) fn exit(decoder: &mut Decoder, exit: &Exit, answer: Answer) -> Option<Seen> {
    let decoded = decoder.exit(exit, answer);
    let read = match answer {
        Answer::Value(value) => value,
        Answer::Done | Answer::GeneralProtection => 0,
    };
    let (verb, address, value, write) = match *exit {
        Exit::PortRead { port, size } => (sized(&["in8", "in16", "in32"], size), port.into(), read, false),
        Exit::PortWrite { port, size, value } => {
            (sized(&["out8", "out16", "out32"], size), port.into(), value.into(), true)
        }
        Exit::MmioRead { address, size } => {
            (sized(&["load8", "load16", "load32", "load64"], size), address, read, false)
        }
        Exit::MmioWrite { address, size, value } => {
            (sized(&["store8", "store16", "store32", "store64"], size), address, value, true)
        }
        Exit::MsrRead { index } => ("rdmsr", index.into(), read, false),
        Exit::MsrWrite { index, value } => ("wrmsr", index.into(), value, true),
        Exit::Halt => return None,
    };
    let lane = match decoded.device {
        Device::Cpu | Device::Machine => "msr",
        Device::Disk | Device::Virtio => "virtio",
        other => other.name(),
    };
    let name = match decoded.register {
        "" => Cow::Owned(format!("{address:#x}")),
        name => Cow::Borrowed(name),
    };
    Some(Seen { lane, kind: Kind { verb, name, write }, address, value, text: decoded.to_string() })
}

/// The name for an access of `size` bytes.
fn sized(names: &[&'static str], size: u8) -> &'static str {
    let at = usize::try_from(size.max(1).ilog2()).unwrap_or(0);
    names.get(at).copied().unwrap_or("access")
}

/// What to call a disk request.
pub(super) fn request(request: &RequestRecord) -> Kind {
    let RequestRecord { kind, status, .. } = *request;
    let name = request_name(kind).map_or_else(|| Cow::Owned(format!("type {kind}")), Cow::Borrowed);
    let name = match request_status(status) {
        Some("ok") => name,
        Some(other) => Cow::Owned(format!("{name}, {other}")),
        None => Cow::Owned(format!("{name}, status {status}")),
    };
    let reads = matches!(request_name(kind), Some("read" | "get-id" | "get-lifetime"));
    Kind { verb: "", name, write: !reads }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_come_to_the_lanes_of_their_devices() {
        let mut decoder = Decoder::default();
        for (taken, answer, lane, verb, name, write) in [
            (
                Exit::PortWrite { port: 0x3f8, size: 1, value: 0x41 },
                Answer::Done,
                "uart",
                "out8",
                "THR",
                true,
            ),
            (Exit::PortRead { port: 0x3fd, size: 1 }, Answer::Value(0x60), "uart", "in8", "LSR", false),
            (
                Exit::PortWrite { port: 0xcf8, size: 4, value: 0 },
                Answer::Done,
                "unmapped",
                "out32",
                "PCI configuration address",
                true,
            ),
            (
                Exit::PortRead { port: 0x999, size: 2 },
                Answer::Value(0xffff),
                "unmapped",
                "in16",
                "0x999",
                false,
            ),
            (
                Exit::MmioWrite { address: 0xd000_0050, size: 4, value: 0 },
                Answer::Done,
                "virtio",
                "store32",
                "QueueNotify",
                true,
            ),
            (
                Exit::MmioRead { address: 0xfee0_0000, size: 8 },
                Answer::Value(0),
                "unmapped",
                "load64",
                "local APIC",
                false,
            ),
            (Exit::MsrRead { index: 0x8b }, Answer::Value(1), "msr", "rdmsr", "PATCH_LEVEL", false),
            (
                Exit::MsrWrite { index: 0x999, value: 1 },
                Answer::GeneralProtection,
                "msr",
                "wrmsr",
                "0x999",
                true,
            ),
        ] {
            let seen = exit(&mut decoder, &taken, answer).unwrap();
            let kind = Kind { verb, name: name.into(), write };
            assert_eq!((seen.lane, &seen.kind), (lane, &kind));
            assert!(seen.text.starts_with(verb), "{}", seen.text);
        }
        assert_eq!(exit(&mut decoder, &Exit::Halt, Answer::Done), None);
    }

    #[test]
    fn requests_are_named_with_what_became_of_them() {
        let kind = |kind, status| request(&RequestRecord { kind, sector: 0, bytes: 512, status });
        assert_eq!(kind(0, 0), Kind { verb: "", name: "read".into(), write: false });
        assert_eq!(kind(1, 1), Kind { verb: "", name: "write, error".into(), write: true });
        assert_eq!(kind(4, 0).name, "flush");
        assert_eq!(kind(99, 2).name, "type 99, unsupported");
    }
}
