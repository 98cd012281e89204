//! What the parser repaired, counted by kind.

/// A way in which a generation was not well-formed harmony.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepairKind {
    /// A body began without `<|message|>`.
    MissingMessage,
}

impl RepairKind {
    /// Every kind, in the order of the enum.
    pub const ALL: [RepairKind; 1] = [RepairKind::MissingMessage];

    /// The kind as a metrics label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingMessage => "missing_message",
        }
    }
}

/// Number of repairs of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repairs {
    counts: [u64; RepairKind::ALL.len()],
}

impl Repairs {
    /// How often `kind` was repaired.
    #[must_use]
    pub fn get(&self, kind: RepairKind) -> u64 {
        self.counts[kind as usize]
    }

    /// All repairs together; 0 for a well-formed generation.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Every kind that occurred, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (RepairKind, u64)> + '_ {
        RepairKind::ALL
            .into_iter()
            .map(|kind| (kind, self.get(kind)))
            .filter(|&(_, count)| count > 0)
    }
}
