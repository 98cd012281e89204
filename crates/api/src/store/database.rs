//! The database of kept responses: two SQLite tables.
//!
//! ```text
//!  responses  id (key) | owner | previous | status | used (ms, grows) | bytes
//!  bodies     id (key) | response JSON | input items JSON | events JSON lines, or null
//! ```
//! Two, because SQLite writes a row anew to change one column: `used` changes with every turn of a conversation, bodies do not.
//! WAL with `synchronous = FULL`: a commit that returned is on the disk. The lock on the file is exclusive, so two servers
//! cannot share it by mistake. Deleted rows are overwritten with zeros (`secure_delete`).
//! Invariants: `used` differs in all rows; a response's ancestors are used whenever it is made, so that the least recently
//! used rows are always whole conversations; `totals` is what the table holds.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gossamer_metrics::ApiMetrics;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::{StoreConfig, StoreError};

/// `PRAGMA user_version` of the table as it is below.
const FORMAT: i64 = 1;

/// How long to wait for another process to let go of the file: one that is just ending.
const PATIENCE: Duration = Duration::from_secs(2);

const SCHEMA: &str = "
    CREATE TABLE responses (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        previous TEXT,
        status TEXT NOT NULL,
        used INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE bodies (
        id TEXT PRIMARY KEY REFERENCES responses ON DELETE CASCADE,
        response TEXT NOT NULL,
        input TEXT NOT NULL,
        events TEXT
    ) STRICT;
    CREATE INDEX responses_by_owner ON responses (owner, used);
    CREATE INDEX responses_by_use ON responses (used);
    PRAGMA user_version = 1;
";

/// What a response that was being made when the process died is told to be.
const ORPHANS: &str = r#"
    UPDATE bodies SET response = json_set(response, '$.status', 'failed', '$.error',
        json('{"code":"server_error","message":"The server stopped before the response was complete."}'))
    WHERE id IN (SELECT id FROM responses WHERE status IN ('queued', 'in_progress'));
    UPDATE responses SET status = 'failed' WHERE status IN ('queued', 'in_progress');
"#;

/// A response to keep.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// `resp_...`
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// The response that it continues.
    pub previous: Option<String>,
    /// As on the wire.
    pub status: &'static str,
    /// The response as on the wire, JSON.
    pub response: String,
    /// Its own input items, a JSON array.
    pub input: String,
    /// Its stream, one event a line, if it can be read again.
    pub events: Option<String>,
}

/// A response that was kept.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// As in [`Record`].
    pub response: String,
    /// As in [`Record`].
    pub events: Option<String>,
}

/// One response of a conversation.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// As in [`Record`].
    pub status: String,
    /// As in [`Record`].
    pub response: String,
    /// As in [`Record`].
    pub input: String,
}

/// A conversation, looked for by its last response.
#[derive(Clone, Debug)]
pub(crate) enum Chain {
    /// All of it, oldest first.
    Found(Vec<Link>),
    /// This response is not there (any more): the one that was asked for, or one before it.
    Missing(String),
    /// It has more bytes than were allowed.
    TooLong,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    count: i64,
    bytes: i64,
}

pub(super) struct Database {
    connection: Connection,
    max: Totals,
    max_age_ms: i64,
    /// Of each owner.
    totals: HashMap<String, Totals>,
    last_used: i64,
    clock: fn() -> i64,
    metrics: ApiMetrics,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("holds", &self.all())
            .finish_non_exhaustive()
    }
}

impl Database {
    pub fn open(config: &StoreConfig, metrics: ApiMetrics) -> Result<Self, StoreError> {
        Self::open_at(config, metrics, unix_ms)
    }

    fn open_at(
        config: &StoreConfig,
        metrics: ApiMetrics,
        clock: fn() -> i64,
    ) -> Result<Self, StoreError> {
        let connection = match &config.path {
            None => Connection::open_in_memory()?,
            Some(path) => {
                create_private(path).map_err(|source| StoreError::Open {
                    path: path.clone(),
                    source,
                })?;
                Connection::open(path)?
            }
        };
        let path = config.path.as_deref().unwrap_or(Path::new(""));
        prepare(&connection).map_err(|error| in_use(error, path))?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match found {
            0 => connection.execute_batch(SCHEMA)?,
            FORMAT => {}
            found => {
                return Err(StoreError::Newer {
                    path: path.to_owned(),
                    found,
                    known: FORMAT,
                });
            }
        }
        connection.execute_batch(&format!("BEGIN; {ORPHANS} COMMIT"))?;
        let mut database = Self {
            totals: HashMap::new(),
            last_used: connection.query_row(
                "SELECT coalesce(max(used), 0) FROM responses",
                [],
                |row| row.get(0),
            )?,
            connection,
            max: Totals {
                count: clamp(config.max_count),
                bytes: clamp(config.max_bytes),
            },
            max_age_ms: i64::try_from(config.max_age.as_millis()).unwrap_or(i64::MAX),
            clock,
            metrics,
        };
        database.count()?;
        database.sweep()?;
        // The bounds may have become smaller.
        database.shrink("")?;
        Ok(database)
    }

