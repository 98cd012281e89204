//! Models from a Hugging Face hub: which files of a repository are needed, where they lie, how they get there.
//!
//! The `hf-hub` crate knows the protocol and the layout of the cache, which is the one that all tools of Hugging Face share;
//! `HF_HOME` (or `HF_HUB_CACHE`), `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean there.
//! Invariant: a folder that is returned has every file that loading needs, all of one commit; when the hub was asked, of the
//! size that it says.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde_json::Value;
use tracing::info;

use crate::progress::Progress;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// What a repository's main branch is called.
const MAIN: &str = "main";
const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// As `config.json` names the one architecture that there is code for.
const MODEL_TYPE: &str = "gpt_oss";
/// A download goes on where it was cut so many times in a row.
const RETRIES: usize = 5;

/// A repository of a model, as `OWNER/NAME` or `OWNER/NAME@REVISION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    repo: String,
    revision: String,
}

/// Why there is no folder.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Neither there nor to be had.
    #[error("{repo} is not complete in {} and HF_HUB_OFFLINE forbids to download it", cache.display())]
    Offline { repo: String, cache: PathBuf },
    /// The hub was not reached.
    #[error(
        "cannot reach {endpoint}: {reason}; what was downloaded is kept, and the next try goes on from there"
    )]
    Network { endpoint: String, reason: String },
    /// Nobody has it, or it is not shown to us.
    #[error(
        "there is no model {repo} with a revision {revision} at {endpoint}, or it is private and HF_TOKEN may not read it"
    )]
    NotFound {
        repo: String,
        revision: String,
        endpoint: String,
    },
    /// Its terms were not accepted.
    #[error(
        "{repo} is only for those who accepted its terms: accept them at {endpoint}/{repo}, and set HF_TOKEN to a token of that account"
    )]
    Gated { repo: String, endpoint: String },
    /// Another answer than a file.
    #[error("{endpoint} answered {status} for {what}")]
    Status {
        endpoint: String,
        status: u16,
        what: String,
    },
    /// Not the files that loading needs.
    #[error("{repo} holds no model that could be served: {reason}")]
    NotAModel { repo: String, reason: String },
    /// The file system is full.
    #[error("no space left in {} for {file} of {bytes} bytes; what was downloaded is kept, and the next try goes on from there", cache.display())]
    DiskFull {
        cache: PathBuf,
        file: String,
        bytes: u64,
    },
    /// The cache cannot be read or written.
    #[error("cannot write {file} to {}: {reason}", cache.display())]
    Cache {
        cache: PathBuf,
        file: String,
        reason: String,
    },
    /// Another process is at it.
    #[error("another process is downloading {0}")]
    Busy(String),
    /// Not what the hub announced.
    #[error("{file} has {found} bytes and not {expected}, and was deleted; try again")]
    Damaged {
        file: String,
        found: u64,
        expected: u64,
    },
    /// The hub said something that is not understood.
    #[error("{endpoint} gave an answer for {what} that is not understood: {reason}")]
    Protocol {
        endpoint: String,
        what: String,
        reason: String,
    },
}

impl HubModel {
    /// Reads `OWNER/NAME` or `OWNER/NAME@REVISION`; `None` for whatever cannot be that.
    pub fn parse(text: &str) -> Option<Self> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let (owner, name) = repo.split_once('/')?;
        let ordinary = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_part = |part: &str| {
            !part.is_empty() && !part.starts_with(['.', '-']) && part.chars().all(ordinary)
        };
        let is_revision = |text: &str| text.split('/').all(is_part);
        (is_part(owner) && is_part(name) && is_revision(revision)).then(|| Self {
            repo: repo.to_owned(),
            revision: revision.to_owned(),
        })
    }

    /// `OWNER/NAME`, which is also what clients call it.
    pub fn name(&self) -> &str {
        &self.repo
    }

    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.repo.clone(), RepoType::Model, revision.to_owned())
    }
}

impl std::fmt::Display for HubModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            MAIN => f.write_str(&self.repo),
            revision => write!(f, "{}@{revision}", self.repo),
        }
    }
}

