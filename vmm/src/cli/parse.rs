//! Parsing option values. Each error says what is wanted.

use std::time::Duration;

use crate::host::net::Backend;
use crate::machine::platform::Platform;

/// Bytes: a number with an optional K, M or G (powers of 1024).
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wanted = || format!("`{text}` is no size; wanted is a number with K, M or G, such as 256M");
    let upper = text.trim().to_ascii_uppercase();
    let upper = upper.trim_end_matches("IB").trim_end_matches('B');
    let (digits, shift) = match upper.chars().last() {
        Some('K') => (&upper[..upper.len() - 1], 10),
        Some('M') => (&upper[..upper.len() - 1], 20),
        Some('G') => (&upper[..upper.len() - 1], 30),
        _ => (upper, 0),
    };
    let number: u64 = digits.parse().map_err(|_| wanted())?;
    number.checked_mul(1 << shift).ok_or_else(wanted)
}

/// A duration such as `2.5s`, `300ms`, `1min`; in nanoseconds.
pub(crate) fn duration(text: &str) -> Result<u64, String> {
    let wanted = || format!("`{text}` is no duration; wanted is a number and a unit, such as 2.5s or 300ms");
    let seconds = text.strip_suffix('s').and_then(|number| number.parse::<f64>().ok());
    let duration = match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| wanted())?,
        None => humantime::parse_duration(text).map_err(|_| wanted())?,
    };
    u64::try_from(duration.as_nanos()).map_err(|_| wanted())
}

/// A duration, or `off`, which is 0; in nanoseconds.
pub(crate) fn duration_or_off(text: &str) -> Result<u64, String> {
    match text {
        "off" | "0" => Ok(0),
        _ => duration(text).map_err(|_| {
            format!("`{text}` is no duration; wanted is `off`, or a number and a unit, such as 10ms")
        }),
    }
}

/// 32 bytes in hexadecimal; fewer digits are the leading ones, followed by zeros.
pub(crate) fn seed(text: &str) -> Result<[u8; 32], String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!("`{text}` is no seed; wanted are 1 to 64 hexadecimal digits"));
    }
    let mut seed = [0; 32];
    for (i, digit) in digits.chars().enumerate() {
        let value = u8::try_from(digit.to_digit(16).unwrap_or(0)).unwrap_or(0);
        seed[i / 2] |= if i % 2 == 0 { value << 4 } else { value };
    }
    Ok(seed)
}

/// What the guest's network is connected to; nothing if there is to be none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Net(pub(crate) Option<Backend>);

/// `none`, `user` or `tap=NAME`.
pub(crate) fn net(text: &str) -> Result<Net, String> {
    match text.split_once('=') {
        None if text == "none" => Ok(Net(None)),
        None if text == "user" => Ok(Net(Some(Backend::User))),
        Some(("tap", name)) if !name.is_empty() => Ok(Net(Some(Backend::Tap(name.into())))),
        _ => Err(format!("`{text}` is no network; wanted is none, user or tap=NAME")),
    }
}

/// The name of a platform.
pub(crate) fn platform(text: &str) -> Result<Platform, String> {
    let known = || Platform::ALL.map(Platform::name).join(" and ");
    Platform::named(text).ok_or_else(|| format!("`{text}` is no platform; there are {}", known()))
}

/// What the real-time clock shows at power-on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rtc {
    /// the host's time
    Host,
    /// seconds since 1970
    At(u64),
}

/// `host` or a UTC time such as 2026-01-31T12:00:00Z.
pub(crate) fn rtc(text: &str) -> Result<Rtc, String> {
    if text == "host" {
        return Ok(Rtc::Host);
    }
    let date_only = format!("{text}T00:00:00Z");
    let parsed = humantime::parse_rfc3339_weak(text).or_else(|_| humantime::parse_rfc3339_weak(&date_only));
    parsed
        .ok()
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
        .map(|since| Rtc::At(since.as_secs()))
        .ok_or_else(|| {
            format!("`{text}` is no time; wanted is `host` or a UTC time such as 2026-01-31T12:00:00Z")
        })
}

/// A range of microseconds such as 500..10000.
pub(crate) fn range(text: &str) -> Result<(u64, u64), String> {
    let parsed = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parsed.filter(|(a, b)| a <= b && *a > 0).ok_or_else(|| format!("`{text}` is no range such as 500..10000"))
}

/// The size of a terminal, such as 80x25.
pub(crate) fn terminal(text: &str) -> Result<(u16, u16), String> {
    let parsed = text.split_once('x').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parsed.ok_or_else(|| format!("`{text}` is no size of a terminal such as 80x25"))
}

/// Seeds: the first and the last, such as 1..20, or one alone.
pub(crate) fn seeds(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let last = last.strip_prefix('=').unwrap_or(last);
    let parsed = first.parse().ok().zip(last.parse().ok());
    parsed
        .filter(|(first, last)| first <= last)
        .ok_or_else(|| format!("`{text}` names no seeds; wanted are the first and the last, such as 1..20"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_terminals() {
        assert_eq!(net("none"), Ok(Net(None)));
        assert_eq!(net("user"), Ok(Net(Some(Backend::User))));
        assert_eq!(net("tap=t0"), Ok(Net(Some(Backend::Tap("t0".into())))));
        assert!(["", "tap", "tap=", "user=1", "bridge"].into_iter().all(|text| net(text).is_err()));
        assert_eq!(terminal("132x50"), Ok((132, 50)));
        assert!(["", "80", "80x", "80x70000", "-1x2"].into_iter().all(|text| terminal(text).is_err()));
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("128M"), Ok(128 << 20));
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("2k"), Ok(2048));
        for bad in ["", "M", "12X", "-1M", "99999999999G"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn seeds_are_a_range_with_its_last() {
        assert_eq!(seeds("1..20"), Ok((1, 20)));
        assert_eq!(seeds("1..=20"), Ok((1, 20)));
        assert_eq!(seeds("7"), Ok((7, 7)));
        assert_eq!(seeds("0..18446744073709551615"), Ok((0, u64::MAX)));
        for bad in ["", "..", "1..", "..2", "2..1", "-1..2", "1...2", "a..b"] {
            assert!(seeds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("2.5s"), Ok(2_500_000_000));
        assert_eq!(duration("300ms"), Ok(300_000_000));
        assert_eq!(duration("1min"), Ok(60_000_000_000));
        assert!(duration("5").is_err());
        assert_eq!(["off", "0", "0ms", "10ms"].map(duration_or_off), [0, 0, 0, 10_000_000].map(Ok));
        assert!(duration_or_off("on").is_err());
        assert!(duration("-1s").is_err());
    }

    #[test]
    fn entropy() {
        assert_eq!(seed("a1").unwrap()[..2], [0xa1, 0]);
        assert_eq!(seed("abc").unwrap()[..2], [0xab, 0xc0]);
        assert!(seed("").is_err());
        assert!(seed("xy").is_err());
        assert!(seed(&"0".repeat(65)).is_err());
    }

    #[test]
    fn times() {
        assert_eq!(rtc("host"), Ok(Rtc::Host));
        assert_eq!(rtc("2026-01-01T00:00:00Z"), Ok(Rtc::At(1_767_225_600)));
        assert_eq!(rtc("2026-01-01"), Ok(Rtc::At(1_767_225_600)));
        assert!(rtc("1969-01-01").is_err());
        assert!(rtc("yesterday").is_err());
    }
}
