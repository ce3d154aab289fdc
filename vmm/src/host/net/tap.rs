//! A tap interface of the host: what is written to it arrives at the host's network, and the other way round.
#![allow(unsafe_code)] // the one ioctl that names the interface

use std::fs::File;

use libc::{IFF_NO_PI, IFF_TAP, ifreq};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::NetError;

ioctl_iow_nr!(TUNSETIFF, b'T' as u32, 202, i32);

/// Opens the tap interface of this name, and makes it if root asks. Frames without a header before them.
pub(super) fn open(name: &str) -> Result<File, NetError> {
    let error = |what| move |source| NetError::Tap { name: name.to_owned(), what, source };
    let is_name = (1..libc::IFNAMSIZ).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/%:".contains(&byte));
    if !is_name {
        return Err(NetError::Name(name.to_owned()));
    }
    let file =
        File::options().read(true).write(true).open("/dev/net/tun").map_err(error("opening /dev/net/tun"))?;
    // SAFETY: a structure of integers and a union of such, for which zeros are a value.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = i16::try_from(IFF_TAP | IFF_NO_PI).unwrap_or(0);
    // SAFETY: the fd is a tun device's and the argument is the structure that TUNSETIFF reads and writes.
    let ret = unsafe { ioctl_with_mut_ref(&file, TUNSETIFF(), &mut request) };
    if ret < 0 {
        return Err(error("attaching to the interface")(std::io::Error::last_os_error()));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["", "a name", "../tap", "a%d", "sixteen-bytes-xx"] {
            assert!(matches!(open(name), Err(NetError::Name(_))), "{name}");
        }
    }
}