/// A hub and the cache of what came from it.
pub struct Hub {
    cache: Cache,
    endpoint: String,
    token: Option<String>,
    offline: bool,
}

impl Hub {
    /// What the environment says; `variable` reads one.
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let given = |name: &str| variable(name).filter(|text| !text.is_empty());
        let cache = match given("HF_HUB_CACHE") {
            Some(folder) => Cache::new(folder.into()),
            None => match given("HF_HOME") {
                Some(home) => Cache::new(Path::new(&home).join("hub")),
                None => Cache::default(),
            },
        };
        let is_true = |text: String| matches!(&*text.to_lowercase(), "1" | "true" | "yes" | "on");
        let endpoint = given("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Self {
            token: given("HF_TOKEN").or_else(|| cache.token()),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            offline: given("HF_HUB_OFFLINE").is_some_and(is_true),
            cache,
        }
    }

    /// The folder of a model that is complete in the cache.
    pub fn cached(&self, model: &HubModel) -> Option<PathBuf> {
        let files = self.cache.repo(model.at(&model.revision));
        let folder = files.get(CONFIG)?.parent()?.to_owned();
        let is_there = |name: &str| folder.join(name).is_file();
        let complete = match std::fs::read(folder.join(INDEX)) {
            Err(_) => is_there(SINGLE),
            Ok(index) => {
                let index: Value = serde_json::from_slice(&index).ok()?;
                let shards = index.get("weight_map")?.as_object()?;
                shards
                    .values()
                    .all(|shard| shard.as_str().is_some_and(is_there))
            }
        };
        complete.then_some(folder)
    }

    /// The folder of a model, downloaded as far as it is not there yet.
    ///
    /// # Errors
    /// Every [`HubError`].
    pub fn pull(&self, model: &HubModel, progress: &mut Progress) -> Result<PathBuf, HubError> {
        if self.offline {
            return self.cached(model).ok_or_else(|| HubError::Offline {
                repo: model.to_string(),
                cache: self.cache.path().clone(),
            });
        }
        let api = self.api(model)?;
        let (commit, files) = self.listing(model, &api.repo(model.at(&model.revision)))?;
        // By commit: a push in the middle of a download must not mix two models.
        let remote = api.repo(model.at(&commit));
        // Whoever brought them: other tools keep no reference by commit, so the cache is not asked for one.
        let folder = self.cache.repo(model.at(&commit)).pointer_path(&commit);
        let total = files.iter().map(|(_, bytes)| bytes).sum();
        info!(
            model = model.name(),
            files = files.len(),
            bytes = total,
            "looking for the files"
        );
        let mut done = 0;
        for (name, bytes) in &files {
            let mut meter = Meter {
                progress: &mut *progress,
                before: done,
                total,
                bytes: 0,
            };
            let has_size =
                |path: &PathBuf| std::fs::metadata(path).is_ok_and(|file| file.len() == *bytes);
            let path = folder.join(name);
            if !has_size(&path) {
                (remote.download_with_progress(name, &mut meter))
                    .map_err(|error| self.explain(error, model, name, *bytes))?;
                check_size(&path, name, *bytes)?;
            }
            if name == CONFIG {
                check_config(&path, model)?;
            }
            done += bytes;
            progress.show(done, total);
        }
        // Only now the revision is one that is there.
        (self.cache.repo(model.at(&model.revision)))
            .create_ref(&commit)
            .map_err(|error| self.cache_error(&error, "a reference", 0))?;
        Ok(folder)
    }

    fn api(&self, model: &HubModel) -> Result<Api, HubError> {
        ApiBuilder::from_cache(self.cache.clone())
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_retries(RETRIES)
            .with_user_agent("gossamer", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| self.explain(error, model, "the client", 0))
    }

    /// The commit that the revision stands for, and the files that are needed with their sizes in bytes: small ones first,
    /// so that what is no model of ours is known before gigabytes of it are here.
    fn listing(
        &self,
        model: &HubModel,
        repo: &ApiRepo,
    ) -> Result<(String, Vec<(String, u64)>), HubError> {
        const WHAT: &str = "the list of files";
        let answer = repo.info_request().query("blobs", "true").call();
        let mut answer = answer.map_err(|error| match error {
            ureq::Error::StatusCode(401 | 403 | 404) => HubError::NotFound {
                repo: model.repo.clone(),
                revision: model.revision.clone(),
                endpoint: self.endpoint.clone(),
            },
            error => self.explain(ApiError::RequestError(error.into()), model, WHAT, 0),
        })?;
        let protocol = |reason: String| HubError::Protocol {
            endpoint: self.endpoint.clone(),
            what: WHAT.to_owned(),
            reason,
        };
        let info: Value =
            (answer.body_mut().read_json()).map_err(|error| protocol(error.to_string()))?;
        let commit = (info["sha"].as_str()).ok_or_else(|| protocol("no commit".to_owned()))?;
        let siblings =
            (info["siblings"].as_array()).ok_or_else(|| protocol("no files".to_owned()))?;
        let mut files = Vec::new();
        for sibling in siblings {
            let name = sibling["rfilename"].as_str().unwrap_or_default();
            if is_needed(name) {
                let size = sibling["size"].as_u64();
                let size = size.ok_or_else(|| protocol(format!("no size of {name}")))?;
                files.push((name.to_owned(), size));
            }
        }
        let has = |wanted: &dyn Fn(&str) -> bool| files.iter().any(|(name, _)| wanted(name));
        for (there, missing) in [
            (has(&|name| name == CONFIG), CONFIG),
            (has(&|name| name.ends_with(".safetensors")), "*.safetensors"),
        ] {
            if !there {
                return Err(not_a_model(model, format!("it has no {missing}")));
            }
        }
        files.sort_by_key(|(name, size)| (*size, name.clone()));
        Ok((commit.to_owned(), files))
    }

    fn explain(&self, error: ApiError, model: &HubModel, file: &str, bytes: u64) -> HubError {
        let (endpoint, what) = (self.endpoint.clone(), file.to_owned());
        let network = |reason: String| HubError::Network {
            endpoint: self.endpoint.clone(),
            reason,
        };
        match error {
            ApiError::TooManyRetries(last) => self.explain(*last, model, file, bytes),
            ApiError::RequestError(error) => match *error {
                ureq::Error::StatusCode(401 | 403) => HubError::Gated {
                    repo: model.repo.clone(),
                    endpoint,
                },
                ureq::Error::StatusCode(status) => HubError::Status {
                    endpoint,
                    status,
                    what,
                },
                error => network(error.to_string()),
            },
            ApiError::IoError(error) => match error.kind() {
                // The same type for both ends of the copy.
                ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::TimedOut
                | ErrorKind::Other => network(error.to_string()),
                _ => self.cache_error(&error, file, bytes),
            },
            ApiError::LockAcquisition(_) => HubError::Busy(what),
            error => HubError::Protocol {
                endpoint,
                what,
                reason: error.to_string(),
            },
        }
    }

    fn cache_error(&self, error: &std::io::Error, file: &str, bytes: u64) -> HubError {
        let (cache, file) = (self.cache.path().clone(), file.to_owned());
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                HubError::DiskFull { cache, file, bytes }
            }
            _ => HubError::Cache {
                cache,
                file,
                reason: error.to_string(),
            },
        }
    }
}

