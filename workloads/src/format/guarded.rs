//! Damaged files and readers that were not made for them: a panic of theirs becomes an error.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// True while a panic of this thread is expected, and to be kept quiet.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// The result of `read`, or none if it panics. Nothing that `read` has changed may be used then.
pub(crate) fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !EXPECTED.get() {
                before(panic);
            }
        }));
    });
    EXPECTED.set(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    EXPECTED.set(false);
    result.ok()
}
