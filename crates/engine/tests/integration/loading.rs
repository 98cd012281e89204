//! Every way in which a model folder can be wrong, and what is said about it.

use std::fs;

use gossamer_engine::{
    DeviceChoice, Engine, EngineConfig, KvCacheSize, KvDtype, LoadError, ModelSource, WeightFormat,
};
use gossamer_scheduler::{Executor, KvGroup};
use gossamer_testkit::random_model::RandomModel;

use crate::driver::{Row, plan, prompt};
use crate::folder::{Folder, config};

fn load(folder: &Folder, config: &EngineConfig) -> Result<(), LoadError> {
    Engine::load(&ModelSource::Folder(folder.path().to_owned()), config).map(drop)
}

fn error(folder: &Folder) -> LoadError {
    load(folder, &config(1, 8)).unwrap_err()
}

fn small(shard_bytes: u64) -> Folder {
    Folder::of(&RandomModel::small(1), shard_bytes)
}

#[test]
fn info_and_capacity_describe_what_was_loaded() {
    let folder = small(u64::MAX);
    let settings = EngineConfig {
        max_model_len: Some(1000),
        kv_cache: KvCacheSize::Bytes(1_000_000),
        ..config(2, 0)
    };
    let engine = Engine::load(&ModelSource::Folder(folder.path().to_owned()), &settings).unwrap();
    let info = engine.info();
    assert_eq!(
        (
            info.num_layers,
            info.vocab_size,
            info.max_model_len,
            info.num_threads
        ),
        (4, 300, 1000, 2)
    );
    assert_eq!(info.stop_token_ids, [299]);
    let file = fs::metadata(folder.path().join("model.safetensors"))
        .unwrap()
        .len();
    assert!(
        info.weight_bytes < file && info.weight_bytes > file - 16_000,
        "{}",
        info.weight_bytes
    );
    let capacity = engine.capacity();
    // 4 layers, keys and values, 16 tokens, 2 heads of 64, 2 bytes each.
    assert_eq!(capacity.block_bytes, 4 * 2 * 16 * 2 * 64 * 2);
    assert_eq!(capacity.num_blocks, 1_000_000 / 32_768);
    assert_eq!((capacity.block_size, capacity.max_model_len), (16, 1000));
    assert_eq!(capacity.groups, [KvGroup { window: None }]);

    // In two groups a block holds two of the four layers.
    let settings = EngineConfig {
        window_groups: true,
        ..settings
    };
    let engine = Engine::load(&ModelSource::Folder(folder.path().to_owned()), &settings).unwrap();
    let capacity = engine.capacity();
    assert_eq!(capacity.block_bytes, 2 * 2 * 16 * 2 * 64 * 2);
    assert_eq!(capacity.num_blocks, 1_000_000 / 16_384);
    let windows = [None, Some(12)].map(|window| KvGroup { window });
    assert_eq!(capacity.groups, windows);
    assert_eq!(engine.info().kv_cache_dtype, KvDtype::Bf16);

    // One byte for each element, and two for each head's scale.
    let settings = EngineConfig {
        kv_cache_dtype: KvDtype::Int8,
        ..settings
    };
    let engine = Engine::load(&ModelSource::Folder(folder.path().to_owned()), &settings).unwrap();
    let block_bytes = 2 * 2 * 16 * 2 * (64 + 2);
    assert_eq!(engine.capacity().block_bytes, block_bytes);
    assert_eq!(engine.capacity().num_blocks, 1_000_000 / block_bytes);
    let info = engine.info();
    assert_eq!(info.kv_cache_dtype, KvDtype::Int8);
    assert_eq!(
        info.kv_cache_bytes as usize,
        1_000_000 / block_bytes * block_bytes
    );
}

