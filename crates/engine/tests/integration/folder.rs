//! Model folders that remove themselves.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use gossamer_engine::{
    DeviceChoice, Engine, EngineConfig, EngineExecutor, KvCacheSize, ModelSource, WeightFormat,
};
use gossamer_testkit::random_model::RandomModel;

pub struct Folder(PathBuf);

impl Folder {
    pub fn empty() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "gossamer-engine-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn of(model: &RandomModel, shard_bytes: u64) -> Self {
        let folder = Self::empty();
        model.write(folder.path(), shard_bytes).unwrap();
        folder
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// With weights as published.
    pub fn load(&self, threads: usize, num_blocks: usize) -> EngineExecutor {
        self.load_as(WeightFormat::Bf16, threads, num_blocks)
    }

    pub fn load_as(
        &self,
        weights: WeightFormat,
        threads: usize,
        num_blocks: usize,
    ) -> EngineExecutor {
        let config = EngineConfig {
            weights,
            ..config(threads, num_blocks)
        };
        Engine::load(&ModelSource::Folder(self.0.clone()), &config).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left-overs in the temporary folder are no reason to fail a test.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn config(threads: usize, num_blocks: usize) -> EngineConfig {
    EngineConfig {
        device: DeviceChoice::Cpu,
        threads,
        block_size: 16,
        kv_cache: KvCacheSize::Blocks(num_blocks),
        window_groups: false,
        max_model_len: None,
        weights: WeightFormat::Bf16,
        kernels: None,
        repack_cache: None,
    }
}
