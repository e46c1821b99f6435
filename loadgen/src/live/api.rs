//! The endpoints of OpenAI's interface that can be driven.

use crate::error::Error;

/// One of OpenAI's endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Api {
    /// `/v1/completions`: prompts may be token ids, so that their length is exact.
    #[default]
    Completions,
    /// `/v1/chat/completions`: prompts are text, wrapped in the model's chat template.
    Chat,
}

impl Api {
    /// Below the version.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Completions => "/completions",
            Self::Chat => "/chat/completions",
        }
    }

    /// As it is typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completions => "completions",
            Self::Chat => "chat",
        }
    }
}

impl std::str::FromStr for Api {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.to_ascii_lowercase().as_str() {
            "completions" => Ok(Self::Completions),
            "chat" => Ok(Self::Chat),
            _ => Err(Error::Endpoint(format!("unknown API {text:?}: write completions or chat"))),
        }
    }
}
