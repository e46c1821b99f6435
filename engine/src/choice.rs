//! Enums whose variants have a spelling: the words of command lines and files.

/// Declares an enum whose variants have a spelling on the command line and in files.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every one, in the order of declaration.
            pub const ALL: [Self; Self::NAMES.len()] = [$(Self::$variant),+];
            /// Every spelling, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($text),+];
            /// Its spelling.
            #[must_use]
            pub fn name(self) -> &'static str { match self { $(Self::$variant => $text),+ } }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.pad(self.name()) }
        }
        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                // A dash is as good as an underscore.
                let typed = s.to_ascii_lowercase().replace('-', "_");
                let same = |c: &Self| c.name().replace('-', "_") == typed;
                let found = Self::ALL.into_iter().find(same);
                found.ok_or_else(|| format!("expected one of {}", Self::NAMES.join(", ")))
            }
        }
    };
}

pub(crate) use choice;
