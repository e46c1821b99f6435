//! Panics of crates that assert what a damaged file need not hold: they become an absent result.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// True while a panic of this thread is expected, and to be kept quiet.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// The result of `work`; none where it panicked, and then nothing is printed. Nothing that `work` has changed may be
/// used then.
pub(crate) fn contained<T>(work: impl FnOnce() -> T) -> Option<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let said = take_hook();
        set_hook(Box::new(move |panic| {
            if !CONTAINED.get() {
                said(panic);
            }
        }));
    });
    CONTAINED.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(false);
    done.ok()
}
