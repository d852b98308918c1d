//! The buffers that the kernel picks from when bytes arrive (a provided-buffer ring).
//!
//! A receive that waits owns no buffer: it names the pool, and the kernel takes a buffer out of the
//! *window*, the few that are offered at a time, only when bytes are there (io_uring_register(2),
//! IORING_REGISTER_PBUF_RING, Linux 5.19). The kernel takes them first in, first out, so the window
//! is small: it is the memory that the data path walks through. Behind it stands a stack of free
//! buffers, last in, first out, whose untouched pages do not exist yet.
//!
//! Memory is mapped once, for the life of the pool, and never moves: what the kernel writes to is
//! always there. Buffers that have been idle for a while give their pages back
//! ([`BufferPool::trim`]).

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::sys::kernel::Trimmed;
use io_uring::types::BufRingEntry;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Bytes in one buffer. Of 16 to 128 KiB, 32 moved bulk best without leaving the second-level
/// cache.
pub const BUFFER_BYTES: u32 = 32 * 1024;

/// Buffers offered to the kernel at the least. Doubles when a turn finds the window empty.
const WINDOW_MIN: u16 = 32;

/// Entries of the shared ring: the most buffers that can be offered (a power of two).
const RING_ENTRIES: u16 = 1024;

/// Bytes that have arrived, in the caller's hands until it gives the buffer back.
///
/// Neither `Clone` nor constructible outside: one value, one buffer.
#[derive(Debug)]
#[must_use = "a buffer that is not released is lost to the pool"]
pub struct Buffer {
    id: u16,
    length: u32,
}

impl Buffer {
    /// How many bytes have arrived in it; never 0.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.length
    }
}

/// Anonymous memory, mapped at construction and unmapped at drop.
#[derive(Debug)]
struct Mapping {
    start: NonNull<libc::c_void>,
    length: NonZeroUsize,
}

impl Mapping {
    fn new(length: usize) -> io::Result<Self> {
        let length = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: mmap of fresh anonymous memory at an address of the kernel's choice has no
        // requirement on existing memory.
        let start = unsafe { mmap_anonymous(None, length, access, flags) }?;
        Ok(Self { start, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the one that mmap returned, and nothing refers to it any
        // more: the pool that owns it drops after its ring (see `Uring`), which has no operation
        // left.
        let _ = unsafe { munmap(self.start, self.length.get()) };
    }
}

/// Where a buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Free, and never used since its pages were last given back.
    Untouched,
    /// Free.
    Free,
    /// In the window.
    Offered,
    /// In somebody's hands.
    Held,
}

/// The pool: the window that the kernel sees and the free buffers behind it.
#[derive(Debug)]
pub struct BufferPool {
    /// The ring of descriptors that the kernel reads.
    entries: Mapping,
    /// The buffers themselves, one after the other.
    memory: Mapping,
    count: u16,
    /// Buffers that are neither offered nor in somebody's hands; the last one is the warmest.
    free: Vec<u16>,
    /// Where each buffer is. A buffer in two places would mix up two connections' bytes, so every
    /// change of place is checked, in release builds too.
    places: Vec<Place>,
    /// The lowest that `free` has been since the last trim: what lies below was not needed.
    free_low_water: usize,
    tail: u16,
    offered: u16,
    window: u16,
    /// What the offered buffers have been used for since the last trim.
    offered_use: Use,
}

/// Whether pages of offered buffers can exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// The kernel took some since the last trim.
    Recent,
    /// None was taken since the last trim; those that came back before may have pages.
    Past,
    /// Their pages were given back.
    None,
}

/// Buffers that are offered to the kernel at the most. One that is offered cannot be taken back, so
/// half of them stay for bytes that are to be sent from a copy ([`BufferPool::fill`]): on a quiet
/// worker nothing else would ever free one.
fn window_max(count: u16) -> u16 {
    RING_ENTRIES.min(count.div_ceil(2))
}

