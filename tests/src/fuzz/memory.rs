//! Pages that two processes share, and memory for the soft CPU.
#![allow(unsafe_code)] // mmap

use std::io;

/// Anonymous zeroed pages, shared with child processes; never unmapped.
///
/// # Errors
/// No memory.
pub fn shared_pages(bytes: usize) -> io::Result<*mut u8> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast()) }
}

/// Pages at a fixed address, which must be free.
///
/// # Errors
/// Something is mapped there.
pub fn fixed_pages(address: u64, bytes: usize, protection: i32) -> io::Result<*mut u8> {
    // SAFETY: MAP_FIXED_NOREPLACE replaces nothing.
    let mapped = unsafe {
        libc::mmap(
            address as *mut libc::c_void,
            bytes,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(mapped.cast()) }
}

/// A page that can be written at one address and executed at another, `execute_at`: returns the first.
///
/// # Errors
/// Something is mapped there, or no memory.
pub fn code_page(execute_at: u64, bytes: usize) -> io::Result<*mut u8> {
    let fail = io::Error::last_os_error;
    // SAFETY: a new file without a name.
    let file = unsafe { libc::memfd_create(c"code".as_ptr(), 0) };
    if file < 0 {
        return Err(fail());
    }
    // SAFETY: the file is ours; the first mapping is at an address of the kernel's choice, the second replaces nothing.
    unsafe {
        if libc::ftruncate(file, bytes as i64) != 0 {
            return Err(fail());
        }
        let write = libc::PROT_READ | libc::PROT_WRITE;
        let written = libc::mmap(std::ptr::null_mut(), bytes, write, libc::MAP_SHARED, file, 0);
        let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
        let execute = libc::PROT_READ | libc::PROT_EXEC;
        let executed = libc::mmap(execute_at as *mut libc::c_void, bytes, execute, flags, file, 0);
        libc::close(file);
        if written == libc::MAP_FAILED || executed == libc::MAP_FAILED {
            return Err(fail());
        }
        Ok(written.cast())
    }
}
