//! Counting allocator: measures how many bytes a step of a test allocates. It replaces the allocator of its test binary.
//! Also used by the tests of `consensus`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes allocated by this thread since it was last set to zero.
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

/// The system allocator, which counts what the calling thread asks for.
struct Counting;

#[expect(unsafe_code, reason = "an allocator cannot be written without; this one only counts")]
// SAFETY: every call is passed on unchanged; the cell is no allocation and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size());
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that `step` allocates on this thread.
pub(crate) fn cost(step: impl FnOnce()) -> usize {
    ALLOCATED.set(0);
    step();
    ALLOCATED.get()
}
