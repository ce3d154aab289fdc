//! What the header says of a machine's virtio devices behind its first disk.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A virtio device. The first of them is in slot 1, the next in slot 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Device {
    /// A network device.
    Net {
        /// Its hardware address.
        mac: Mac,
    },
    /// An entropy device.
    Rng {},
    /// A console, and the size of its terminal at power-on.
    Console {
        /// Characters of a line.
        cols: u16,
        /// Lines.
        rows: u16,
    },
}

/// A hardware address: "52:54:00:12:34:56" in the file, lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = &'static str;

    /// Six pairs of hexadecimal digits with colons between.
    fn from_str(text: &str) -> Result<Mac, &'static str> {
        const WRONG: &str =
            "a hardware address is six pairs of hexadecimal digits, such as 52:54:00:12:34:56";
        let byte = |pair: &str| {
            let is_pair = pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_pair { u8::from_str_radix(pair, 16).ok() } else { None }
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Mac).ok_or(WRONG)
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mac: Mac = text.parse().map_err(D::Error::custom)?;
        if mac.to_string() == text { Ok(mac) } else { Err(D::Error::custom("not in lower case")) }
    }
}

/// A list that is there is not empty.
pub(super) fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Device>, D::Error> {
    let devices = Vec::deserialize(deserializer)?;
    if devices.is_empty() { Err(D::Error::custom("an empty list of devices")) } else { Ok(devices) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_in_json() {
        let devices = vec![
            Device::Net { mac: Mac([0x52, 0x54, 0, 0x12, 0xab, 0xff]) },
            Device::Rng {},
            Device::Console { cols: 80, rows: 25 },
        ];
        let text = r#"[{"net":{"mac":"52:54:00:12:ab:ff"}},{"rng":{}},{"console":{"cols":80,"rows":25}}]"#;
        assert_eq!(serde_json::to_string(&devices).unwrap(), text);
        assert_eq!(serde_json::from_str::<Vec<Device>>(text).unwrap(), devices);
        for bad in [
            r#"[{"net":{"mac":"52:54:00:12:AB:ff"}}]"#,
            r#"[{"net":{"mac":"52:54:00:12:ab"}}]"#,
            r#"[{"net":{"mac":"52:54:00:12:ab:+f"}}]"#,
            r#"[{"net":{}}]"#,
            r#"[{"rng":{"more":1}}]"#,
            r#"["rng"]"#,
            r#"[{"sound":{}}]"#,
        ] {
            assert!(serde_json::from_str::<Vec<Device>>(bad).is_err(), "{bad}");
        }
    }
}
