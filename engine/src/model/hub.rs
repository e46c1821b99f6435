//! Models on the Hugging Face hub: what it takes to run one is fetched into the cache that every tool of that house
//! shares, and read from there as a folder.
//!
//! The hub is asked once for its current commit and that commit's files; everything is of that commit. If the hub
//! cannot be reached, the files in the cache will do. `HF_HOME`, `HF_ENDPOINT` and `HF_TOKEN` mean what they mean
//! elsewhere.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::config_json;
use super::configuration::{CONFIG, FORMATS};
use super::safetensors::shards;
use super::weights::ModelError;

/// The beginning of a name that is looked up there.
pub const PREFIX: &str = "hf:";

const TOKENIZER: &str = "tokenizer.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Read if they are there.
const MORE: [&str; 3] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];
/// Attempts to get the rest of a file whose download broke off.
const RETRIES: usize = 3;

/// The model called `id` (`ORG/NAME`), all that is needed of it, as a folder.
///
/// # Errors
/// When the hub does not have it, does not give it, or cannot be reached while it is not in the cache; or when it is
/// not a model that can be run.
pub(super) fn folder(id: &str) -> Result<PathBuf, ModelError> {
    let hub = Hub::new(id)?;
    let Some(commit) = hub.commit()? else {
        return hub.cached(|dir| dir.join(TOKENIZER).exists() && has_weights(dir));
    };
    let dir = commit.config()?;
    commit.get(TOKENIZER)?;
    for file in MORE.iter().filter(|file| commit.has(file)) {
        commit.get(file)?;
    }
    if commit.has(SINGLE) {
        commit.get(SINGLE)?;
    } else if commit.has(INDEX) {
        commit.get(INDEX)?;
        for shard in shards(&dir)? {
            commit.get(&shard.file_name().unwrap_or_default().to_string_lossy())?;
        }
    } else {
        return Err(hub.failed("it has no weights in safetensors"));
    }
    Ok(dir)
}

/// The folder that the configuration files of the model called `id` (`ORG/NAME`) are in; nothing else is fetched.
///
/// # Errors
/// When the hub does not have it, does not give it, or cannot be reached while it is not in the cache.
pub(super) fn configuration(id: &str) -> Result<PathBuf, ModelError> {
    let hub = Hub::new(id)?;
    let Some(commit) = hub.commit()? else { return hub.cached(|_| true) };
    let config = commit.get(CONFIG)?;
    if commit.has(FORMATS) {
        commit.get(FORMATS)?;
    }
    config.parent().map(Path::to_owned).ok_or_else(|| hub.failed("it has no place"))
}

fn has_weights(dir: &Path) -> bool {
    shards(dir).is_ok_and(|files| files.iter().all(|file| file.exists()))
}

/// A model's place on the hub and in the cache.
struct Hub<'a> {
    id: &'a str,
    endpoint: String,
    api: Api,
    cache: Cache,
}

