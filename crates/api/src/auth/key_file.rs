//! The file of API keys: JSON with hashes, written by `gossamer keys`, read by the server.
//!
//! Knows files and records, not requests. Writers take turns by a lock beside the file and replace it whole, so a reader sees
//! the old file or the new one, never a half.
//! Invariant: ids are unique, and no secret is ever written.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::api_key::{KeyHash, KeyRecord, SecretKey};
use super::limits::Limits;
use super::scope::Scopes;

/// Longest name of a key, characters.
const MAX_NAME_LEN: usize = 64;
/// Keys are credentials even as hashes: for the owner of the file only.
const MODE: u32 = 0o600;

/// What can go wrong with a key file. For the operator.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is no file, or it cannot be read or written.
    #[error("the key file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no key file.
    #[error("the key file {} is not usable: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// A sentence.
        message: String,
    },
    /// No key has this id.
    #[error("the key file {} has no key with the id \"{id}\"", path.display())]
    UnknownId {
        /// The file.
        path: PathBuf,
        /// As given.
        id: String,
    },
    /// Not a name for a key.
    #[error("a key's name has 1 to {MAX_NAME_LEN} characters and no control characters")]
    Name,
    /// The system has no randomness to give.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    keys: Vec<KeyRecord>,
}

/// Keys by id.
pub(crate) type Keys = HashMap<String, KeyRecord>;

/// Reads the content of a key file.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn parse(bytes: &[u8]) -> Result<Keys, String> {
    let records = records(bytes)?;
    Ok((records.into_iter())
        .map(|record| (record.id.clone(), record))
        .collect())
}

fn records(bytes: &[u8]) -> Result<Vec<KeyRecord>, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if document.version != 1 {
        return Err(format!("its version is {}, not 1", document.version));
    }
    let mut ids = std::collections::HashSet::new();
    for key in &document.keys {
        if !ids.insert(key.id.as_str()) {
            return Err(format!("the id {} stands in it twice", key.id));
        }
        let limits = key.limits();
        let rates = [
            ("requests_per_minute", limits.requests_per_minute),
            ("tokens_per_minute", limits.tokens_per_minute),
            ("concurrent_requests", limits.concurrent_requests),
        ];
        for (name, limit) in rates {
            if limit.is_some_and(|limit| !(1..=Limits::MAX_RATE).contains(&limit)) {
                return Err(format!(
                    "{name} of the key {} is not from 1 to {}",
                    key.id,
                    Limits::MAX_RATE
                ));
            }
        }
    }
    Ok(document.keys)
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// How long it is accepted; `None` is for ever.
    pub lifetime: Option<Duration>,
    /// Its own limits.
    pub limits: Limits,
}

/// Makes a key and puts its record into the file, which is made if there is none. `now`: seconds since 1970.
///
/// # Errors
/// The name is bad, or the file cannot be read or written.
pub fn create_key(
    path: &Path,
    new: NewKey,
    now: i64,
) -> Result<(SecretKey, KeyRecord), KeyFileError> {
    let length = new.name.chars().count();
    if !(1..=MAX_NAME_LEN).contains(&length) || new.name.chars().any(char::is_control) {
        return Err(KeyFileError::Name);
    }
    let _lock = lock(path)?;
    let mut keys = match read(path) {
        Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Vec::new()
        }
        keys => keys?,
    };
    // An id of 36^12 is drawn twice once in a lifetime of the universe, or with a broken random source.
    let secret = loop {
        let secret = SecretKey::generate()?;
        if keys.iter().all(|key| key.id != secret.id()) {
            break secret;
        }
    };
    let seconds = |lifetime: Duration| i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    let record = KeyRecord {
        id: secret.id().to_owned(),
        name: new.name,
        sha256: KeyHash::of(secret.reveal()),
        scopes: new.scopes,
        created: now,
        expires: new
            .lifetime
            .map(|lifetime| now.saturating_add(seconds(lifetime))),
        revoked: None,
        requests_per_minute: new.limits.requests_per_minute,
        tokens_per_minute: new.limits.tokens_per_minute,
        concurrent_requests: new.limits.concurrent_requests,
    };
    keys.push(record.clone());
    write(path, keys)?;
    Ok((secret, record))
}

/// Every key of the file, in the order in which they were made.
///
/// # Errors
/// The file cannot be read, or is no key file.
pub fn list_keys(path: &Path) -> Result<Vec<KeyRecord>, KeyFileError> {
    read(path)
}

/// Revokes a key, for good. Its record stays, so that its owner hears what happened. Revoking twice changes nothing.
///
/// # Errors
/// No key has this id, or the file cannot be read or written.
pub fn revoke_key(path: &Path, id: &str, now: i64) -> Result<KeyRecord, KeyFileError> {
    let _lock = lock(path)?;
    let mut keys = read(path)?;
    let Some(key) = keys.iter_mut().find(|key| key.id == id) else {
        return Err(KeyFileError::UnknownId {
            path: path.to_owned(),
            id: id.chars().take(64).collect(),
        });
    };
    if key.revoked.is_some() {
        return Ok(key.clone());
    }
    key.revoked = Some(now);
    let record = key.clone();
    write(path, keys)?;
    Ok(record)
}

