//! What can go wrong, split by who acts on it.
//!
//! [`LoadError`] stops the process at start: an operator reads it, so each variant names the file and,
//! where there is one, the tensor or field. [`StepError`] is about one step and becomes an
//! [`gossamer_scheduler::ExecuteError`] at the seam.

use std::path::PathBuf;

use gossamer_scheduler::ExecuteError;

/// The model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What was being read.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// `config.json` or `generation_config.json` is not what the format says.
    #[error("{file}: {message}")]
    Config {
        /// Which file.
        file: String,
        /// The field and what is wrong with it.
        message: String,
    },
    /// The folder holds another kind of model. Found before any weight is read.
    #[error("this engine runs {needed}, but the model is {found}")]
    WrongArchitecture {
        /// `architectures` of the model's `config.json`.
        found: String,
        /// The architecture that is needed.
        needed: &'static str,
    },
    /// The folder has neither `model.safetensors` nor `model.safetensors.index.json`.
    #[error("{} has no model.safetensors and no model.safetensors.index.json", dir.display())]
    NoWeights {
        /// The model folder.
        dir: PathBuf,
    },
    /// A safetensors file, or the index over several, is truncated or corrupt.
    #[error("{file}: {message}")]
    Checkpoint {
        /// Which file.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// A weight that the architecture has is not in the checkpoint.
    #[error("tensor {tensor} is missing from the checkpoint")]
    MissingTensor {
        /// Name in the published layout.
        tensor: String,
    },
    /// A weight has another shape than `config.json` implies.
    #[error("{file}: tensor {tensor} has shape {found:?}, but config.json implies {expected:?}")]
    TensorShape {
        /// Which file.
        file: String,
        /// Name in the published layout.
        tensor: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape computed from the configuration.
        expected: Vec<usize>,
    },
    /// A weight has another element type than the published layout.
    #[error("{file}: tensor {tensor} has dtype {found}, expected {expected}")]
    TensorDtype {
        /// Which file.
        file: String,
        /// Name in the published layout.
        tensor: String,
        /// Type in the file.
        found: String,
        /// Type of the published layout.
        expected: &'static str,
    },
    /// The engine's own settings contradict each other or the model.
    #[error("{setting}: {message}")]
    Setting {
        /// Field of [`crate::EngineConfig`].
        setting: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// A worker thread could not be started.
    #[error("cannot start a worker thread: {0}")]
    Threads(std::io::Error),
    /// The device that was asked for is not there.
    #[error("device = \"{wanted}\": {reason}")]
    NoDevice {
        /// What was asked for.
        wanted: &'static str,
        /// What is missing, what there is, and how to get it.
        reason: String,
    },
    /// The device refused something: most often it is out of memory.
    #[error("the device failed: {0}")]
    Device(String),
}

impl LoadError {
    pub(crate) fn config(file: &str, message: impl Into<String>) -> Self {
        Self::Config {
            file: file.to_owned(),
            message: message.into(),
        }
    }

    pub(crate) fn checkpoint(file: &str, message: impl Into<String>) -> Self {
        Self::Checkpoint {
            file: file.to_owned(),
            message: message.into(),
        }
    }
}

/// One step could not be run; the engine itself is unharmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The plan contradicts itself or the capacity: a defect above the seam.
    #[error("invalid plan: {0}")]
    InvalidPlan(String),
    /// The model produced a logit that is not a number or infinite.
    #[error("the model's logits are not finite (sequence {seq}, token id {token})")]
    NonFiniteLogits {
        /// Sequence whose row it was.
        seq: u64,
        /// First token id with such a logit.
        token: u32,
    },
    /// Bias and banned tokens left nothing to draw.
    #[error("no token can be drawn (sequence {seq}): every one is banned")]
    NothingToSample {
        /// Sequence whose row it was.
        seq: u64,
    },
    /// The device refused an operation, or did not get it done.
    #[error("the device failed: {0}")]
    Device(String),
}

impl From<StepError> for ExecuteError {
    fn from(error: StepError) -> Self {
        match error {
            StepError::Device(message) => Self::Device(message),
            error => Self::Step(error.to_string()),
        }
    }
}