#[test]
fn missing_files_are_named() {
    let folder = Folder::empty();
    assert!(
        matches!(error(&folder), LoadError::Read { path, .. } if path.ends_with("config.json"))
    );
    let folder = small(u64::MAX);
    fs::remove_file(folder.path().join("generation_config.json")).unwrap();
    assert!(
        matches!(error(&folder), LoadError::Read { path, .. } if path.ends_with("generation_config.json"))
    );
    let folder = small(u64::MAX);
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert!(matches!(error(&folder), LoadError::NoWeights { .. }));
    let folder = small(600_000);
    fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert!(
        matches!(error(&folder), LoadError::Read { path, .. } if path.ends_with("model-00002-of-00002.safetensors"))
    );
}

#[test]
fn another_architecture_is_refused_before_a_weight_is_opened() {
    let folder = Folder::empty();
    fs::write(
        folder.path().join("config.json"),
        r#"{"architectures": ["Qwen3ForCausalLM"]}"#,
    )
    .unwrap();
    fs::write(
        folder.path().join("generation_config.json"),
        r#"{"eos_token_id": 1}"#,
    )
    .unwrap();
    fs::write(
        folder.path().join("model.safetensors"),
        "not a safetensors file",
    )
    .unwrap();
    let error = error(&folder).to_string();
    assert_eq!(
        error,
        "this engine runs GptOssForCausalLM, but the model is Qwen3ForCausalLM"
    );
}

#[test]
fn a_file_cut_short_is_named_with_its_tensor() {
    let folder = small(u64::MAX);
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let message = error(&folder).to_string();
    assert!(
        message.contains("model.safetensors: truncated: tensor"),
        "{message}"
    );
    fs::write(&path, &bytes[..100]).unwrap();
    assert!(error(&folder).to_string().contains("truncated"));
    fs::write(&path, "").unwrap();
    assert!(matches!(
        error(&folder),
        LoadError::Checkpoint { .. } | LoadError::Read { .. }
    ));
}

#[test]
fn weights_that_do_not_fit_the_configuration_are_named() {
    let folder = small(u64::MAX);
    let other = RandomModel {
        num_experts: 6,
        ..RandomModel::small(1)
    };
    fs::write(
        folder.path().join("config.json"),
        other.config().to_string(),
    )
    .unwrap();
    let message = error(&folder).to_string();
    assert!(
        message.contains("mlp.router.weight has shape [5, 96]") && message.contains("[6, 96]"),
        "{message}"
    );

    let other = RandomModel {
        num_layers: 5,
        ..RandomModel::small(1)
    };
    fs::write(
        folder.path().join("config.json"),
        other.config().to_string(),
    )
    .unwrap();
    let message = error(&folder).to_string();
    assert!(
        message.contains("tensor model.layers.4.") && message.contains("missing"),
        "{message}"
    );
}

