//! The descriptors of this process: each connection takes one.

/// Descriptors that this process may have, less some for everything else. Asks for as many as are allowed.
pub(super) fn most() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current =
        if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    let files = current.and_then(|n| usize::try_from(n).ok()).unwrap_or(1 << 20);
    files.saturating_sub(64).max(16)
}
