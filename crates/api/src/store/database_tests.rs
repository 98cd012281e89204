//! Bounds, eviction, ages, owners, restarts; over a clock that the test sets.

use std::cell::Cell;

use gossamer_metrics::Metrics;

use super::*;

thread_local! {
    /// Milliseconds; each test has a thread of its own.
    static NOW: Cell<i64> = const { Cell::new(1_000_000) };
}

fn clock() -> i64 {
    NOW.get()
}

fn config(max_count: u64, max_bytes: u64) -> StoreConfig {
    StoreConfig {
        path: None,
        max_count,
        max_bytes,
        max_age: Duration::from_secs(10),
    }
}

fn open(config: &StoreConfig) -> Database {
    Database::open_at(config, Metrics::new().api, clock).expect("a database")
}

fn record(id: &str, owner: &str, previous: Option<&str>) -> Record {
    Record {
        id: id.into(),
        owner: owner.into(),
        previous: previous.map(str::to_owned),
        status: "completed",
        response: format!("{{\"id\":\"{id}\"}}"),
        input: "[]".into(),
        events: None,
    }
}

fn ids(database: &Database) -> Vec<String> {
    let mut statement = database
        .connection
        .prepare("SELECT id FROM responses JOIN bodies USING (id) ORDER BY id")
        .expect("a statement");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    rows.collect::<Result<_, _>>().expect("ids")
}

/// `totals` is what the table holds.
fn check(database: &mut Database) {
    let before = database.totals.clone();
    database.count().expect("counted");
    assert_eq!(before, database.totals);
    let orphans: i64 = (database.connection)
        .query_row(
            "SELECT count(*) FROM bodies WHERE id NOT IN (SELECT id FROM responses)",
            [],
            |row| row.get(0),
        )
        .expect("a count");
    assert_eq!(orphans, 0);
}

#[test]
fn the_least_recently_used_go_first_and_a_conversation_is_used_as_a_whole() {
    let mut database = open(&config(4, 1 << 20));
    database.save(&record("a", "x", None)).expect("saved");
    database.save(&record("b", "x", None)).expect("saved");
    database.save(&record("c", "x", Some("a"))).expect("saved");
    database.save(&record("d", "x", Some("c"))).expect("saved");
    assert_eq!(ids(&database), ["a", "b", "c", "d"]);
    database.save(&record("e", "x", None)).expect("saved");
    assert_eq!(
        ids(&database),
        ["a", "c", "d", "e"],
        "b was used longest ago"
    );
    database.save(&record("f", "x", None)).expect("saved");
    assert_eq!(
        ids(&database),
        ["c", "d", "e", "f"],
        "oldest of its conversation first"
    );
    check(&mut database);
}

#[test]
fn whoever_holds_the_most_loses_first() {
    let mut database = open(&config(4, 1 << 20));
    database
        .save(&record("mine", "quiet", None))
        .expect("saved");
    for i in 0..20 {
        database
            .save(&record(&format!("r{i:02}"), "loud", None))
            .expect("saved");
    }
    assert_eq!(ids(&database), ["mine", "r17", "r18", "r19"]);
    check(&mut database);
}

#[test]
fn bytes_are_bounded_and_the_newest_stays_in_any_case() {
    let mut database = open(&config(100, 300));
    for i in 0..10 {
        let mut big = record(&format!("r{i}"), "x", None);
        big.input = "x".repeat(100);
        database.save(&big).expect("saved");
        let bytes: i64 = database.totals.values().map(|totals| totals.bytes).sum();
        assert!(bytes <= 300, "{bytes}");
    }
    assert_eq!(ids(&database), ["r8", "r9"]);
    let mut huge = record("huge", "y", None);
    huge.input = "x".repeat(1000);
    database.save(&huge).expect("saved");
    assert_eq!(ids(&database), ["huge"]);
    database.save(&record("small", "x", None)).expect("saved");
    assert_eq!(ids(&database), ["small"]);
    check(&mut database);
}

#[test]
fn what_is_too_old_is_not_found_and_then_not_there() {
    let mut database = open(&config(100, 1 << 20));
    database.save(&record("a", "x", None)).expect("saved");
    database.save(&record("b", "x", None)).expect("saved");
    NOW.set(NOW.get() + 9_000);
    assert!(database.get("x", "a").expect("works").is_some());
    // Continuing keeps it.
    database.save(&record("c", "x", Some("b"))).expect("saved");
    NOW.set(NOW.get() + 2_000);
    assert!(database.get("x", "a").expect("works").is_none());
    assert!(matches!(database.chain("x", "a", 1000), Ok(Chain::Missing(id)) if id == "a"));
    assert!(matches!(database.chain("x", "c", 1000), Ok(Chain::Found(links)) if links.len() == 2));
    database.sweep().expect("swept");
    assert_eq!(ids(&database), ["b", "c"]);
    check(&mut database);
}