fn read(path: &Path) -> Result<Vec<KeyRecord>, KeyFileError> {
    let bytes = fs::read(path).map_err(|source| failed(path, source))?;
    records(&bytes).map_err(|message| KeyFileError::Content {
        path: path.to_owned(),
        message,
    })
}

/// Held until dropped. A file of its own, because the key file is another one after each write.
fn lock(path: &Path) -> Result<File, KeyFileError> {
    let lock = || {
        let file = (OpenOptions::new().create(true).truncate(false).write(true))
            .mode(MODE)
            .open(beside(path, ".lock"))?;
        file.lock()?;
        Ok(file)
    };
    lock().map_err(|source| failed(path, source))
}

fn write(path: &Path, keys: Vec<KeyRecord>) -> Result<(), KeyFileError> {
    let document = Document { version: 1, keys };
    let replace = || {
        let mut text = serde_json::to_vec_pretty(&document)?;
        text.push(b'\n');
        // A link is followed, not replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let new = beside(&target, ".new");
        let mut file = (OpenOptions::new().create(true).truncate(true).write(true))
            .mode(MODE)
            .open(&new)?;
        // The rights that somebody gave the file on purpose, for a server that runs as another user.
        if let Ok(metadata) = fs::metadata(&target) {
            file.set_permissions(metadata.permissions())?;
        }
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &target)
    };
    replace().map_err(|source| failed(path, source))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(path: &Path, source: io::Error) -> KeyFileError {
    KeyFileError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::api_key::KeyState;
    use super::super::scope::Scope;
    use super::*;

    fn new(name: &str) -> NewKey {
        NewKey {
            name: name.to_owned(),
            scopes: Scopes::of(&[Scope::Inference]),
            lifetime: None,
            limits: Limits::default(),
        }
    }

    #[test]
    fn created_listed_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let (secret, first) = create_key(&path, new("first"), 1000).unwrap();
        let second = NewKey {
            lifetime: Some(Duration::from_secs(60)),
            limits: Limits {
                requests_per_minute: Some(3),
                ..Limits::default()
            },
            ..new("second")
        };
        let (_, second) = create_key(&path, second, 1000).unwrap();
        assert_eq!(list_keys(&path).unwrap(), [first.clone(), second.clone()]);
        assert_eq!(second.expires, Some(1060));
        assert_eq!(second.state(1059), KeyState::Valid);
        assert_eq!(second.state(1060), KeyState::Expired);

        let text = fs::read_to_string(&path).unwrap();
        let secret_part = secret.reveal().rsplit('-').next().unwrap();
        assert!(!text.contains(secret_part), "the secret is in the file");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);

        let revoked = revoke_key(&path, &first.id, 2000).unwrap();
        assert_eq!(revoked.state(0), KeyState::Revoked);
        assert_eq!(revoke_key(&path, &first.id, 3000).unwrap(), revoked);
        let parsed = parse(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(parsed[&first.id].revoked, Some(2000));
        assert!(matches!(
            revoke_key(&path, "nobody", 0),
            Err(KeyFileError::UnknownId { .. })
        ));
    }

    #[test]
    fn many_writers_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        create_key(&path, new("k"), 0).unwrap();
                    }
                });
            }
        });
        assert_eq!(list_keys(&path).unwrap().len(), 40);
    }

    #[test]
    fn a_link_stays_a_link_and_rights_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("real"), folder.path().join("link"));
        create_key(&path, new("a"), 0).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        create_key(&link, new("b"), 0).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(list_keys(&path).unwrap().len(), 2);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn what_is_no_key_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let hash = "0".repeat(64);
        let key = |id: &str, more: &str| {
            format!(
                r#"{{"id":"{id}","name":"n","sha256":"{hash}","scopes":["models"],"created":0{more}}}"#
            )
        };
        let file = |keys: &str| format!(r#"{{"version":1,"keys":[{keys}]}}"#);
        assert!(parse(file(&key("a", "")).as_bytes()).is_ok());
        for (text, expected) in [
            (String::new(), "EOF"),
            ("[]".into(), "invalid"),
            (r#"{"version":2,"keys":[]}"#.into(), "version is 2"),
            (file(&format!("{},{}", key("a", ""), key("a", ""))), "twice"),
            (file(&key("a", r#","admin":true"#)), "unknown field `admin`"),
            (file(&key("a", r#","requests_per_minute":0"#)), "not from 1"),
            (
                file(&key("a", "").replace("models", "all")),
                "no scope \"all\"",
            ),
            (file(&key("a", "").replace("000", "xyz")), "64 hexadecimal"),
        ] {
            let message = parse(text.as_bytes()).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
            fs::write(&path, &text).unwrap();
            assert!(create_key(&path, new("n"), 0).is_err());
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn names_are_for_lists() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        for bad in ["", "a\nb", &"x".repeat(65)] {
            let error = create_key(&path, new(bad), 0).unwrap_err();
            assert!(matches!(error, KeyFileError::Name), "{bad:?}");
        }
        assert!(create_key(&path, new(&"ü".repeat(64)), 0).is_ok());
    }
}
