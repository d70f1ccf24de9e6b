//! What the kernel says of this process.

use std::fs;

/// Bytes of memory in use, or `None` where `/proc` does not say.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Open descriptors, the one that looks included.
pub(super) fn open_files() -> Option<u64> {
    fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_uses_memory_and_files() {
        assert!(super::resident_bytes().is_some_and(|bytes| bytes > 100_000));
        let before = super::open_files();
        let file = std::fs::File::open("/proc/self/status");
        assert!(file.is_ok() && before >= Some(3));
    }
}