/// Whether loading looks at this file of a repository: not at folders (`original/`, `metal/`), not at tokenizers.
fn is_needed(name: &str) -> bool {
    !name.contains('/')
        && (name == CONFIG
            || name == "generation_config.json"
            || name == INDEX
            || name.ends_with(".safetensors"))
}

fn not_a_model(model: &HubModel, reason: String) -> HubError {
    HubError::NotAModel {
        repo: model.to_string(),
        reason,
    }
}

fn check_size(path: &Path, name: &str, expected: u64) -> Result<(), HubError> {
    let found = std::fs::metadata(path).map_or(0, |file| file.len());
    if found == expected {
        return Ok(());
    }
    // The link and what it leads to; what cannot be deleted is found again.
    if let Ok(blob) = std::fs::canonicalize(path) {
        let _ = std::fs::remove_file(blob);
    }
    let _ = std::fs::remove_file(path);
    Err(HubError::Damaged {
        file: name.to_owned(),
        found,
        expected,
    })
}

fn check_config(path: &Path, model: &HubModel) -> Result<(), HubError> {
    let text = std::fs::read(path).unwrap_or_default();
    let config: Value = serde_json::from_slice(&text)
        .map_err(|error| not_a_model(model, format!("its {CONFIG} is no JSON: {error}")))?;
    match config["model_type"].as_str() {
        Some(MODEL_TYPE) => Ok(()),
        other => Err(not_a_model(
            model,
            format!("its model_type is {other:?}, and only {MODEL_TYPE:?} runs here"),
        )),
    }
}

