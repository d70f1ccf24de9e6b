//! The file of acknowledged blocks: one line of JSON that says how their bytes are made, then one hash id a line.
//!
//! A line is written after the put it tells of was acknowledged, so every id in the file must be readable or evicted.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// How the bytes and keys of noted blocks are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckedHeader {
    /// The key of a block is `<prefix>/<hash id>`.
    pub prefix: String,
    /// Decides the bytes.
    pub seed: u64,
    /// Bytes of a block.
    pub block_size: usize,
}

/// Why a file of acknowledged blocks cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {what}")]
pub struct AckedError {
    file: PathBuf,
    what: String,
}

/// An open file of acknowledged blocks.
#[derive(Debug)]
pub struct Acked {
    path: PathBuf,
    file: File,
}

impl Acked {
    /// Opens a file to note more blocks in it; makes it when it is missing.
    pub fn append(path: &Path, header: &AckedHeader) -> Result<Self, AckedError> {
        let refuse = |what: String| AckedError { file: path.into(), what };
        let exists = path.metadata().is_ok_and(|m| m.len() > 0);
        if exists {
            let (found, _) = Self::read(path)?;
            if found != *header {
                return Err(refuse(format!("was written with {found:?}, this run has {header:?}: choose another file")));
            }
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(|e| refuse(e.to_string()))?;
        // A killed writer may have left half a line; a line of its own keeps it apart. Readers skip what is no number.
        let start = if exists { "\n".to_owned() } else { format!("{}\n", serde_json::json!(header)) };
        file.write_all(start.as_bytes()).map_err(|e| refuse(e.to_string()))?;
        Ok(Self { path: path.into(), file })
    }

    /// Notes blocks, in one write, so that lines of several workers do not mix.
    pub fn note(&self, ids: &[u64]) -> Result<(), AckedError> {
        let text: String = ids.iter().map(|id| format!("{id}.\n")).collect();
        (&self.file).write_all(text.as_bytes()).map_err(|e| AckedError { file: self.path.clone(), what: e.to_string() })
    }

    /// Reads a file: how the bytes are made, and which blocks were acknowledged. A line cut short by a kill is skipped.
    pub fn read(path: &Path) -> Result<(AckedHeader, BTreeSet<u64>), AckedError> {
        let refuse = |what: String| AckedError { file: path.into(), what };
        let text = std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let header = serde_json::from_str(first).map_err(|e| {
            refuse(format!("the first line does not say how the blocks were made ({e}); was it written by `perilune replay --acked`?"))
        })?;
        // The dot ends a number: without it, the number may have lost digits.
        let ids = rest.lines().filter_map(|line| line.strip_suffix('.')?.parse().ok()).collect();
        Ok((header, ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_read_and_a_torn_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acked");
        let header = AckedHeader { prefix: "p".into(), seed: 3, block_size: 10 };
        Acked::append(&path, &header).unwrap().note(&[5, 123]).unwrap();
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "98").unwrap();
        Acked::append(&path, &header).unwrap().note(&[7]).unwrap();
        assert_eq!(Acked::read(&path).unwrap(), (header.clone(), BTreeSet::from([5, 7, 123])));
        let other = AckedHeader { seed: 4, ..header };
        assert!(Acked::append(&path, &other).unwrap_err().to_string().contains("choose another file"));
        std::fs::write(&path, "5.\n").unwrap();
        assert!(Acked::read(&path).unwrap_err().to_string().contains("--acked"));
    }
}