#[test]
fn owners_do_not_meet() {
    let mut database = open(&config(100, 1 << 20));
    database.save(&record("a", "x", None)).expect("saved");
    assert!(database.get("y", "a").expect("works").is_none());
    assert!(!database.delete("y", "a").expect("works"));
    assert!(matches!(
        database.chain("y", "a", 1000),
        Ok(Chain::Missing(_))
    ));
    // Even where somebody claims to continue another's.
    database.save(&record("b", "y", Some("a"))).expect("saved");
    assert!(matches!(database.chain("y", "b", 1000), Ok(Chain::Missing(id)) if id == "a"));
    assert!(database.delete("x", "a").expect("works"));
    assert!(!database.delete("x", "a").expect("works"));
    check(&mut database);
}

#[test]
fn saving_again_replaces() {
    let mut database = open(&config(2, 1 << 20));
    for status in ["queued", "in_progress", "completed"] {
        let mut one = record("a", "x", None);
        one.status = status;
        one.events = Some(status.repeat(10));
        database.save(&one).expect("saved");
        check(&mut database);
    }
    let stored = database.get("x", "a").expect("works").expect("it is there");
    assert_eq!(
        stored.events.as_deref(),
        Some("completed".repeat(10).as_str())
    );
    assert_eq!(ids(&database), ["a"]);
}

#[test]
fn a_conversation_that_is_too_long_is_not_read() {
    let mut database = open(&config(100, 1 << 20));
    database.save(&record("a", "x", None)).expect("saved");
    database.save(&record("b", "x", Some("a"))).expect("saved");
    let one = record("a", "x", None);
    let bytes = one.response.len() + one.input.len();
    assert!(matches!(
        database.chain("x", "b", 2 * bytes),
        Ok(Chain::Found(_))
    ));
    assert!(matches!(
        database.chain("x", "b", 2 * bytes - 1),
        Ok(Chain::TooLong)
    ));
}

#[test]
fn a_file_is_found_again_and_belongs_to_one_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(3, 1 << 20);
    config.path = Some(folder.path().join("store.db"));
    let mut database = open(&config);
    let mut unfinished = record("a", "x", None);
    unfinished.status = "in_progress";
    database.save(&unfinished).expect("saved");
    for id in ["b", "c"] {
        database.save(&record(id, "x", None)).expect("saved");
    }
    let taken = Database::open_at(&config, Metrics::new().api, clock);
    assert!(matches!(taken, Err(StoreError::InUse(_))), "{taken:?}");
    drop(database);
    config.max_count = 2;
    let mut database = open(&config);
    assert_eq!(ids(&database), ["b", "c"], "smaller bounds hold at once");
    check(&mut database);
    drop(database);
    let connection = Connection::open(folder.path().join("store.db")).expect("opened");
    connection
        .pragma_update(None, "user_version", FORMAT + 1)
        .expect("set");
    drop(connection);
    let newer = Database::open_at(&config, Metrics::new().api, clock);
    assert!(
        matches!(newer, Err(StoreError::Newer { found: 2, .. })),
        "{newer:?}"
    );
}

#[test]
fn what_was_unfinished_has_failed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(3, 1 << 20);
    config.path = Some(folder.path().join("store.db"));
    let mut unfinished = record("a", "x", None);
    unfinished.status = "queued";
    unfinished.response = r#"{"id":"a","status":"queued","error":null}"#.into();
    open(&config).save(&unfinished).expect("saved");
    let stored = open(&config)
        .get("x", "a")
        .expect("works")
        .expect("it is there");
    let response: serde_json::Value = serde_json::from_str(&stored.response).expect("JSON");
    assert_eq!(response["status"], "failed");
    assert_eq!(response["error"]["code"], "server_error");
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    std::fs::write(
        &path,
        "this is a text, and a long one, so that it has a header of sorts".repeat(20),
    )
    .expect("written");
    let mut config = config(3, 1 << 20);
    config.path = Some(path);
    assert!(matches!(
        Database::open_at(&config, Metrics::new().api, clock),
        Err(StoreError::Database(_))
    ));
    config.path = Some(folder.path().join("no/such/folder.db"));
    assert!(matches!(
        Database::open_at(&config, Metrics::new().api, clock),
        Err(StoreError::Open { .. })
    ));
}