/// Where one file's download stands among all of them.
struct Meter<'a> {
    progress: &'a mut Progress,
    /// Bytes of the files before it.
    before: u64,
    total: u64,
    bytes: u64,
}

impl hf_hub::api::Progress for &mut Meter<'_> {
    fn init(&mut self, _size: usize, _filename: &str) {
        self.bytes = 0;
    }

    fn update(&mut self, size: usize) {
        self.bytes += size as u64;
        self.progress.show(self.before + self.bytes, self.total);
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_repositories_are_told_from_paths() {
        let parsed = HubModel::parse("openai/gpt-oss-20b").unwrap();
        assert_eq!(
            (parsed.name(), &*parsed.revision),
            ("openai/gpt-oss-20b", "main")
        );
        let pinned = HubModel::parse("a/b@refs/pr/1").unwrap();
        assert_eq!(
            (pinned.to_string().as_str(), pinned.name()),
            ("a/b@refs/pr/1", "a/b")
        );
        for path in [
            "tiny", "/a/b", "./a", "../a", "a/b/c", "a/", "/a", "a b/c", "~/x", "a/b@", "a/..",
            "ä/b",
        ] {
            assert_eq!(HubModel::parse(path), None, "{path}");
        }
    }

    #[test]
    fn only_what_loading_reads_is_needed() {
        let names = [
            "config.json",
            "generation_config.json",
            "model-00000-of-00002.safetensors",
            "model.safetensors.index.json",
            "original/model.safetensors",
            "metal/model.bin",
            "tokenizer.json",
            "README.md",
            "chat_template.jinja",
        ];
        let needed: Vec<_> = names.into_iter().filter(|name| is_needed(name)).collect();
        assert_eq!(needed, names[..4]);
    }

    #[test]
    fn a_full_disk_is_called_one_also_behind_retries() {
        let hub = Hub::new(|name| (name == "HF_HOME").then(|| "home".to_owned()));
        assert_eq!(
            (hub.endpoint.as_str(), hub.offline),
            (DEFAULT_ENDPOINT, false)
        );
        let model = HubModel::parse("a/b").unwrap();
        let full = ApiError::IoError(ErrorKind::StorageFull.into());
        let error = hub.explain(
            ApiError::TooManyRetries(full.into()),
            &model,
            "model.safetensors",
            7,
        );
        assert!(
            matches!(&error, HubError::DiskFull { bytes: 7, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("home/hub"), "{error}");
        let cut = ApiError::IoError(ErrorKind::UnexpectedEof.into());
        assert!(matches!(
            hub.explain(cut, &model, "x", 0),
            HubError::Network { .. }
        ));
    }

    #[test]
    fn nothing_is_fetched_offline() {
        let hub = Hub::new(|name| match name {
            "HF_HUB_OFFLINE" => Some("1".to_owned()),
            "HF_HUB_CACHE" => Some("nowhere".to_owned()),
            _ => None,
        });
        let model = HubModel::parse("a/b").unwrap();
        let error = hub
            .pull(&model, &mut Progress::new("downloading"))
            .unwrap_err();
        assert!(
            error.to_string().contains("a/b is not complete in nowhere"),
            "{error}"
        );
    }
}
