//! A generation of tables on its way into the kernel: a map of its own is made and filled, then put
//! into the map of maps. Nothing is ever written to a generation that programs may be reading.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::error::{Context, Result};
use crate::load;
use crate::tables::Tables;

/// A generation that is in the kernel and not in force.
pub struct Filled {
    map: MapHandle,
    pub(crate) number: u64,
}

/// A map for a generation that is still to be written. To make one takes as long as to fill it.
pub struct Blank(MapHandle);

const ZERO: [u8; 4] = [0; 4];

/// Makes a map for a generation. Fails when the kernel has no memory.
pub fn blank() -> Result<Blank> {
    load::new_generation_map().map(Blank)
}

/// Writes tables to a map of their own.
pub fn fill(Blank(map): Blank, tables: &Tables) -> Result<Filled> {
    let what = || "fill a generation of tables".into();
    // Mapped, because only what is in use needs to be written: the rest of a new map is zero.
    // SAFETY: a new mapping at an address of the kernel's choice.
    let begin = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            Tables::BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            map.as_fd().as_raw_fd(),
            0,
        )
    };
    if begin == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error()).context(what);
    }
    // SAFETY: the mapping has this many bytes, all initialised, and nobody else knows of the map.
    tables.write(unsafe { std::slice::from_raw_parts_mut(begin.cast(), Tables::BYTES) });
    // SAFETY: mapped above, and the slice is gone.
    unsafe { libc::munmap(begin, Tables::BYTES) };
    Ok(Filled { map, number: tables.number() })
}

/// Puts a generation into the map of maps.
///
/// The kernel ends that call when no program uses the old generation any more, which takes some
/// ten milliseconds; the new one is in force from its beginning. So a thread waits for the end, and
/// keeps the old map until then: kernels before 6.7 may free it too early otherwise
/// (CVE-2023-52447).
pub(crate) fn switch(generations: &MapHandle, filled: Filled) -> Result<()> {
    let what = || "put a generation of tables in force".into();
    let wanted = id(&filled.map).context(what)?;
    let map = MapHandle::try_from(generations).context(what)?;
    let old = in_force(generations).and_then(|id| MapHandle::from_map_id(id).ok());
    let update = std::thread::Builder::new().name("switch".into()).spawn(move || {
        let descriptor = filled.map.as_fd().as_raw_fd() as u32;
        let done = map.update(&ZERO, &descriptor.to_ne_bytes(), MapFlags::ANY);
        drop(old);
        done
    });
    let update = update.context(what)?;
    while in_force(generations) != Some(wanted) {
        if update.is_finished() {
            return update.join().expect("updating a map does not panic").context(what);
        }
        std::thread::sleep(Duration::from_micros(20));
    }
    Ok(())
}

fn id(map: &MapHandle) -> libbpf_rs::Result<u32> {
    Ok(map.info()?.info.id)
}

/// The id of the map in force.
fn in_force(generations: &MapHandle) -> Option<u32> {
    let id = generations.lookup(&ZERO, MapFlags::ANY).ok()??;
    Some(u32::from_ne_bytes(id.try_into().ok()?))
}
