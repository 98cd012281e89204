//! Checkpoints: which tensor lies where, and its bytes, unread and in place.
//!
//! Owns the safetensors files of a model (memory-mapped, or a buffer for the embedded model) and the name, shape and
//! dtype checks. Knows no device and no architecture; a [`Weight`] keeps its file alive.
//! Invariant: a [`Weight`]'s bytes lie inside its file as it was when opened, and their number is shape times dtype.
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use crate::error::LoadError;

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
/// The format's own bound on the header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Element types of the published layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// bfloat16: everything but the experts' matrices.
    Bf16,
    /// Packed MXFP4 blocks and their E8M0 scales.
    U8,
}

impl Dtype {
    /// Name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "BF16",
            Self::U8 => "U8",
        }
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }
}

/// The bytes of one file, shared by every tensor in it.
enum Storage {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl Storage {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// One tensor, where it lies in its file.
#[derive(Clone)]
pub struct Weight {
    storage: Arc<Storage>,
    range: Range<usize>,
    shape: Vec<usize>,
}

impl Weight {
    /// Its bytes, row-major, little-endian, at any alignment.
    pub fn bytes(&self) -> &[u8] {
        &self.storage.bytes()[self.range.clone()]
    }

    /// Its dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Where in its file it begins.
    pub fn offset(&self) -> usize {
        self.range.start
    }

    /// Lets the system take back the memory of these bytes until they are read again: for weights that were copied.
    /// Only whole pages, only of files, and only where the system can.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Storage::Mapped(map) = &*self.storage {
            let page = 4096;
            let (start, end) = (
                self.range.start.next_multiple_of(page),
                self.range.end / page * page,
            );
            if start < end {
                // SAFETY: the mapping is of a file and read-only, so pages that are dropped are read from it again.
                // That it fails only means that the memory stays in use.
                let _ = unsafe {
                    map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start,
                        end - start,
                    )
                };
            }
        }
    }

    /// The bytes of entry `index` of the outermost dimension.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn entry(&self, index: usize) -> &[u8] {
        assert!(
            index < self.shape[0],
            "entry {index} of shape {:?}",
            self.shape
        );
        let len = self.range.len() / self.shape[0];
        &self.bytes()[index * len..][..len]
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weight{:?}", self.shape)
    }
}

/// One opened safetensors file.
struct Shard {
    name: String,
    storage: Arc<Storage>,
    tensors: HashMap<String, Entry>,
}

struct Entry {
    dtype: String,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// Every tensor of a model.
pub struct Checkpoint {
    shards: Vec<Shard>,
    /// Tensor name to index in `shards`.
    home: HashMap<String, usize>,
    /// `None`: not of files.
    origin: Option<Origin>,
}

/// Which files a model came from, and which state of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    folder: PathBuf,
    files: Vec<FileState>,
}

/// A file as it was when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileState {
    name: String,
    bytes: u64,
    /// Nanoseconds from 1970 to its last change; 0 where the system does not know.
    modified: u64,
}

impl Origin {
    /// A file name's worth of the folder: its last part, and a number for all of it.
    pub fn label(&self) -> String {
        // FNV-1a (draft-eastlake-fnv), 64 bits: the same for every build, unlike the standard library's.
        let hash = (self.folder.as_os_str().as_encoded_bytes().iter())
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let last = self.folder.file_name().unwrap_or_default();
        format!("{}-{hash:016x}", last.to_string_lossy())
    }

    /// Every file's name, size and last change.
    pub fn describe(&self) -> Value {
        let files = self.files.iter();
        files
            .map(|file| json!([file.name, file.bytes, file.modified]))
            .collect()
    }

