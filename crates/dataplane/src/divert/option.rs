//! Socket options that the standard library does not have.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Cookie of the socket's network namespace (include/uapi/asm-generic/socket.h).
pub(crate) const SO_NETNS_COOKIE: libc::c_int = 71;

/// Sets an option; `T` is the kernel's type for it.
pub(super) fn set<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    set_bytes(socket, level, name, std::ptr::from_ref(value).cast(), size_of::<T>())
}

/// Sets an option that is a list.
pub(super) fn set_list<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    values: &[T],
) -> io::Result<()> {
    set_bytes(socket, level, name, values.as_ptr().cast(), size_of_val(values))
}

fn set_bytes(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: *const libc::c_void,
    length: usize,
) -> io::Result<()> {
    // SAFETY: the two callers hand on a live value of `length` bytes.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, value, length as libc::socklen_t)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option; `T` is the kernel's type for it, for which any bytes are valid.
pub(crate) fn get<T: Copy>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<T> {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` has room for `length` bytes.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &mut length)
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed, and written by the kernel; the callers ask for plain integers.
    Ok(unsafe { value.assume_init() })
}
