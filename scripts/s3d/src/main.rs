//! For tests: S3 over a directory, with signatures checked, keys that come and go, faults on demand, and a record of what was asked.
//!
//! Prints where it listens, then obeys the lines it reads (`help` shows them) with a line each. Ends when its input does, so that none
//! is left behind by a test that was killed.

mod control;
mod faults;
mod keys;
mod record;
mod serve;

use std::io::{BufRead, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;

const USAGE: &str =
    "s3d ROOT [AK SK]: serves the buckets (directories) below ROOT on a free port of 127.0.0.1; `help` on its input says more";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let root = match words.first() {
        Some(root) if !root.starts_with('-') && [1, 3].contains(&words.len()) => PathBuf::from(root),
        _ => return Err(USAGE.into()),
    };
    let server = serve::Server::new(&root)?;
    if let [_, ak, sk] = &words[..] {
        server.keys.add(ak, sk);
    }
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("http://{}", listener.local_addr()?);
    tokio::spawn(server.clone().listen(listener));
    tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        for line in std::io::stdin().lock().lines() {
            let answer = control::obey(&server, &line?);
            let mut out = std::io::stdout().lock();
            writeln!(out, "{answer}")?;
            out.flush()?;
        }
        Ok(())
    })
    .await??;
    // Connections that are still open, or slow on purpose, are not waited for.
    std::process::exit(0)
}