    #[cfg(test)]
    pub fn for_tests(folder: &str, files: &[(&str, u64, u64)]) -> Self {
        let files = files.iter().map(|(name, bytes, modified)| FileState {
            name: (*name).to_owned(),
            bytes: *bytes,
            modified: *modified,
        });
        Self {
            folder: folder.into(),
            files: files.collect(),
        }
    }
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists. Other files and
    /// sub-folders (`original/`, `metal/`) are not looked at. Headers are read, weights are not.
    ///
    /// # Errors
    /// [`LoadError::NoWeights`], [`LoadError::Read`], or [`LoadError::Checkpoint`] naming the file.
    pub fn open(dir: &Path) -> Result<Self, LoadError> {
        let index = dir.join(INDEX_FILE);
        if index.is_file() {
            return Self::open_sharded(dir, &index);
        }
        let single = dir.join(SINGLE_FILE);
        if !single.is_file() {
            return Err(LoadError::NoWeights {
                dir: dir.to_owned(),
            });
        }
        let (shard, state) = Shard::map(&single)?;
        Self::from_shards(vec![shard], Some(origin(dir, vec![state])))
    }

    /// Takes the bytes of a single safetensors file; `name` stands for it in errors.
    ///
    /// # Errors
    /// [`LoadError::Checkpoint`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, LoadError> {
        let shard = Shard::new(name.to_owned(), Storage::Owned(bytes))?;
        Self::from_shards(vec![shard], None)
    }

    fn open_sharded(dir: &Path, index: &Path) -> Result<Self, LoadError> {
        let text = read_to_string(index)?;
        let malformed = |message: &str| LoadError::checkpoint(INDEX_FILE, message);
        let root: Value = serde_json::from_str(&text)
            .map_err(|error| malformed(&format!("not JSON: {error}")))?;
        let map = root
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(|| malformed("weight_map is missing"))?;
        let listed: Option<BTreeMap<&str, &str>> = map
            .iter()
            .map(|(tensor, file)| Some((tensor.as_str(), file.as_str()?)))
            .collect();
        let listed = listed.ok_or_else(|| malformed("weight_map must name one file per tensor"))?;
        let files: BTreeSet<&str> = listed.values().copied().collect();
        for file in &files {
            if Path::new(file).file_name().is_none_or(|name| name != *file) {
                return Err(malformed(&format!("{file:?} is not a plain file name")));
            }
        }
        let opened: Result<Vec<_>, _> = files
            .iter()
            .map(|file| Shard::map(&dir.join(file)))
            .collect();
        let (shards, states) = opened?.into_iter().unzip();
        let checkpoint = Self::from_shards(shards, Some(origin(dir, states)))?;
        for (tensor, file) in listed {
            match checkpoint.home.get(tensor) {
                Some(&home) if checkpoint.shards[home].name == file => {}
                _ => {
                    return Err(LoadError::checkpoint(
                        file,
                        format!("tensor {tensor}, which {INDEX_FILE} places here, is missing"),
                    ));
                }
            }
        }
        Ok(checkpoint)
    }

    fn from_shards(shards: Vec<Shard>, origin: Option<Origin>) -> Result<Self, LoadError> {
        let mut home = HashMap::new();
        for (index, shard) in shards.iter().enumerate() {
            for tensor in shard.tensors.keys() {
                if let Some(other) = home.insert(tensor.clone(), index) {
                    let other: &Shard = &shards[other];
                    return Err(LoadError::checkpoint(
                        &shard.name,
                        format!("tensor {tensor} is also in {}", other.name),
                    ));
                }
            }
        }
        Ok(Self {
            shards,
            home,
            origin,
        })
    }

    /// The files that it came from; `None` for bytes of the program's own.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        let tensors = self.shards.iter().flat_map(|shard| shard.tensors.values());
        tensors.map(|tensor| tensor.range.len() as u64).sum()
    }

    /// The tensor called `name`, which must have exactly this dtype and shape.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], [`LoadError::TensorDtype`] or [`LoadError::TensorShape`].
    pub fn weight(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Weight, LoadError> {
        let missing = || LoadError::MissingTensor {
            tensor: name.to_owned(),
        };
        let shard = &self.shards[*self.home.get(name).ok_or_else(missing)?];
        let entry = &shard.tensors[name];
        if entry.dtype != dtype.name() {
            return Err(LoadError::TensorDtype {
                file: shard.name.clone(),
                tensor: name.to_owned(),
                found: entry.dtype.clone(),
                expected: dtype.name(),
            });
        }
        if entry.shape != shape {
            return Err(LoadError::TensorShape {
                file: shard.name.clone(),
                tensor: name.to_owned(),
                found: entry.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        Ok(Weight {
            storage: Arc::clone(&shard.storage),
            range: entry.range.clone(),
            shape: shape.to_vec(),
        })
    }
}

impl Shard {
    fn map(path: &Path) -> Result<(Self, FileState), LoadError> {
        let failed = |source| LoadError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        // SAFETY: the mapping is read-only. Another process that truncates the file while it is mapped would make
        // reads fault (SIGBUS), one that rewrites it would change the weights: the documented limit of serving a
        // folder in place. Its present length is checked against the header before anything is read from it.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let since = metadata.modified().ok();
        let since = since.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let name = path.file_name().map_or_else(
            || path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        );
        let state = FileState {
            name: name.clone(),
            bytes: metadata.len(),
            modified: since.map_or(0, |since| since.as_nanos() as u64),
        };
        Ok((Self::new(name, Storage::Mapped(map))?, state))
    }

    fn new(name: String, storage: Storage) -> Result<Self, LoadError> {
        let tensors = parse_header(storage.bytes())
            .map_err(|message| LoadError::checkpoint(&name, message))?;
        Ok(Self {
            name,
            storage: Arc::new(storage),
            tensors,
        })
    }
}

fn origin(dir: &Path, files: Vec<FileState>) -> Origin {
    Origin {
        folder: dir.canonicalize().unwrap_or_else(|_| dir.to_owned()),
        files,
    }
}

/// Reads a safetensors header: 8 bytes of length, a JSON object, then the tensors' bytes without gaps.
fn parse_header(file: &[u8]) -> Result<HashMap<String, Entry>, String> {
    let Some((prefix, rest)) = file.split_first_chunk::<8>() else {
        return Err(format!(
            "truncated: {} bytes are no safetensors file",
            file.len()
        ));
    };
    let header_len = u64::from_le_bytes(*prefix);
    if header_len > MAX_HEADER_BYTES {
        return Err(format!(
            "not a safetensors file: a header of {header_len} bytes"
        ));
    }
    let header_len = header_len as usize;
    if header_len > rest.len() {
        return Err(format!(
            "truncated: the header should have {header_len} bytes"
        ));
    }
    let (header, data) = rest.split_at(header_len);
    let header: Value =
        serde_json::from_slice(header).map_err(|error| format!("corrupt header: {error}"))?;
    let Value::Object(header) = header else {
        return Err("corrupt header: not a JSON object".to_owned());
    };
    let data_start = 8 + header_len;
    let mut tensors = HashMap::new();
    for (name, entry) in header {
        if name == "__metadata__" {
            continue;
        }
        let (dtype, shape, begin, end) = parse_entry(&entry)
            .ok_or_else(|| format!("corrupt header: tensor {name} is described by {entry}"))?;
        if end > data.len() {
            return Err(format!(
                "truncated: tensor {name} should end at byte {}, the file has {}",
                data_start + end,
                file.len()
            ));
        }
        let elements = shape
            .iter()
            .try_fold(1usize, |all, len| all.checked_mul(*len));
        let expected = match dtype.as_str() {
            "BF16" => elements.and_then(|n| n.checked_mul(Dtype::Bf16.bytes())),
            "U8" => elements,
            // Not ours: `weight` will refuse it by name, if anybody asks for it.
            _ => Some(end - begin),
        };
        if expected != Some(end - begin) {
            return Err(format!(
                "corrupt header: tensor {name} of shape {shape:?} and dtype {dtype} occupies {} bytes",
                end - begin
            ));
        }
        let range = data_start + begin..data_start + end;
        tensors.insert(
            name,
            Entry {
                dtype,
                shape,
                range,
            },
        );
    }
    Ok(tensors)
}

fn parse_entry(entry: &Value) -> Option<(String, Vec<usize>, usize, usize)> {
    let count = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let dtype = entry.get("dtype")?.as_str()?.to_owned();
    let shape = entry
        .get("shape")?
        .as_array()?
        .iter()
        .map(count)
        .collect::<Option<Vec<_>>>()?;
    let [begin, end] = entry.get("data_offsets")?.as_array()?.as_slice() else {
        return None;
    };
    let (begin, end) = (count(begin)?, count(end)?);
    (begin <= end).then_some((dtype, shape, begin, end))
}

/// Reads a text file of the model folder.
///
/// # Errors
/// [`LoadError::Read`].
pub fn read_to_string(path: &Path) -> Result<String, LoadError> {
    std::fs::read_to_string(path).map_err(|source| LoadError::Read {
        path: PathBuf::from(path),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    fn error_of(bytes: Vec<u8>) -> String {
        match Checkpoint::from_bytes("w.safetensors", bytes) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        }
    }

    const TWO: &str = r#"{"__metadata__": {"format": "pt"}, "a": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [0, 4]},
        "b": {"dtype": "U8", "shape": [3], "data_offsets": [4, 7]}}"#;

    #[test]
    fn tensors_are_found_with_their_bytes() {
        let checkpoint = Checkpoint::from_bytes("w", file(TWO, &[1, 2, 3, 4, 5, 6, 7])).unwrap();
        let a = checkpoint.weight("a", Dtype::Bf16, &[2, 1]).unwrap();
        assert_eq!((a.bytes(), a.entry(1)), (&[1, 2, 3, 4][..], &[3, 4][..]));
        assert_eq!(
            checkpoint.weight("b", Dtype::U8, &[3]).unwrap().bytes(),
            [5, 6, 7]
        );
    }

    #[test]
    fn a_wrong_request_names_tensor_shape_and_dtype() {
        let checkpoint = Checkpoint::from_bytes("w", file(TWO, &[0; 7])).unwrap();
        let error = |name, dtype, shape: &[usize]| {
            checkpoint
                .weight(name, dtype, shape)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error("c", Dtype::U8, &[1]),
            "tensor c is missing from the checkpoint"
        );
        assert_eq!(
            error("b", Dtype::Bf16, &[3]),
            "w: tensor b has dtype U8, expected BF16"
        );
        assert_eq!(
            error("b", Dtype::U8, &[4]),
            "w: tensor b has shape [3], but config.json implies [4]"
        );
    }

    #[test]
    fn truncated_files_are_refused_at_every_length() {
        let whole = file(TWO, &[0; 7]);
        for len in 0..whole.len() {
            let error = error_of(whole[..len].to_vec());
            assert!(error.contains("truncated"), "{len}: {error}");
        }
    }

    #[test]
    fn corrupt_headers_are_refused() {
        for (header, reason) in [
            ("[]", "not a JSON object"),
            ("{", "corrupt header"),
            (r#"{"a": 1}"#, "tensor a"),
            (
                r#"{"a": {"dtype": "U8", "shape": [2], "data_offsets": [3, 1]}}"#,
                "tensor a",
            ),
            (
                r#"{"a": {"dtype": "U8", "shape": [-2], "data_offsets": [0, 1]}}"#,
                "tensor a",
            ),
            (
                r#"{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 1]}}"#,
                "occupies 1 bytes",
            ),
            (
                r#"{"a": {"dtype": "BF16", "shape": [4611686018427387904, 4], "data_offsets": [0, 2]}}"#,
                "occupies",
            ),
            (
                r#"{"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}"#,
                "truncated",
            ),
        ] {
            let error = error_of(file(header, &[0; 2]));
            assert!(error.contains(reason), "{header}: {error}");
        }
        let mut huge = u64::MAX.to_le_bytes().to_vec();
        huge.push(b'{');
        assert!(error_of(huge).contains("not a safetensors file"));
    }
}
