//! The engine's and the build's constant facts, as metrics.

use prometheus::{IntGauge, IntGaugeVec};

use crate::catalog::Catalog;
use crate::to_i64;

/// Handle for whoever loads the model. Cheap to clone.
#[derive(Clone)]
pub struct EngineMetrics {
    info: IntGaugeVec,
    weight_bytes: IntGauge,
    build_info: IntGaugeVec,
}

impl EngineMetrics {
    pub(crate) fn new(catalog: &Catalog) -> Self {
        Self {
            info: catalog.engine_info.clone(),
            weight_bytes: catalog.weight_bytes.clone(),
            build_info: catalog.build_info.clone(),
        }
    }

    /// A model was loaded: its served name, the backend, the kernels' instruction set, the bytes of its weights.
    pub fn loaded(&self, model: &str, backend: &str, kernels: &str, weight_bytes: usize) {
        self.info.reset();
        self.info
            .with_label_values(&[model, backend, kernels])
            .set(1);
        self.weight_bytes.set(to_i64(weight_bytes));
    }

    /// The version of the running binary.
    pub fn build(&self, version: &str) {
        self.build_info.with_label_values(&[version]).set(1);
    }
}