impl BufferPool {
    /// Maps memory for `count` buffers; none of it exists before it is used.
    ///
    /// # Errors
    /// ENOMEM: the address space limit is too low (RLIMIT_AS), or `count` is 0.
    pub fn new(count: u16) -> io::Result<Self> {
        let entries = Mapping::new(usize::from(RING_ENTRIES) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(count) * BUFFER_BYTES as usize)?;
        Ok(Self {
            entries,
            memory,
            count,
            free: (0..count).rev().collect(),
            places: vec![Place::Untouched; usize::from(count)],
            free_low_water: usize::from(count),
            tail: 0,
            offered: 0,
            window: WINDOW_MIN.min(window_max(count)),
            offered_use: Use::None,
        })
    }

    /// Address and number of entries of the shared ring, for its registration.
    pub(in crate::sys) fn registration(&self) -> (u64, u16) {
        (self.entries.start.as_ptr() as u64, RING_ENTRIES)
    }

    /// Offers buffers until the window is full. Cheap when it already is.
    pub(in crate::sys) fn refill(&mut self) {
        if self.offered >= self.window {
            return;
        }
        while self.offered < self.window {
            let Some(id) = self.free.pop() else { break };
            self.places[usize::from(id)] = Place::Offered;
            self.write_entry(id);
            self.tail = self.tail.wrapping_add(1);
            self.offered += 1;
        }
        self.free_low_water = self.free_low_water.min(self.free.len());
        self.publish_tail();
    }

    /// The kernel took buffer `id` out of the window and put `length` bytes into it.
    pub(in crate::sys) fn taken(&mut self, id: u16, length: u32) -> Buffer {
        let place = self.places.get_mut(usize::from(id));
        assert_eq!(place, Some(&mut Place::Offered), "the kernel returned buffer {id}");
        self.places[usize::from(id)] = Place::Held;
        self.offered -= 1;
        self.offered_use = Use::Recent;
        Buffer { id, length: length.min(BUFFER_BYTES) }
    }

    /// The kernel found the window empty: a larger one from now on.
    pub(in crate::sys) fn starved(&mut self) {
        self.window = self.window.saturating_mul(2).min(window_max(self.count));
    }

    /// Buffers that receives could be given after a refill.
    #[must_use]
    #[inline]
    pub fn free(&self) -> usize {
        usize::from(self.offered) + self.free.len()
    }

    /// All buffers, free or not.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Takes a buffer back.
    #[inline]
    pub fn release(&mut self, buffer: Buffer) {
        let place = &mut self.places[usize::from(buffer.id)];
        assert_eq!(*place, Place::Held, "buffer {} was released", buffer.id);
        *place = Place::Free;
        self.free.push(buffer.id);
    }

