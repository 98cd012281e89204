//! Packed weights on the disk: what one start makes, the next one maps.
//!
//! One file per model folder and instruction set, replaced as a whole:
//!
//! ```text
//! packed matrices, each from a page on │ index (JSON) │ bytes of the index, u64 LE │ "gossamer"
//! ```
//! The index ends the file, so one whose writer was stopped has none. Until it is whole its name ends in `.part`; that name is
//! always the same, so what a killed writer left is written over and not kept beside the next one's. An empty file, `.lock`,
//! is locked by whoever writes, and stays: to remove it while another start opens it would let both write.
//! The index names the model's files with size and time of their
//! last change, the instruction set and the version that wrote it; if any of these is another, the file is written anew.
//! Nothing that goes wrong here keeps a model from being loaded: it is then packed in memory, and [`RepackCache::outcome`]
//! says why. Invariant: a matrix that is lent is the one that was packed from the same bytes of the same files, as far as
//! their sizes and times tell.

use std::fs::{self, File, TryLockError};
use std::io::{BufWriter, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gossamer_kernels::{Isa, PackedFormat};
use memmap2::Mmap;
use serde_json::{Value, json};

use crate::threads::Team;
use crate::weights::Origin;

/// Changes with the order of packed bytes, which may change between releases.
const LAYOUT: u32 = 1;
const MAGIC: &[u8; 8] = b"gossamer";
/// Where matrices may begin: pages of every system, cache lines all the more.
const ALIGNMENT: u64 = 16 * 1024;
const SMALLEST_PAGE: usize = 4096;
const TOUCHED_AT_ONCE: usize = 4 << 20;

/// Equally shaped matrices, as they are asked for while a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// What they are made of.
    pub format: PackedFormat,
    /// Matrices, rows, columns.
    pub shape: [usize; 3],
    /// Where the published bytes begin in their file.
    pub source: usize,
}

impl Item {
    fn describe(&self, bytes: Range<u64>) -> Value {
        let format = match self.format {
            PackedFormat::Mxfp4 => "mxfp4",
            PackedFormat::Int8 => "int8",
        };
        let [count, rows, cols] = self.shape;
        json!([
            format,
            count,
            rows,
            cols,
            self.source,
            bytes.start,
            bytes.end
        ])
    }
}

/// Bytes of the cache's file.
pub struct Lent {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl Lent {
    /// The packed matrices, one after the other.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }

    /// Has all of it read from the disk now, by all threads, and not under the first requests.
    pub fn touch(&self, team: &mut Team) {
        let parts = self.bytes().chunks(TOUCHED_AT_ONCE);
        team.for_each(parts, |_, part| {
            let sum = part.iter().step_by(SMALLEST_PAGE);
            std::hint::black_box(sum.fold(0_u8, |sum, byte| sum ^ byte));
        });
    }
}

/// The cache while a model is loaded: items come in the same order every time.
pub struct RepackCache {
    state: State,
    path: PathBuf,
}

enum State {
    Off,
    Failed(String),
    Reading {
        map: Arc<Mmap>,
        items: Vec<Value>,
        next: usize,
    },
    Writing(Writer),
    Done(String),
}

struct Writer {
    file: BufWriter<File>,
    temporary: PathBuf,
    origin: Value,
    items: Vec<Value>,
    /// Nobody else writes.
    _lock: File,
}

impl RepackCache {
    /// None: everything is packed in memory.
    pub fn off() -> Self {
        Self {
            state: State::Off,
            path: PathBuf::new(),
        }
    }

    /// Opens the cache in `folder` of the model that comes from `origin`, or begins a new one.
    pub fn open(folder: &Path, origin: &Origin, isa: Isa) -> Self {
        let path = folder.join(format!("{}-{isa}.packed", origin.label()));
        let described = json!({
            "layout": LAYOUT,
            "version": env!("CARGO_PKG_VERSION"),
            "kernels": isa.name(),
            "files": origin.describe(),
        });
        let state = match read(&path, &described) {
            Some((map, items)) => State::Reading {
                map: Arc::new(map),
                items,
                next: 0,
            },
            None => match Writer::begin(&path, described) {
                Ok(writer) => State::Writing(writer),
                Err(error) => State::Failed(failure(&path, &error)),
            },
        };
        Self { state, path }
    }

