//! Starts `scripts/s3d`, which is built once, and talks to it.

use perilune_vault::{Keys, S3Target, Target};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use tempfile::TempDir;

/// The server as a process; ends with this.
pub(crate) struct S3d {
    child: Child,
    talk: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    url: String,
    root: TempDir,
}

pub(crate) const AK: &str = "AKIAPERILUNE";
pub(crate) const SK: &str = "a/secret+with=signs";
pub(crate) const BUCKET: &str = "cold";

impl S3d {
    /// With one bucket and one key.
    pub(crate) fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut child =
            Command::new(binary()).arg(root.path()).args([AK, SK]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut url = String::new();
        output.read_line(&mut url).unwrap();
        let talk = Mutex::new((child.stdin.take().unwrap(), output));
        Self { child, talk, url: url.trim_end().to_owned(), root }
    }

    /// Says a line to it; see its `help`.
    pub(crate) fn say(&self, line: &str) -> String {
        let mut talk = self.talk.lock().unwrap();
        writeln!(talk.0, "{line}").unwrap();
        let mut answer = String::new();
        talk.1.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty() && !answer.starts_with("error"), "{line}: {answer}");
        answer
    }

    /// What it was asked: `method`, `target`, `headers`, `status`.
    pub(crate) fn requests(&self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.say("requests")).unwrap()
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where the bucket's objects lie as files.
    pub(crate) fn files(&self) -> PathBuf {
        self.root.path().join(BUCKET)
    }

    /// Uploads in parts that have neither been completed nor aborted.
    pub(crate) fn uploads(&self) -> usize {
        let names = fs::read_dir(self.root.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".upload-") && name.ends_with(".json")).count()
    }

    pub(crate) fn target(&self, bucket: &str, prefix: &str) -> Target {
        Target::S3(S3Target {
            bucket: bucket.into(),
            prefix: prefix.into(),
            endpoint: self.url().to_owned(),
            region: String::new(),
            hosted: false,
        })
    }

    pub(crate) fn keys() -> Keys {
        Keys::new(AK, SK)
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for S3d {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the server unless it is there and newer than its sources. It has a lock file and a target directory of its own.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join("scripts/s3d"));
        let source = above.into_iter().find(|dir| dir.is_dir()).expect("the repository");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../s3d");
        let binary = target.join("debug/s3d");
        let age = |path: PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let sources = fs::read_dir(source.join("src")).unwrap().map(|entry| entry.unwrap().path());
        let newest = sources.chain([source.join("Cargo.toml"), source.join("Cargo.lock")]).filter_map(age).max();
        if age(binary.clone()) <= newest {
            let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            build.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(source.join("Cargo.toml"));
            let status = build.arg("--target-dir").arg(&target).status().unwrap();
            assert!(status.success(), "scripts/s3d cannot be built");
            // Cargo leaves a binary alone that would be the same.
            fs::File::open(&binary).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        }
        binary
    })
}