    /// The bytes in `buffer`.
    #[must_use]
    #[inline]
    pub fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        let start = self.address(buffer.id).cast::<u8>().as_ptr();
        // SAFETY: the range lies inside `memory` (the id was checked when the kernel returned it,
        // the length is at most BUFFER_BYTES), was zeroed by mmap or written by the kernel, and is
        // not written while `buffer` exists: only offered buffers are, and this one is not.
        unsafe { std::slice::from_raw_parts(start, buffer.length as usize) }
    }

    /// These bytes of `buffer`.
    pub(in crate::sys) fn range<'a>(&'a self, buffer: &'a Buffer, bytes: Range<u32>) -> &'a [u8] {
        &self.bytes(buffer)[bytes.start as usize..bytes.end as usize]
    }

    /// A free buffer with a copy of `bytes`; `None` while there is none.
    pub fn fill(&mut self, bytes: &[u8]) -> Option<Buffer> {
        assert!(!bytes.is_empty() && bytes.len() <= BUFFER_BYTES as usize, "they fill a buffer");
        let id = self.free.pop()?;
        self.free_low_water = self.free_low_water.min(self.free.len());
        self.places[usize::from(id)] = Place::Held;
        let mut buffer = Buffer { id, length: 0 };
        self.prepend(&mut buffer, bytes);
        Some(buffer)
    }

    /// Puts a copy of `bytes` in front of those in `buffer`.
    pub fn prepend(&mut self, buffer: &mut Buffer, bytes: &[u8]) {
        let (had, more) = (buffer.length as usize, bytes.len());
        assert!(had + more <= BUFFER_BYTES as usize, "{had} and {more} bytes fit in a buffer");
        assert_eq!(self.places[usize::from(buffer.id)], Place::Held, "only who holds it writes");
        let start = self.address(buffer.id).cast::<u8>().as_ptr();
        // SAFETY: the whole buffer lies inside `memory` and is initialised (zeroed by mmap, or
        // written). It is held, so the kernel does not write to it, and `&mut Buffer` says that no
        // slice of it is out.
        let whole = unsafe { std::slice::from_raw_parts_mut(start, BUFFER_BYTES as usize) };
        whole.copy_within(..had, more);
        whole[..more].copy_from_slice(bytes);
        buffer.length = u32::try_from(had + more).unwrap_or(BUFFER_BYTES);
    }

    /// Gives back the pages of buffers that were not needed since the last call, a few at a time,
    /// and lets the window shrink again.
    pub fn trim(&mut self) -> Trimmed {
        // Some 300 microseconds.
        const BUFFERS_PER_CALL: usize = 256;
        self.window = (self.window - self.window / 8).max(WINDOW_MIN.min(window_max(self.count)));
        let cold = self.free_low_water.min(self.free.len());
        let idle = (0..cold).filter(|&at| self.places[usize::from(self.free[at])] == Place::Free);
        for at in idle.take(BUFFERS_PER_CALL).collect::<Vec<_>>() {
            let id = self.free[at];
            let start = self.address(id);
            // SAFETY: the pages belong to a free buffer inside `memory`: neither the kernel nor a
            // `Buffer` refers to it, and anonymous pages read as zero afterwards.
            let _ = unsafe { madvise(start, BUFFER_BYTES as usize, MmapAdvise::MADV_DONTNEED) };
            self.places[usize::from(id)] = Place::Untouched;
        }
        self.free_low_water = self.free.len();
        let touched = |&id: &u16| self.places[usize::from(id)] == Place::Free;
        if self.free.iter().any(touched) { Trimmed::Partly } else { Trimmed::Fully }
    }

    /// Gives back the pages of the offered buffers too, when none was taken since the last call.
    ///
    /// Only for a caller that knows that the kernel writes to none of them meanwhile, and that none
    /// holds bytes which were not told yet.
    pub(in crate::sys) fn trim_offered(&mut self) -> Trimmed {
        match self.offered_use {
            Use::None => return Trimmed::Fully,
            Use::Recent => {
                self.offered_use = Use::Past;
                return Trimmed::Partly;
            }
            Use::Past => self.offered_use = Use::None,
        }
        for (id, place) in (0..self.count).zip(&self.places) {
            if *place == Place::Offered {
                let start = self.address(id);
                // SAFETY: the pages belong to a buffer inside `memory` that is offered: no `Buffer`
                // refers to it, nothing in it is needed, and by this function's contract the kernel
                // does not write to it now. Anonymous pages read as zero afterwards.
                let _ = unsafe { madvise(start, BUFFER_BYTES as usize, MmapAdvise::MADV_DONTNEED) };
            }
        }
        Trimmed::Fully
    }

    fn address(&self, id: u16) -> NonNull<libc::c_void> {
        let offset = usize::from(id) * BUFFER_BYTES as usize;
        // SAFETY: `id` is below `count`, so the offset stays inside the mapping.
        unsafe { self.memory.start.byte_add(offset) }
    }

    fn write_entry(&mut self, id: u16) {
        let slot = usize::from(self.tail & (RING_ENTRIES - 1));
        let first = self.entries.start.cast::<BufRingEntry>();
        // SAFETY: `slot` is below RING_ENTRIES, the length of the mapping in entries.
        let entry = unsafe { first.add(slot) };
        let address = self.address(id).as_ptr() as u64;
        // SAFETY: the entry is aligned (the mapping is page aligned, entries are 16 bytes) and lies
        // beyond the published tail, so the kernel does not read it now. All-zero is a valid entry.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES);
        entry.set_bid(id);
    }

    fn publish_tail(&self) {
        let first = self.entries.start.cast::<BufRingEntry>().as_ptr();
        // SAFETY: `first` is the first entry of the registered ring, whose reserved field is the
        // tail.
        let tail = unsafe { BufRingEntry::tail(first) };
        // SAFETY: the field is a properly aligned u16 inside the mapping, which lives as long as
        // `self`; this thread is its only writer and the kernel reads it with acquire semantics.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
