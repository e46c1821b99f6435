//! The evidence for a time: measurements of the very operator, or of something like it.

/// The evidence for a time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Basis {
    /// This shape was measured on this device in this format.
    #[default]
    Measured,
    /// Other shapes of the operator were, and this one lies among or beside them.
    Interpolated,
    /// The operator was not measured so: its own roofline, with the efficiency of the named one.
    Borrowed(String),
}

impl Basis {
    /// True where no table holds the operator.
    #[must_use]
    pub fn is_borrowed(&self) -> bool {
        matches!(self, Self::Borrowed(_))
    }
}

impl std::fmt::Display for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Measured => f.write_str("measured"),
            Self::Interpolated => f.write_str("interpolated between measured shapes"),
            Self::Borrowed(from) => write!(f, "not measured: its roofline with {from}"),
        }
    }
}