#[test]
fn weights_of_another_type_are_named() {
    let folder = small(u64::MAX);
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    // Same width, other meaning: the header keeps its length.
    let from = br#""dtype":"BF16","shape":[300,96]"#;
    let at = bytes
        .windows(from.len())
        .position(|window| window == from)
        .unwrap();
    let mut changed = bytes;
    changed[at..at + from.len()].copy_from_slice(br#""dtype":"F16" ,"shape":[300,96]"#);
    fs::write(&path, changed).unwrap();
    let message = error(&folder).to_string();
    assert!(
        message.contains("has dtype F16, expected BF16"),
        "{message}"
    );
}

#[test]
fn an_index_that_lies_is_refused() {
    let folder = small(600_000);
    let path = folder.path().join("model.safetensors.index.json");
    let index = fs::read_to_string(&path).unwrap();
    for (from, to, reason) in [
        ("{", "[", "not JSON"),
        ("weight_map", "weights", "weight_map is missing"),
        (
            "model.norm.weight",
            "model.norm.wrong",
            "tensor model.norm.wrong",
        ),
        (
            "model-00001-of-00002.safetensors",
            "../model-00001.safetensors",
            "not a plain file name",
        ),
    ] {
        fs::write(&path, index.replace(from, to)).unwrap();
        let message = error(&folder).to_string();
        assert!(message.contains(reason), "{reason}: {message}");
    }
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let folder = small(u64::MAX);
    let base = config(1, 8);
    for (settings, name) in [
        (
            EngineConfig {
                block_size: 12,
                ..base.clone()
            },
            "block_size",
        ),
        (
            EngineConfig {
                kv_cache: KvCacheSize::Blocks(0),
                ..base.clone()
            },
            "kv_cache",
        ),
        (
            EngineConfig {
                kv_cache: KvCacheSize::Bytes(100),
                ..base.clone()
            },
            "kv_cache",
        ),
        (
            EngineConfig {
                kv_cache: KvCacheSize::Bytes(1 << 47),
                ..base.clone()
            },
            "kv_cache",
        ),
        (
            EngineConfig {
                kernels: Some("abacus".to_owned()),
                ..base.clone()
            },
            "kernels",
        ),
        (
            EngineConfig {
                max_model_len: Some(0),
                ..base.clone()
            },
            "max_model_len",
        ),
        (
            EngineConfig {
                max_model_len: Some(8193),
                ..base.clone()
            },
            "max_model_len",
        ),
    ] {
        let error = load(&folder, &settings).unwrap_err();
        assert!(
            matches!(&error, LoadError::Setting { setting, .. } if *setting == name),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_device_that_this_build_lacks_is_refused_with_what_it_has_and_how_to_build() {
    let folder = small(u64::MAX);
    // No build has both.
    let refused = [DeviceChoice::Metal, DeviceChoice::Cuda].map(|device| {
        let settings = EngineConfig {
            device,
            ..config(1, 8)
        };
        match load(&folder, &settings) {
            Err(LoadError::NoDevice { wanted, reason }) if reason.contains("was built") => {
                assert_eq!(wanted, device.name());
                assert!(reason.contains("for the CPU only") || reason.contains("and the CPU"));
                assert!(reason.contains(&format!("--features {wanted}")), "{reason}");
                true
            }
            _ => false,
        }
    });
    assert!(refused.contains(&true));
    // Whatever this is, something computes.
    let settings = EngineConfig {
        device: DeviceChoice::Auto,
        ..config(1, 8)
    };
    load(&folder, &settings).unwrap();
}

#[test]
fn repacked_weights_that_were_kept_give_the_same_logits() {
    let folder = small(u64::MAX);
    let kept = tempfile::tempdir().unwrap();
    let prompt = prompt(1, 40, 300);
    let run = |repack_cache| {
        let settings = EngineConfig {
            weights: WeightFormat::Int8,
            repack_cache,
            ..config(2, 8)
        };
        let source = ModelSource::Folder(folder.path().to_owned());
        let mut engine = Engine::load(&source, &settings).unwrap();
        let row = Row::new(&prompt, 0..3);
        let logits = engine.logits(&plan(&[(&row, prompt.len())])).unwrap();
        (logits, engine.info().repack_cache.clone())
    };
    let (expected, nothing) = run(None);
    assert_eq!(nothing, None);
    let cache = || Some(kept.path().to_owned());
    let (logits, written) = run(cache());
    assert_eq!(logits, expected);
    assert!(written.is_some_and(|outcome| outcome.contains("written to")));
    let (logits, read) = run(cache());
    assert_eq!(logits, expected);
    assert!(read.is_some_and(|outcome| outcome.contains(" from ")));

    // Other weights under the same name are not those.
    let weights = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).unwrap();
    // Nor are they kept while another start writes there.
    let mut entries = fs::read_dir(kept.path()).unwrap();
    let lock = entries.find_map(|entry| {
        let path = entry.unwrap().path();
        (path.extension()? == "lock").then_some(path)
    });
    let lock = fs::File::open(lock.unwrap()).unwrap();
    lock.lock().unwrap();
    let (logits, outcome) = run(cache());
    assert_eq!(logits, run(None).0);
    assert!(outcome.is_some_and(|outcome| outcome.starts_with("not kept: ")));
    drop(lock);
    let (_, outcome) = run(cache());
    assert!(outcome.is_some_and(|outcome| outcome.contains("written to")));
}