    /// Keeps a response; the same id replaces what was there.
    pub fn save(&mut self, record: &Record) -> Result<(), StoreError> {
        let bytes = [&record.response, &record.input]
            .into_iter()
            .chain(&record.events)
            .map(|text| text.len() as i64)
            .sum::<i64>();
        // Ancestors before the response, oldest first, each with a time of its own.
        let mut ancestors = Vec::new();
        let mut previous = record.previous.clone();
        while let Some(id) = previous.take() {
            let next = "SELECT previous FROM responses WHERE id = ?1 AND owner = ?2";
            let row = self
                .connection
                .prepare(next)?
                .query_row(params![id, record.owner], |row| {
                    row.get::<_, Option<String>>(0)
                });
            if let Some(before) = row.optional()? {
                ancestors.push(id);
                previous = before;
            }
        }
        let first = self.now().max(self.last_used + 1);
        let last = first + ancestors.len() as i64;
        let transaction = self.connection.transaction()?;
        for (used, id) in (first..).zip(ancestors.iter().rev()) {
            transaction.execute(
                "UPDATE responses SET used = ?1 WHERE id = ?2",
                params![used, id],
            )?;
        }
        let replaced: Option<i64> = transaction
            .query_row(
                "DELETE FROM responses WHERE id = ?1 RETURNING bytes",
                [&record.id],
                |row| row.get(0),
            )
            .optional()?;
        let Record {
            id,
            owner,
            previous,
            status,
            response,
            input,
            events,
        } = record;
        transaction.execute(
            "INSERT INTO responses VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![id, owner, previous, status, last, bytes],
        )?;
        transaction.execute(
            "INSERT INTO bodies VALUES (?1, ?2, ?3, ?4)",
            params![id, response, input, events],
        )?;
        transaction.commit()?;
        self.last_used = last;
        if let Some(bytes) = replaced {
            self.forget(&record.owner, bytes);
        }
        let totals = self.totals.entry(record.owner.clone()).or_default();
        totals.count += 1;
        totals.bytes += bytes;
        self.shrink(&record.id)?;
        self.report();
        Ok(())
    }

    pub fn get(&mut self, owner: &str, id: &str) -> Result<Option<Stored>, StoreError> {
        let query = "SELECT response, events FROM responses JOIN bodies USING (id)
            WHERE id = ?1 AND owner = ?2 AND used > ?3";
        let oldest = self.oldest();
        let row = self
            .connection
            .query_row(query, params![id, owner, oldest], |row| {
                Ok(Stored {
                    response: row.get(0)?,
                    events: row.get(1)?,
                })
            });
        Ok(row.optional()?)
    }

