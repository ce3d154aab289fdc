//! passt: translates the guest's frames into the sockets of a program, so it needs no privileges.
//!
//! It is given one end of a pair of sockets as its standard input, and ends when the other end is closed. The guest's
//! addresses are always the same: 10.0.2.15/24, and 10.0.2.2 as the gateway, behind which is the host's own loopback
//! address too.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::NetError;

/// Foreground; the socket is descriptor 0; IPv4 only, addresses fixed; frames of Ethernet's size; no port of the host
/// leads into the guest.
const OPTIONS: [&str; 17] = [
    "--foreground",
    "--quiet",
    "--fd",
    "0",
    "--ipv4-only",
    "--address",
    "10.0.2.15",
    "--netmask",
    "24",
    "--gateway",
    "10.0.2.2",
    "--mtu",
    "1500",
    "--tcp-ports",
    "none",
    "--udp-ports",
    "none",
];

/// Starts it; gives our end of the connection.
pub(super) fn start() -> Result<(UnixStream, Child), NetError> {
    let (ours, theirs) = UnixStream::pair().map_err(NetError::Host)?;
    let child = Command::new("passt")
        .args(OPTIONS)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Ctrl-C at the terminal is for the guest's run, which ends in order.
        .process_group(0)
        .spawn()
        .map_err(NetError::Passt)?;
    Ok((ours, child))
}
