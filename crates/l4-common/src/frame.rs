//! A packet in memory, with every access checked against its end.

/// The bytes of one Ethernet frame, from `start` up to `end`.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    start: *mut u8,
    end: *mut u8,
}

/// The part of a frame that has been found to be there: the first `N` bytes.
#[derive(Clone, Copy, Debug)]
pub struct Head<const N: usize> {
    start: *mut u8,
}

impl Frame {
    /// # Safety
    /// The bytes from `start` up to `end` must be readable and writable as long as the frame is used, and nobody
    /// else may hold a reference to them.
    #[inline(always)]
    pub unsafe fn new(start: *mut u8, end: *mut u8) -> Self {
        Self { start, end }
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end as usize - self.start as usize
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `N` bytes, if the frame is that long.
    #[inline(always)]
    pub fn head<const N: usize>(&self) -> Option<Head<N>> {
        // Addresses are compared, as the kernel's verifier wants it; no pointer beyond the end is formed.
        if self.start as usize + N > self.end as usize {
            None
        } else {
            Some(Head { start: self.start })
        }
    }

    /// The `N` bytes from `offset` on, if the frame is that long. `offset` is at most 255: the verifier must see a bound.
    #[inline(always)]
    pub fn part<const N: usize>(&self, offset: usize) -> Option<Head<N>> {
        self.far_part(offset & 0xff)
    }

    /// As [`Frame::part`], where `offset` is at most 2047.
    #[inline(always)]
    pub fn far_part<const N: usize>(&self, offset: usize) -> Option<Head<N>> {
        let offset = offset & 0x7ff;
        // `wrapping_add`: the pointer is used only if it is inside.
        let start = self.start.wrapping_add(offset);
        if start as usize + N > self.end as usize {
            None
        } else {
            Some(Head { start })
        }
    }

    /// As many as `N` bytes where a part of the frame begins, if the frame is that long.
    #[inline(always)]
    pub fn at<const N: usize, const M: usize>(&self, part: &Head<M>) -> Option<Head<N>> {
        if part.start as usize + N > self.end as usize {
            None
        } else {
            Some(Head { start: part.start })
        }
    }
}

/// Integers that are read from and written to frames as they lie there.
pub trait Word: Copy {}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}

impl<const N: usize> Head<N> {
    /// The `M` bytes of it from `OFFSET` on.
    #[inline(always)]
    pub fn part<const OFFSET: usize, const M: usize>(&self) -> Head<M> {
        const { assert!(OFFSET + M <= N) };
        Head {
            start: self.start.wrapping_add(OFFSET),
        }
    }

    /// The word at `OFFSET`, in memory order.
    #[inline(always)]
    pub fn load<const OFFSET: usize, T: Word>(&self) -> T {
        const { assert!(OFFSET + size_of::<T>() <= N) };
        let word = self.start.wrapping_add(OFFSET).cast::<T>();
        // SAFETY: the assertion above keeps the word inside the head, which the frame's maker vouched for.
        unsafe {
            if cfg!(feature = "bpf") {
                word.read()
            } else {
                word.read_unaligned()
            }
        }
    }

    /// Writes the word at `OFFSET`, in memory order.
    #[inline(always)]
    pub fn store<const OFFSET: usize, T: Word>(&self, value: T) {
        const { assert!(OFFSET + size_of::<T>() <= N) };
        let word = self.start.wrapping_add(OFFSET).cast::<T>();
        // SAFETY: as in `load`.
        unsafe {
            if cfg!(feature = "bpf") {
                word.write(value);
            } else {
                word.write_unaligned(value);
            }
        }
    }

    /// The six bytes of the MAC address at `OFFSET`.
    #[inline(always)]
    pub fn load_mac<const OFFSET: usize>(&self) -> [u8; 6] {
        const { assert!(OFFSET + 6 <= N) };
        // SAFETY: inside the head, as in `load`; three halfwords, which Ethernet's layout aligns.
        unsafe {
            let from = self.start.wrapping_add(OFFSET).cast::<[u16; 3]>();
            let halves = if cfg!(feature = "bpf") {
                from.read()
            } else {
                from.read_unaligned()
            };
            core::mem::transmute::<[u16; 3], [u8; 6]>(halves)
        }
    }

    /// Writes the six bytes of a MAC address at `OFFSET`, as a word and a half: three halves are three stores.
    #[inline(always)]
    pub fn store_mac<const OFFSET: usize>(&self, mac: [u8; 6]) {
        const { assert!(OFFSET + 6 <= N) };
        let [a, b, c, d, e, f] = mac;
        let (word, half) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]));
        // SAFETY: inside the head, as in `load`.
        unsafe {
            let to = self.start.wrapping_add(OFFSET);
            let (to_word, to_half) = (to.cast::<u32>(), to.wrapping_add(4).cast::<u16>());
            if cfg!(feature = "bpf") {
                to_word.write(word);
                to_half.write(half);
            } else {
                to_word.write_unaligned(word);
                to_half.write_unaligned(half);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_heads_beyond_the_end() {
        let mut bytes = [0u8; 20];
        let range = bytes.as_mut_ptr_range();
        // SAFETY: `bytes` lives until the end of the test and nobody else refers to it.
        let frame = unsafe { Frame::new(range.start, range.end) };
        assert!(frame.head::<20>().is_some());
        assert!(frame.head::<21>().is_none());
        assert!(frame.part::<6>(14).is_some());
        assert!(frame.part::<6>(15).is_none());
    }

    #[test]
    fn keeps_bytes_in_memory_order() {
        let mut bytes = [1u8, 2, 3, 4, 5, 6, 7, 8];
        let range = bytes.as_mut_ptr_range();
        // SAFETY: as above.
        let head = unsafe { Frame::new(range.start, range.end) }
            .head::<8>()
            .unwrap();
        assert_eq!(head.load::<1, u16>(), u16::from_ne_bytes([2, 3]));
        head.store_mac::<1>([9, 8, 7, 6, 5, 4]);
        assert_eq!(head.load_mac::<1>(), [9, 8, 7, 6, 5, 4]);
        assert_eq!(bytes, [1, 9, 8, 7, 6, 5, 4, 8]);
    }
}
