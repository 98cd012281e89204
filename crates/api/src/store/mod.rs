//! Responses that are kept, so that a client can fetch and continue them: the asynchronous face of `database`.
//!
//! One thread owns the database and does one job after the other, so nothing that serves HTTP ever waits for a disk.
//! Knows owners and ids, and texts that are JSON to others. Invariants: nothing of one owner is found by another; what
//! [`ResponseStore::save`] has reported as done survives a killed process; the bounds of [`StoreConfig`] hold after every save.

mod database;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use gossamer_metrics::ApiMetrics;
use tokio::sync::oneshot;

use database::Database;
pub(crate) use database::{Chain, Link, Record, Stored};

/// How often what is too old is looked for when nobody asks for anything.
const SWEEP: Duration = Duration::from_secs(60);

/// Where responses are kept, and how many. Nothing has a default here.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The database's file; `None` keeps it in memory, until the process ends.
    pub path: Option<PathBuf>,
    /// Most responses.
    pub max_count: u64,
    /// Most bytes of JSON, all responses together; the file is somewhat larger. One response alone may be larger.
    pub max_bytes: u64,
    /// How long a response is kept that is neither fetched nor continued.
    pub max_age: Duration,
}

/// Why responses cannot be kept, or be found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be created or read.
    #[error("cannot open the response store {}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("the response store {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A later version wrote it.
    #[error(
        "the response store {} has format {found}, and this version knows formats up to {known}",
        path.display()
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest known here.
        known: i64,
    },
    /// The database failed: the disk is full, or the file is no database.
    #[error("the response store failed: {0}")]
    Database(#[from] rusqlite::Error),
    /// The thread that owned the database is gone.
    #[error("the response store has stopped")]
    Stopped,
}

type Job = Box<dyn FnOnce(&mut Database) + Send>;

/// A cheap handle to the store; clone it wherever it is needed. The database is closed when the last one is dropped.
#[derive(Clone, Debug)]
pub struct ResponseStore {
    /// `None`: nothing is kept.
    jobs: Option<Sender<Job>>,
}

impl ResponseStore {
    /// A store that keeps nothing.
    pub fn off() -> Self {
        Self { jobs: None }
    }

    /// Opens the database, and marks what a process that was killed had left unfinished as failed.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn open(config: &StoreConfig, metrics: ApiMetrics) -> Result<Self, StoreError> {
        let database = Database::open(config, metrics)?;
        let (jobs, inbox) = channel();
        std::thread::Builder::new()
            .name("gossamer-store".into())
            .spawn(move || run(database, &inbox))
            .map_err(|source| StoreError::Open {
                path: config.path.clone().unwrap_or_default(),
                source,
            })?;
        Ok(Self { jobs: Some(jobs) })
    }

    /// Whether anything is kept.
    pub fn is_on(&self) -> bool {
        self.jobs.is_some()
    }

    /// Keeps a response, new or changed. Returns when it is on the disk.
    pub(crate) async fn save(&self, record: Record) -> Result<(), StoreError> {
        self.call(move |database| database.save(&record)).await
    }

    /// A response of this owner.
    pub(crate) async fn get(&self, owner: &str, id: &str) -> Result<Option<Stored>, StoreError> {
        let (owner, id) = (owner.to_owned(), id.to_owned());
        self.call(move |database| database.get(&owner, &id)).await
    }

    /// A response of this owner and those that it continues, oldest first; see [`Chain`].
    pub(crate) async fn chain(
        &self,
        owner: &str,
        id: &str,
        max_bytes: usize,
    ) -> Result<Chain, StoreError> {
        let (owner, id) = (owner.to_owned(), id.to_owned());
        self.call(move |database| database.chain(&owner, &id, max_bytes))
            .await
    }

    /// Forgets a response of this owner; false if there is none.
    pub(crate) async fn delete(&self, owner: &str, id: &str) -> Result<bool, StoreError> {
        let (owner, id) = (owner.to_owned(), id.to_owned());
        self.call(move |database| database.delete(&owner, &id))
            .await
    }

    async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let jobs = self.jobs.as_ref().ok_or(StoreError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        // Unbounded, and bounded in fact: every request has at most one job here, and requests are bounded.
        jobs.send(Box::new(move |database| {
            // Nobody waits any more if the client went away; the job is done all the same.
            let _ = reply.send(job(database));
        }))
        .map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }
}

fn run(mut database: Database, inbox: &Receiver<Job>) {
    loop {
        match inbox.recv_timeout(SWEEP) {
            Ok(job) => job(&mut database),
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = database.sweep() {
                    tracing::error!(%error, "old responses cannot be removed");
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
