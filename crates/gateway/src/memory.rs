//! How much memory the KV cache gets when nobody says: a share of what this machine has left.
//!
//! Knows the operating system's files, not the engine.
//! Invariant: never 0, and never more than the limits below.

use std::path::Path;

/// Least that is given: enough for a conversation of the smallest model.
const LEAST: u64 = 64 << 20;
/// What a model with small weights gets at most.
const SMALL: u64 = 256 << 20;
/// What any model gets at most: attention on a CPU is slow long before it is full.
const MOST: u64 = 4 << 30;
/// Assumed where the system does not say.
const UNKNOWN: u64 = 4 << 30;

/// Bytes for the KV cache beside weights of this size: a quarter of what is left, within limits.
pub fn kv_cache_bytes(weight_bytes: u64) -> u64 {
    share(available().unwrap_or(UNKNOWN), weight_bytes)
}

fn share(available: u64, weight_bytes: u64) -> u64 {
    let quarter = available.saturating_sub(weight_bytes) / 4;
    // A tiny model should not grow to gigabytes only because they are there.
    let most = weight_bytes.clamp(SMALL, MOST);
    let bytes = quarter.clamp(LEAST, most);
    bytes >> 20 << 20
}

/// Bytes of all `*.safetensors` files in a folder, or of a model that is one file; 0 if there are none to be seen.
pub fn weight_bytes(path: &Path) -> u64 {
    // Through symbolic links, here and below: downloads often consist of them.
    if let Ok(file) = std::fs::metadata(path)
        && file.is_file()
    {
        return file.len();
    }
    let files = std::fs::read_dir(path).into_iter().flatten().flatten();
    files
        .filter(|file| {
            file.path()
                .extension()
                .is_some_and(|extension| extension == "safetensors")
        })
        .filter_map(|file| std::fs::metadata(file.path()).ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// Memory that can be had without swapping: the machine's, or what the control group leaves.
fn available() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| parse_meminfo(&text));
    let read = |name: &str| -> Option<u64> {
        std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    // `memory.max` is the word "max" without a limit, and then no number.
    let group =
        read("memory.max").map(|max| max.saturating_sub(read("memory.current").unwrap_or(0)));
    machine.into_iter().chain(group).min()
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_share_of_what_is_left_within_limits() {
        assert_eq!(share(64 * GIB, 13 * GIB), MOST);
        assert_eq!(share(21 * GIB, 13 * GIB), 2 * GIB);
        assert_eq!(share(13 * GIB, 13 * GIB), LEAST);
        assert_eq!(share(0, u64::MAX), LEAST);
        assert_eq!(share(64 * GIB, 100 << 20), SMALL);
        assert_eq!(share(512 << 20, 112 << 20), 100 << 20);
    }

    #[test]
    fn meminfo() {
        let text = "MemTotal:       24576000 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(parse_meminfo(text), Some(1 << 20));
        assert_eq!(parse_meminfo("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_folder_without_weights_has_none() {
        assert_eq!(weight_bytes(Path::new(env!("CARGO_MANIFEST_DIR"))), 0);
        assert_eq!(weight_bytes(Path::new("no/such/folder")), 0);
    }

    #[test]
    fn a_model_of_one_file_is_as_large_as_it() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let text = std::fs::read(&manifest).unwrap();
        assert_eq!(weight_bytes(&manifest), text.len() as u64);
    }
}