    pub fn chain(&mut self, owner: &str, id: &str, max_bytes: usize) -> Result<Chain, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT previous, status, response, input FROM responses JOIN bodies USING (id)
            WHERE id = ?1 AND owner = ?2 AND used > ?3",
        )?;
        let oldest = self.oldest();
        let mut links = Vec::new();
        let mut bytes = 0;
        let mut next = Some(id.to_owned());
        // Nothing can come after itself: a response continues one that was there before it.
        while let Some(id) = next {
            let row = statement.query_row(params![id, owner, oldest], |row| {
                let link = Link {
                    status: row.get(1)?,
                    response: row.get(2)?,
                    input: row.get(3)?,
                };
                Ok((row.get::<_, Option<String>>(0)?, link))
            });
            let Some((previous, link)) = row.optional()? else {
                return Ok(Chain::Missing(id));
            };
            bytes += link.response.len() + link.input.len();
            if bytes > max_bytes {
                return Ok(Chain::TooLong);
            }
            links.push(link);
            next = previous;
        }
        links.reverse();
        Ok(Chain::Found(links))
    }

    pub fn delete(&mut self, owner: &str, id: &str) -> Result<bool, StoreError> {
        let oldest = self.oldest();
        let row: Option<(i64, i64)> = self
            .connection
            .query_row(
                "DELETE FROM responses WHERE id = ?1 AND owner = ?2 RETURNING bytes, used",
                params![id, owner],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let Some((bytes, used)) = row else {
            return Ok(false);
        };
        self.forget(owner, bytes);
        self.report();
        Ok(used > oldest)
    }

    /// Removes what is too old.
    pub fn sweep(&mut self) -> Result<(), StoreError> {
        let removed: Vec<(String, i64)> = {
            let mut statement = self
                .connection
                .prepare("DELETE FROM responses WHERE used <= ?1 RETURNING owner, bytes")?;
            let rows =
                statement.query_map([self.oldest()], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<Result<_, _>>()?
        };
        for (owner, bytes) in &removed {
            self.forget(owner, *bytes);
            self.metrics.response_evicted("age");
        }
        if !removed.is_empty() {
            self.connection.execute_batch("PRAGMA incremental_vacuum")?;
        }
        self.report();
        Ok(())
    }

    /// Removes responses until the bounds hold: of whoever holds the most, the least recently used first. So nobody loses
    /// anything to somebody who holds more. The response `keep` stays in any case.
    fn shrink(&mut self, keep: &str) -> Result<(), StoreError> {
        loop {
            let all = self.all();
            let (reason, by): (_, fn(&Totals) -> i64) = if all.bytes > self.max.bytes {
                ("bytes", |totals| totals.bytes)
            } else if all.count > self.max.count {
                ("count", |totals| totals.count)
            } else {
                return Ok(());
            };
            let mut owners: Vec<(i64, &String)> = (self
                .totals
                .iter()
                .map(|(owner, totals)| (by(totals), owner)))
            .collect();
            owners.sort_unstable_by(|a, b| b.cmp(a));
            let mut removed = None;
            for (_, owner) in owners {
                let row: Option<i64> = self
                    .connection
                    .query_row(
                        "DELETE FROM responses WHERE id =
                            (SELECT id FROM responses WHERE owner = ?1 AND id <> ?2 ORDER BY used LIMIT 1)
                         RETURNING bytes",
                        params![owner, keep],
                        |row| row.get(0),
                    )
                    .optional()?;
                if let Some(bytes) = row {
                    removed = Some((owner.clone(), bytes));
                    break;
                }
            }
            let Some((owner, bytes)) = removed else {
                return Ok(());
            };
            self.forget(&owner, bytes);
            self.metrics.response_evicted(reason);
        }
    }

    fn count(&mut self) -> Result<(), StoreError> {
        let mut statement = self
            .connection
            .prepare("SELECT owner, count(*), sum(bytes) FROM responses GROUP BY owner")?;
        let rows = statement.query_map([], |row| {
            let (count, bytes) = (row.get(1)?, row.get(2)?);
            Ok((row.get(0)?, Totals { count, bytes }))
        })?;
        let totals = rows.collect::<Result<_, _>>()?;
        drop(statement);
        self.totals = totals;
        Ok(())
    }

    fn forget(&mut self, owner: &str, bytes: i64) {
        if let Some(totals) = self.totals.get_mut(owner) {
            totals.count -= 1;
            totals.bytes -= bytes;
            if totals.count == 0 {
                self.totals.remove(owner);
            }
        }
    }

    fn all(&self) -> Totals {
        let sum = |by: fn(&Totals) -> i64| self.totals.values().map(by).sum();
        Totals {
            count: sum(|totals| totals.count),
            bytes: sum(|totals| totals.bytes),
        }
    }

    fn report(&self) {
        let Totals { count, bytes } = self.all();
        self.metrics.responses_stored(count, bytes);
    }

    fn now(&self) -> i64 {
        (self.clock)()
    }

    /// What was last used then is too old.
    fn oldest(&self) -> i64 {
        self.now().saturating_sub(self.max_age_ms)
    }
}

/// Creates the file, readable by nobody else: it holds what people said.
fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(PATIENCE)?;
    // Before the first table: it cannot be changed later.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    // Answers with the mode; in memory it stays what it was.
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.query_row("PRAGMA secure_delete = ON", [], |_| Ok(()))?;
    // The lock is taken by the first write, not by opening.
    connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")
}

fn in_use(error: rusqlite::Error, path: &Path) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::InUse(path.to_owned())
        }
        _ => error.into(),
    }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

fn clamp(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "database_tests.rs"]
mod tests;
