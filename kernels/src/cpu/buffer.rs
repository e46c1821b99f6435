//! Memory for weights, keys and values: zeroed, page-aligned, there from the start, and in huge pages where the system
//! has them.
//!
//! A decode step streams over hundreds of megabytes once; with 4 KiB pages the page walks show. Pages that are only
//! found when they are first written to show too: the first prompt over a new pool took four times as long.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Numbers for which every bit pattern is a value, zero included.
pub(super) trait Plain: Copy + Send + Sync + 'static {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for f32 {}

/// `len` numbers, zero at first, aligned to a page.
#[derive(Debug)]
pub(super) struct Buffer<T> {
    map: Option<MmapMut>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// Zeroes.
    ///
    /// # Panics
    /// When the system has no memory left, as any allocation does.
    pub(super) fn zeroed(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        let map = (bytes > 0).then(|| {
            let map = MmapMut::map_anon(bytes)
                .unwrap_or_else(|e| panic!("cannot allocate {bytes} bytes of memory: {e}"));
            // Only advice: where it is refused, pages are small or late and everything still works.
            #[cfg(target_os = "linux")]
            for advice in [memmap2::Advice::HugePage, memmap2::Advice::PopulateWrite] {
                let _ = map.advise(advice);
            }
            map
        });
        Self { map, len, of: PhantomData }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let Some(map) = &self.map else { return &[] };
        // SAFETY: the map holds `len` numbers, is aligned to a page, was zeroed and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let Some(map) = &mut self.map else { return &mut [] };
        // SAFETY: as above, and `self` is borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), self.len) }
    }
}
