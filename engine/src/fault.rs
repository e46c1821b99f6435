//! The fault that ends an engine before its work is done: the device under it has failed.

use std::sync::Arc;

/// The fault in one line, for people. Nothing more comes of work under way; finished work stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(Arc<str>);

impl Fault {
    /// Because of `reason`.
    #[must_use]
    pub fn new(reason: &str) -> Self {
        // Libraries' messages may have several lines.
        Self(reason.lines().map(str::trim).collect::<Vec<_>>().join(" ").into())
    }
}