impl<'a> Hub<'a> {
    fn new(id: &'a str) -> Result<Self, ModelError> {
        let failed = |reason: String| ModelError::Hub { id: id.to_owned(), reason };
        let plain = |part: &str| {
            let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(letter)
        };
        if !id.split_once('/').is_some_and(|(org, name)| plain(org) && plain(name)) {
            return Err(failed(
                "expected hf:ORG/NAME, such as hf:HuggingFaceTB/SmolLM2-135M".into(),
            ));
        }
        let cache = Cache::from_env();
        let mut builder = ApiBuilder::from_env().with_retries(RETRIES);
        if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()) {
            builder = builder.with_token(Some(token));
        }
        let endpoint = std::env::var("HF_ENDPOINT");
        let endpoint = endpoint.unwrap_or_else(|_| "https://huggingface.co".to_owned());
        let api = builder.build().map_err(|e| failed(e.to_string()))?;
        Ok(Self { id, endpoint, api, cache })
    }

    fn failed(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Hub { id: self.id.to_owned(), reason: reason.into() }
    }

    fn main(&self) -> Repo {
        Repo::model(self.id.to_owned())
    }

    /// Its current commit; none where the hub cannot be reached.
    fn commit(&self) -> Result<Option<Commit<'_>>, ModelError> {
        let info = match self.api.repo(self.main()).info() {
            Ok(info) => info,
            Err(error) if is_out_of_reach(&error) => return Ok(None),
            Err(error) => return Err(self.told(&error)),
        };
        let odd = |name: &str| name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric());
        if odd(&info.sha) {
            return Err(self.failed(format!("{} does not answer like a hub", self.endpoint)));
        }
        let repo = Repo::with_revision(self.id.to_owned(), RepoType::Model, info.sha.clone());
        // Files of this commit that other tools left are found, and these are found when the hub cannot be reached.
        for repo in [repo.clone(), self.main()] {
            let noted = self.cache.repo(repo).create_ref(&info.sha);
            noted.map_err(|e| {
                self.failed(format!("cannot write to {}: {e}", self.cache.path().display()))
            })?;
        }
        let files = info.siblings.into_iter().map(|file| file.rfilename).collect();
        Ok(Some(Commit { hub: self, repo: self.api.repo(repo), sha: info.sha, files }))
    }

    /// The folder of the commit that was current when the hub was last reached, if it is `complete`.
    fn cached(&self, complete: impl Fn(&Path) -> bool) -> Result<PathBuf, ModelError> {
        let config = self.cache.repo(self.main()).get(CONFIG);
        let dir = config.and_then(|config| Some(config.parent()?.to_owned()));
        dir.filter(|dir| complete(dir)).ok_or_else(|| {
            self.failed(format!(
                "{} cannot be reached, and the model is not in {}",
                self.endpoint,
                self.cache.path().display()
            ))
        })
    }

    /// The meaning of the hub's error.
    fn told(&self, error: &ApiError) -> ModelError {
        let endpoint = &self.endpoint;
        self.failed(match status(error) {
            Some(status @ (401 | 403)) => format!(
                "{endpoint} says {status}: there is no such model, or it needs the token of an account with access to it (HF_TOKEN)"
            ),
            Some(404) => format!("{endpoint} says 404: there is no such model"),
            Some(status) => format!("{endpoint} says {status}: try again later"),
            None => format!("{endpoint}: {error}"),
        })
    }
}

/// The status of the hub's answer, where it is an error.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        ApiError::TooManyRetries(error) => status(error),
        _ => None,
    }
}

/// True where there was no answer.
fn is_out_of_reach(error: &ApiError) -> bool {
    use ureq::Error::{ConnectionFailed, HostNotFound, Io, Timeout};
    let ApiError::RequestError(error) = error else { return false };
    matches!(**error, HostNotFound | ConnectionFailed | Timeout(_) | Io(_))
}

/// A commit of a model.
struct Commit<'a> {
    hub: &'a Hub<'a>,
    repo: ApiRepo,
    sha: String,
    files: Vec<String>,
}

impl Commit<'_> {
    fn has(&self, file: &str) -> bool {
        self.files.iter().any(|name| name == file)
    }

    /// The path of `file`, fetched if it was not there.
    fn get(&self, file: &str) -> Result<PathBuf, ModelError> {
        if !self.has(file) {
            return Err(self.hub.failed(format!("it has no {file}")));
        }
        let path = self.repo.get(file).map_err(|error| self.hub.told(&error))?;
        if path.parent().is_some_and(|dir| dir.ends_with(&self.sha)) {
            return Ok(path);
        }
        Err(self.hub.failed(format!("{} gave {file} of another commit", self.hub.endpoint)))
    }

    /// The folder of all its files, once it is known that this is a model that can be run.
    fn config(&self) -> Result<PathBuf, ModelError> {
        let path = self.get(CONFIG)?;
        config_json::read(&path, self.hub.id)?;
        path.parent().map(Path::to_owned).ok_or_else(|| self.hub.failed("it has no place"))
    }
}