    /// The matrices, if they are there: `len` bytes.
    pub fn lend(&mut self, item: &Item, len: usize) -> Option<Lent> {
        let State::Reading { map, items, next } = &mut self.state else {
            return None;
        };
        let lent = items.get(*next).and_then(|known| {
            let place = |index: usize| known.get(index).and_then(Value::as_u64);
            let (start, end) = (place(5)?, place(6)?);
            let inside = start <= end && end <= map.len() as u64;
            let whole = inside && end - start == len as u64;
            (whole && *known == item.describe(start..end)).then(|| Lent {
                map: Arc::clone(map),
                range: start as usize..end as usize,
            })
        });
        *next += 1;
        if lent.is_none() {
            // Another order of loading than the writer's: what is wrong once may be wrong again.
            let _ = fs::remove_file(&self.path);
            self.state = State::Failed(format!(
                "{} is not what this version writes; removed, the next start writes it",
                self.path.display()
            ));
        }
        lent
    }

    /// Writes matrices that were packed just now.
    pub fn keep(&mut self, item: &Item, bytes: &[u8]) {
        if let State::Writing(writer) = &mut self.state
            && let Err(error) = writer.write(item, bytes)
        {
            self.state = State::Failed(failure(&self.path, &error));
        }
    }

    /// The model is loaded: a file that was written takes its name.
    pub fn finish(&mut self) {
        let path = self.path.display();
        self.state = match std::mem::replace(&mut self.state, State::Off) {
            State::Reading { map, .. } => State::Done(format!("{} from {path}", gib(map.len()))),
            State::Writing(writer) => match writer.finish(&self.path) {
                Ok(len) => State::Done(format!("{} written to {path}", gib(len))),
                Err(error) => State::Failed(failure(&self.path, &error)),
            },
            other => other,
        };
    }

    /// What came of it, for people; `None` without a cache.
    pub fn outcome(&self) -> Option<String> {
        match &self.state {
            State::Done(text) => Some(text.clone()),
            State::Failed(reason) => Some(format!("not kept: {reason}")),
            State::Off | State::Reading { .. } | State::Writing(_) => None,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Loading or writing failed; a file that was finished has another name. The lock is still held: it goes with the
        // fields, after this.
        let _ = fs::remove_file(&self.temporary);
    }
}

impl Writer {
    fn begin(path: &Path, origin: Value) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // So that two starts at once do not write into each other's. Not the file itself: it takes another name.
        let lock = File::create(path.with_extension("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => std::io::Error::other("another start is writing it"),
            TryLockError::Error(error) => error,
        })?;
        let temporary = path.with_extension("part");
        Ok(Self {
            file: BufWriter::new(File::create(&temporary)?),
            temporary,
            origin,
            items: Vec::new(),
            _lock: lock,
        })
    }

    fn write(&mut self, item: &Item, bytes: &[u8]) -> std::io::Result<()> {
        let end = self.file.stream_position()?;
        let start = end.next_multiple_of(ALIGNMENT);
        self.file.seek(std::io::SeekFrom::Start(start))?;
        self.file.write_all(bytes)?;
        self.items
            .push(item.describe(start..start + bytes.len() as u64));
        Ok(())
    }

