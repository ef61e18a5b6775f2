//! Maps that the XDP program and we have in common memory. All unsafe code about them is here.

use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use weir_l4_common::client::Client;
use weir_l4_common::family::{V4, V6};
use weir_l4_common::listeners::Entry;
use weir_l4_common::load::Load;
use weir_l4_common::record::{BackendRecord, Layout, LinkRecord, ListenerRecord};
use weir_l4_common::service::{Backend, SCHEDULE_LANES};

use crate::line::{Cells, Line};

/// A value of a map whose bytes other cores change while we look.
///
/// # Safety
/// Every bit pattern is valid, nothing but atomics inside, and the size is that of the map's value, a multiple of 8.
pub(crate) unsafe trait Shared {}

/// A value of `SCHEDULE`: four backend numbers, the first in the lowest bits.
pub(crate) type ScheduleCell = AtomicU64;
/// A value of `BACKENDS` in words, each read and written whole.
pub(crate) type BackendCell = [AtomicU64; 4];
/// A value of `LISTENER_SLOTS`: two slots.
pub(crate) type SlotsCell = [AtomicU32; 2];
/// A value of `LISTENERS`.
pub(crate) type ListenerCell = [AtomicU64; size_of::<Entry>() / 8];
/// The value of `LAYOUT`.
pub(crate) type LayoutCell = [AtomicU64; size_of::<Layout>() / 8];
/// A value of `LISTENER_RECORDS`.
pub(crate) type ListenerRecordCell = [AtomicU64; size_of::<ListenerRecord>() / 8];
/// A value of `BACKEND_RECORDS`.
pub(crate) type BackendRecordCell = [AtomicU64; size_of::<BackendRecord>() / 8];
/// A value of `LINK_RECORDS`.
pub(crate) type LinkCell = [AtomicU64; size_of::<LinkRecord>() / 8];
/// A value of `LOADS`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct LoadCell {
    pub(crate) sessions: AtomicU32,
    pub(crate) weight: AtomicU32,
    pub(crate) pool: AtomicU64,
}
/// A quarter of a value of `CLIENTS`: tag, word.
pub(crate) type ClientCell = [AtomicU64; 2];
/// The value of `CLOCK`: jiffies, nanoseconds since boot.
pub(crate) type ClockCell = [AtomicU64; 2];

const _: () = assert!(size_of::<ScheduleCell>() == SCHEDULE_LANES as usize * size_of::<u16>());
const _: () = assert!(size_of::<BackendCell>() == size_of::<Backend>());

// SAFETY: an atomic of 8 bytes.
unsafe impl Shared for ScheduleCell {}
// SAFETY: atomics, 8 bytes.
unsafe impl Shared for SlotsCell {}
const _: () = assert!(size_of::<LoadCell>() == size_of::<Load>());
const _: () = assert!(size_of::<ClientCell>() == size_of::<Client>());

// SAFETY: atomics, 16 bytes.
unsafe impl Shared for LoadCell {}
// SAFETY: atomics of 8 bytes; for LISTENERS, BACKENDS, CLIENTS, CLOCK and the records.
unsafe impl<const WORDS: usize> Shared for [AtomicU64; WORDS] {}
// SAFETY: `Line` is made of atomics alone; 64 bytes, a quarter of the map's value.
unsafe impl Shared for Line<V4> {}
// SAFETY: the same with 128 bytes, of which the last 16 are nobody's.
unsafe impl Shared for Line<V6> {}

/// A map's values as a slice, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Mapped<T: Shared> {
    base: NonNull<T>,
    count: usize,
    values: PhantomData<T>,
}

// SAFETY: the memory belongs to the process, not to a thread, and holds atomics alone.
unsafe impl<T: Shared> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Mapped<T> {}

impl<T: Shared> Mapped<T> {
    /// Maps the first `count` values of a memory-mappable array map.
    pub(crate) fn new(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let bytes = Self::bytes(count)?;
        // SAFETY: a new mapping at a place that the kernel chooses touches no memory in use.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            base,
            count,
            values: PhantomData,
        })
    }

    fn bytes(count: usize) -> io::Result<usize> {
        count
            .checked_mul(size_of::<T>())
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl<T: Shared> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` mapped `count` values here, page-aligned, and they stay until the drop; the kernel refuses a
        // mapping beyond the map's end. Others change them, which `Shared` allows.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.count) }
    }
}

impl<T: Shared> Drop for Mapped<T> {
    fn drop(&mut self) {
        let bytes = self.count * size_of::<T>();
        // SAFETY: exactly what `new` mapped; the borrow checker proves that no slice of it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), bytes) };
    }
}

/// Asks the processor to fetch a line that will be looked at soon.
#[inline]
pub(crate) fn prefetch<F: Cells>(line: &Line<F>) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect but on caches, and the address is that of a live reference.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering::Relaxed;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    #[test]
    fn two_mappings_of_one_file_see_each_other() {
        let fd = memfd_create(c"weir-test", MFdFlags::empty()).unwrap();
        nix::unistd::ftruncate(&fd, 4096).unwrap();
        let here: Mapped<BackendCell> = Mapped::new(fd.as_fd(), 128).unwrap();
        let there: Mapped<BackendCell> = Mapped::new(fd.as_fd(), 128).unwrap();
        assert_eq!(here.len(), 128);
        here[127][1].store(7, Relaxed);
        assert_eq!(there[127][1].load(Relaxed), 7);
        assert!(Mapped::<BackendCell>::new(fd.as_fd(), 0).is_err());
        assert!(Mapped::<BackendCell>::new(fd.as_fd(), usize::MAX).is_err());
    }
}
