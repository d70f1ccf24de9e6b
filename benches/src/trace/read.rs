//! Reads and writes trace files; a malformed line is named by file, line and what is wrong with it.

use super::Request;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Why a trace cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file itself.
    #[error("{file}: {cause}")]
    File {
        /// Which.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A line of it.
    #[error("{file}:{line}: {what}; a line is {{\"timestamp\": ms, \"input_length\": n, \"output_length\": n, \"hash_ids\": [n, ...]}}")]
    Line {
        /// Which file.
        file: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// Nothing in it.
    #[error("{0}: no request in it")]
    Empty(PathBuf),
}

/// The most blocks a request may have: 16 million tokens.
const BLOCKS_MAX: usize = 1 << 15;

/// Reads the first `limit` requests of a file. Blank lines are skipped.
pub fn read(file: &Path, limit: usize) -> Result<Vec<Request>, TraceError> {
    let trouble = |cause| TraceError::File { file: file.into(), cause };
    let mut requests: Vec<Request> = Vec::new();
    for (index, line) in BufReader::new(File::open(file).map_err(trouble)?).split(b'\n').enumerate() {
        if requests.len() == limit {
            break;
        }
        let line = line.map_err(trouble)?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let checked = serde_json::from_slice::<Request>(&line).map_err(|e| e.to_string()).and_then(|r| check(r, requests.last()));
        requests.push(checked.map_err(|what| TraceError::Line { file: file.into(), line: index + 1, what })?);
    }
    if requests.is_empty() { Err(TraceError::Empty(file.into())) } else { Ok(requests) }
}

fn check(request: Request, before: Option<&Request>) -> Result<Request, String> {
    let earlier = before.map_or(0, |b| b.timestamp);
    match request.hash_ids.len() {
        0 => Err("hash_ids is empty".into()),
        n if n > BLOCKS_MAX => Err(format!("{n} hash_ids, the limit is {BLOCKS_MAX}")),
        _ if request.timestamp < earlier => Err(format!("timestamp {} lies before {earlier} of the request above", request.timestamp)),
        _ => Ok(request),
    }
}

/// Writes requests to a file.
pub fn write(file: &Path, requests: &[Request]) -> Result<(), TraceError> {
    let save = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(file)?);
        for request in requests {
            serde_json::to_writer(&mut out, request)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    };
    save().map_err(|cause| TraceError::File { file: file.into(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &[u8]) -> Result<Vec<Request>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let name = file.path().display().to_string();
        read(file.path(), usize::MAX).map_err(|e| e.to_string().replace(&name, "FILE"))
    }

    #[test]
    fn what_was_written_is_read() {
        let requests = vec![Request { timestamp: 27, input_length: 700, output_length: 5, hash_ids: vec![0, u64::MAX] }];
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.path(), &requests).unwrap();
        assert_eq!(read(file.path(), 5).unwrap(), requests);
    }

    #[test]
    fn a_malformed_line_is_named() {
        let good = r#"{"timestamp": 9, "input_length": 1, "output_length": 1, "hash_ids": [1]}"#;
        for (bad, words) in [
            ("{", "FILE:3: EOF"),
            ("[1]", "FILE:3: invalid"),
            (r#"{"timestamp": -1, "input_length": 1, "output_length": 1, "hash_ids": [1]}"#, "invalid value: integer `-1`"),
            (r#"{"timestamp": 9, "input_length": 1, "output_length": 1}"#, "missing field `hash_ids`"),
            (r#"{"timestamp": 9, "input_length": 1, "output_length": 1, "hash_ids": []}"#, "FILE:3: hash_ids is empty"),
            (r#"{"timestamp": 8, "input_length": 1, "output_length": 1, "hash_ids": [1]}"#, "FILE:3: timestamp 8 lies before 9"),
        ] {
            let told = read_text(format!("{good}\n\n{bad}\n").as_bytes()).unwrap_err();
            assert!(told.contains(words), "{bad} gave {told}");
        }
        assert_eq!(read_text(b"\n"), Err("FILE: no request in it".into()));
        assert!(read_text(&[0xff, 0xfe, b'\n']).unwrap_err().contains("FILE:1"));
        assert!(read(Path::new("/no/such/trace"), 1).unwrap_err().to_string().starts_with("/no/such/trace: "));
    }
}
