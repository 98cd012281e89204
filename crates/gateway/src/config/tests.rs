//! Precedence, messages, and the committed files against the table.

use std::path::{Path, PathBuf};

use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    pairs.iter().map(owned).collect()
}

fn file_error(text: &str) -> String {
    let mut raw = RawConfig::defaults();
    raw.read_toml(text, Path::new("a.toml"))
        .unwrap_err()
        .to_string()
}

fn config_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config")
}

#[test]
fn default_then_file_then_environment_then_flag() {
    let mut raw = RawConfig::defaults();
    assert_eq!(raw.get("server.port").origin, Origin::Default);
    raw.read_toml(
        "\n[server]\nport = 1\nhost = \"a\"\nkeep_alive_ms = 2000",
        Path::new("f"),
    )
    .unwrap();
    raw.read_env(env(&[
        ("GOSSAMER_PORT", "2"),
        ("GOSSAMER_HOST", "b"),
        ("PORT", "9"),
    ]))
    .unwrap();
    raw.set_flag("port", "3").unwrap();

    let config = Config::resolve(&raw, Environment::Development).unwrap();
    assert_eq!(config.server.port, 3);
    assert_eq!(raw.get("server.port").origin, Origin::Flag("port".into()));
    assert_eq!(config.server.host, "b");
    assert_eq!(
        raw.get("server.host").origin,
        Origin::Env("GOSSAMER_HOST".into())
    );
    assert_eq!(config.server.keep_alive, Duration::from_secs(2));
    assert_eq!(
        raw.get("server.keep_alive_ms").origin,
        Origin::File("f".into(), 5)
    );
    assert_eq!(config.scheduler.max_num_seqs, 64);
}

#[test]
fn every_key_can_be_given_by_file_environment_and_flag() {
    for key in KEYS {
        let value = key.default_value();
        let mut raw = RawConfig::defaults();
        let text = format!("[{}]\n{} = {}", key.section, key.name, value.to_toml());
        raw.read_toml(&text, Path::new("f")).unwrap();
        assert_eq!(raw.get(&key.path()).origin, Origin::File("f".into(), 2));
        raw.read_env([(key.env(), value.to_string())]).unwrap();
        assert_eq!(raw.get(&key.path()).origin, Origin::Env(key.env()));
        raw.set_flag(key.flag, &value.to_string()).unwrap();
        assert_eq!(raw.get(&key.path()).origin, Origin::Flag(key.flag.into()));
        assert_eq!(raw.get(&key.path()).value, value);
    }
}

#[test]
fn mistakes_in_a_file_name_the_line_the_key_and_a_better_one() {
    let cases = [
        (
            "[scheduler]\nmax_num_seq = 3",
            "a.toml:2: unknown key scheduler.max_num_seq; did you mean scheduler.max_num_seqs?",
        ),
        (
            "[server]\nmax_num_seqs = 3",
            "a.toml:2: unknown key server.max_num_seqs; did you mean scheduler.max_num_seqs?",
        ),
        ("[server]\nzzz = 3", "a.toml:2: unknown key server.zzz"),
        (
            "[sever]\nport = 3",
            "a.toml:1: unknown section sever; did you mean server?",
        ),
        (
            "port = 3",
            "a.toml:1: unknown key port; did you mean server.port?",
        ),
        ("server = 3", "a.toml:1: unknown key server"),
        (
            "[server]\n\nport = 70000",
            "a.toml:3: server.port is 70000, but must be an integer from 0 to 65535",
        ),
        (
            "[server]\nport = -1",
            "a.toml:2: server.port is -1, but must be an integer from 0 to 65535",
        ),
        (
            "[server]\nport = \"80\"",
            "a.toml:2: server.port is the text \"80\", but must be an integer from 0 to 65535",
        ),
        (
            "[server]\nport = 80.5",
            "a.toml:2: server.port is of type float, but must be an integer from 0 to 65535",
        ),
        (
            "[log]\nformat = \"xml\"",
            "a.toml:2: log.format is \"xml\", but must be one of \"text\", \"json\"",
        ),
        (
            "[model]\naliases = [1]",
            "a.toml:2: model.aliases is a list of other things, but must be a list of texts",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(file_error(text), message);
    }
    assert!(file_error("[server").starts_with("a.toml is not valid TOML: "));
}

#[test]
fn mistakes_in_environment_and_flags_name_them() {
    let mut raw = RawConfig::defaults();
    let error = raw.read_env(env(&[("GOSSAMER_PROT", "1")])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "environment GOSSAMER_PROT: unknown environment variable GOSSAMER_PROT; did you mean GOSSAMER_PORT?"
    );
    let error = raw
        .read_env(env(&[("GOSSAMER_KV_CACHE_BYTES", "lots")]))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "environment GOSSAMER_KV_CACHE_BYTES: engine.kv_cache_bytes is \"lots\", but must be a size from 1KiB to 16TiB (bytes, or with KiB, MiB, GiB), or \"auto\""
    );
    let error = raw.set_flag("max-n", "0").unwrap_err();
    assert_eq!(
        error.to_string(),
        "flag --max-n: api.max_n is \"0\", but must be an integer from 1 to 128"
    );
    raw.read_env(env(&[
        ("GOSSAMER_ENV", "testing"),
        ("GOSSAMER_CONFIG", "x"),
    ]))
    .unwrap();
}