    /// Ends the file and lets it be found. Returns its size.
    fn finish(mut self, path: &Path) -> std::io::Result<usize> {
        let index = json!({ "origin": self.origin, "items": self.items }).to_string();
        self.file.write_all(index.as_bytes())?;
        self.file.write_all(&(index.len() as u64).to_le_bytes())?;
        self.file.write_all(MAGIC)?;
        self.file.flush()?;
        let file = self.file.get_ref();
        // Before the name, so that a file of this name is whole even after the power fails.
        file.sync_all()?;
        let len = file.metadata()?.len();
        fs::rename(&self.temporary, path)?;
        Ok(len as usize)
    }
}

/// The file's map and items, if it is whole and of this origin.
fn read(path: &Path, origin: &Value) -> Option<(Mmap, Vec<Value>)> {
    let file = File::open(path).ok()?;
    // SAFETY: read-only, and only ever replaced by renaming; see `weights.rs` on files that others rewrite in place.
    let map = unsafe { Mmap::map(&file) }.ok()?;
    let rest = map.strip_suffix(MAGIC)?;
    let (rest, len) = rest.split_last_chunk::<8>()?;
    let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
    let index = &rest[rest.len().checked_sub(len)?..];
    let mut index: Value = serde_json::from_slice(index).ok()?;
    if index["origin"] != *origin {
        return None;
    }
    let Value::Array(items) = index["items"].take() else {
        return None;
    };
    Some((map, items))
}

fn failure(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn gib(bytes: usize) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS: [Item; 2] = [
        Item {
            format: PackedFormat::Int8,
            shape: [1, 16, 32],
            source: 8,
        },
        Item {
            format: PackedFormat::Mxfp4,
            shape: [4, 16, 64],
            source: 600,
        },
    ];

    struct Setup {
        folder: tempfile::TempDir,
        origin: Origin,
    }

    impl Setup {
        fn new() -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
                origin: Origin::for_tests("model", &[("model.safetensors", 1000, 5)]),
            }
        }

        fn open(&self) -> RepackCache {
            RepackCache::open(self.folder.path(), &self.origin, Isa::SCALAR)
        }

        /// Loads: what comes of each item, `None` where it had to be packed.
        fn load(&self, items: &[Item]) -> (Vec<Option<Vec<u8>>>, String) {
            let mut cache = self.open();
            let got = items
                .iter()
                .enumerate()
                .map(|(number, item)| {
                    let lent = cache.lend(item, 100).map(|lent| lent.bytes().to_vec());
                    if lent.is_none() {
                        cache.keep(item, &[number as u8 + 1; 100]);
                    }
                    lent
                })
                .collect();
            cache.finish();
            (got, cache.outcome().unwrap())
        }