#[test]
fn values_that_do_not_go_together() {
    let mut raw = RawConfig::defaults();
    raw.set_flag("model", "some/folder").unwrap();
    assert!(Config::resolve(&raw, Environment::Production).is_ok());
    let error = Config::resolve(&raw, Environment::Testing)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("flag --model: model.path is \"some/folder\""),
        "{error}"
    );

    let mut raw = RawConfig::defaults();
    raw.set_flag("block-size", "12").unwrap();
    let error = Config::resolve(&raw, Environment::Testing)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "flag --block-size: engine.block_size is 12, but must be 8, 16 or 32"
    );

    let mut raw = RawConfig::defaults();
    raw.set_flag("max-body-memory-bytes", "1MiB").unwrap();
    let error = Config::resolve(&raw, Environment::Testing)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("must be at least server.max_body_bytes"),
        "{error}"
    );

    let with_mistralrs = |model: &str, flag: &str, value: &str| {
        let mut raw = RawConfig::defaults();
        raw.set_flag("engine", "mistralrs").unwrap();
        raw.set_flag("model", model).unwrap();
        raw.set_flag(flag, value).unwrap();
        Config::resolve(&raw, Environment::Production).map_err(|error| error.to_string())
    };
    for model in ["./folder", "some/model.gguf"] {
        let config = with_mistralrs(model, "max-num-seqs", "3").unwrap();
        assert!(
            matches!(config.model.source, ModelPath::Folder(_)),
            "{model}"
        );
    }
    for model in ["tiny", "some/repository"] {
        let error = with_mistralrs(model, "max-num-seqs", "3").unwrap_err();
        assert!(
            error.contains("model.path") && error.contains(".gguf"),
            "{error}"
        );
    }
    for (flag, value, key) in [
        ("threads", "3", "engine.threads"),
        (
            "enable-prefix-caching",
            "false",
            "scheduler.enable_prefix_caching",
        ),
        ("constrain-headers", "false", "api.constrain_headers"),
        ("date", "2026-01-31", "api.date"),
        ("kept-turns", "3", "api.kept_turns"),
    ] {
        let error = with_mistralrs("./folder", flag, value).unwrap_err();
        let expected =
            format!("flag --{flag}: {key} has no meaning where engine.kind is \"mistralrs\"");
        assert_eq!(error, expected);
    }

    for (origins, fine) in [
        ("*", true),
        ("https://a.example,http://localhost:3000", true),
        ("a.example", false),
        ("https://a.example/path", false),
        ("https://a.example/", false),
        ("https://*.example", false),
        ("https://", false),
        ("null", false),
    ] {
        let mut raw = RawConfig::defaults();
        raw.set_flag("cors-origins", origins).unwrap();
        let resolved = Config::resolve(&raw, Environment::Testing);
        assert_eq!(resolved.is_ok(), fine, "{origins}");
    }

    let mut raw = RawConfig::defaults();
    raw.set_flag("date", "2026-1-1").unwrap();
    let error = Config::resolve(&raw, Environment::Testing)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"2026-1-1\", but must be a date"),
        "{error}"
    );
    raw.set_flag("date", "2026-01-01").unwrap();
    assert!(Config::resolve(&raw, Environment::Testing).is_ok());
}

#[test]
fn environment_names() {
    assert_eq!(Environment::parse(None).unwrap(), Environment::Development);
    assert_eq!(
        Environment::parse(Some("testing")).unwrap(),
        Environment::Testing
    );
    assert!(
        Environment::parse(Some("prod"))
            .unwrap_err()
            .to_string()
            .contains("GOSSAMER_ENV")
    );
}

#[test]
fn model_names() {
    let name = |path: &str| {
        let mut raw = RawConfig::defaults();
        raw.set_flag("model", path).unwrap();
        Config::resolve(&raw, Environment::Development)
            .unwrap()
            .model
            .name
    };
    assert_eq!(name("tiny"), "gossamer-tiny");
    assert_eq!(name("models/gpt-oss-20b/"), "gpt-oss-20b");
}

/// The committed file is what `gossamer config --toml` writes, so it cannot lag behind the table.
#[test]
fn the_committed_file_holds_every_key_at_its_default() {
    let path = config_folder().join("gossamer.toml");
    let expected = RawConfig::defaults().to_toml();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    // Line by line: the whole file twice is no readable message.
    for (number, (found, wanted)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(
            found,
            wanted,
            "line {}; `make config` rewrites it",
            number + 1
        );
    }
    assert_eq!(text.len(), expected.len(), "`make config` rewrites it");

    let mut raw = RawConfig::defaults();
    raw.read_file(&path).unwrap();
    for (key, setting) in raw.iter() {
        assert_eq!(setting.value, key.default_value(), "{}", key.path());
        assert!(
            matches!(setting.origin, Origin::File(..)),
            "{} is missing",
            key.path()
        );
    }
}

#[test]
fn the_profiles_are_valid() {
    for profile in ["development", "testing", "production"] {
        let mut raw = RawConfig::defaults();
        raw.read_file(&config_folder().join(format!("{profile}.toml")))
            .unwrap();
        let environment = Environment::parse(Some(profile)).unwrap();
        Config::resolve(&raw, environment).unwrap();
        assert!(
            raw.iter()
                .any(|(_, setting)| setting.origin != Origin::Default)
        );
    }
}