        /// But for the lock, which stays.
        fn files(&self) -> Vec<PathBuf> {
            let entries = fs::read_dir(self.folder.path()).unwrap();
            let paths = entries.map(|entry| entry.unwrap().path());
            let is_lock = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "lock");
            paths.filter(|path| !is_lock(path)).collect()
        }
    }

    #[test]
    fn the_second_start_gets_what_the_first_wrote() {
        let setup = Setup::new();
        let (first, outcome) = setup.load(&ITEMS);
        assert_eq!(first, [None, None]);
        assert!(outcome.contains("written to"), "{outcome}");
        let (second, outcome) = setup.load(&ITEMS);
        assert_eq!(second, [Some(vec![1; 100]), Some(vec![2; 100])]);
        assert!(outcome.contains("from"), "{outcome}");
        assert_eq!(setup.files().len(), 1);
    }

    #[test]
    fn another_model_another_file_time_or_kernels_are_packed_anew() {
        let mut setup = Setup::new();
        setup.load(&ITEMS);
        for origin in [
            Origin::for_tests("model", &[("model.safetensors", 1000, 6)]),
            Origin::for_tests("model", &[("model.safetensors", 1001, 6)]),
            Origin::for_tests("other", &[("model.safetensors", 1001, 6)]),
        ] {
            setup.origin = origin;
            assert_eq!(setup.load(&ITEMS).0, [None, None]);
            assert!(setup.load(&ITEMS).0.iter().all(Option::is_some));
        }
        assert_eq!(setup.files().len(), 2);
        let Some(other) = Isa::available().into_iter().find(|isa| *isa != Isa::SCALAR) else {
            return;
        };
        let mut cache = RepackCache::open(setup.folder.path(), &setup.origin, other);
        assert!(cache.lend(&ITEMS[0], 100).is_none());
    }

    #[test]
    fn a_file_that_was_cut_or_spoiled_is_written_anew() {
        let setup = Setup::new();
        setup.load(&ITEMS);
        let [file] = &setup.files()[..] else {
            panic!("one file")
        };
        let whole = fs::read(file).unwrap();
        for len in [0, 1, 8, 100, whole.len() / 2, whole.len() - 1] {
            fs::write(file, &whole[..len]).unwrap();
            assert_eq!(setup.load(&ITEMS).0, [None, None], "cut at {len}");
            assert_eq!(fs::read(file).unwrap(), whole);
        }
        let mut long = whole.clone();
        let at = long.len() - 16;
        long[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(file, &long).unwrap();
        assert_eq!(setup.load(&ITEMS).0, [None, None]);
    }

    #[test]
    fn other_items_than_those_that_were_written_are_never_lent() {
        let setup = Setup::new();
        setup.load(&ITEMS);
        let [first, second] = ITEMS;
        let (got, outcome) = setup.load(&[
            first,
            Item {
                source: 601,
                ..second
            },
        ]);
        assert_eq!(got, [Some(vec![1; 100]), None]);
        assert!(outcome.contains("removed"), "{outcome}");
        assert!(setup.files().is_empty());
        assert_eq!(setup.load(&[second]).0, [None]);
        assert_eq!(setup.load(&[second, first]).0, [Some(vec![1; 100]), None]);
    }

    #[test]
    fn matrices_of_another_length_are_never_lent_and_written_at_the_next_start() {
        let setup = Setup::new();
        setup.load(&ITEMS);
        for len in [0, 99, 101] {
            let mut cache = setup.open();
            assert!(cache.lend(&ITEMS[0], len).is_none());
            let outcome = cache.outcome().unwrap();
            assert!(outcome.contains("removed"), "{outcome}");
            assert_eq!(setup.load(&ITEMS).0, [None, None]);
        }
        assert!(setup.load(&ITEMS).0.iter().all(Option::is_some));
    }

    #[test]
    fn what_a_killed_start_left_is_written_over() {
        let setup = Setup::new();
        setup.load(&ITEMS);
        let [file] = &setup.files()[..] else {
            panic!("one file")
        };
        let whole = fs::read(file).unwrap();
        fs::remove_file(file).unwrap();
        fs::write(file.with_extension("part"), vec![7; 2 * whole.len()]).unwrap();
        assert_eq!(setup.load(&ITEMS).0, [None, None]);
        assert_eq!(fs::read(file).unwrap(), whole);
        assert_eq!(setup.files().len(), 1);
    }

    #[test]
    fn while_another_start_writes_this_one_keeps_nothing_and_leaves_it_alone() {
        let setup = Setup::new();
        let mut other = setup.open();
        other.keep(&ITEMS[0], &[1; 100]);
        let (got, outcome) = setup.load(&ITEMS);
        assert_eq!(got, [None, None]);
        assert!(outcome.starts_with("not kept: "), "{outcome}");
        assert!(outcome.contains("another start"), "{outcome}");
        other.keep(&ITEMS[1], &[2; 100]);
        other.finish();
        let (got, _) = setup.load(&ITEMS);
        assert_eq!(got, [Some(vec![1; 100]), Some(vec![2; 100])]);
    }

    #[test]
    fn a_load_that_fails_or_a_folder_that_cannot_be_written_leaves_nothing() {
        let setup = Setup::new();
        let mut cache = setup.open();
        cache.keep(&ITEMS[0], &[1; 100]);
        assert_eq!(setup.files().len(), 1);
        drop(cache);
        assert!(setup.files().is_empty());

        // A file where the folder should be.
        let blocked = setup.folder.path().join("file");
        fs::write(&blocked, "").unwrap();
        let mut cache = RepackCache::open(&blocked, &setup.origin, Isa::SCALAR);
        cache.keep(&ITEMS[0], &[1; 100]);
        cache.finish();
        let outcome = cache.outcome().unwrap();
        assert!(outcome.starts_with("not kept: "), "{outcome}");
    }
}
