//! The C header, made from `ffi/src` by cbindgen, checked in, and compared.

use crate::Problems;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the header is kept.
const HEADER: &str = "ffi/include/perilune.h";

/// Writes the header.
pub fn write(root: &Path) -> Problems {
    let path = root.join(HEADER);
    let written = generate(root).and_then(|text| fs::write(&path, text).map_err(|e| format!("{HEADER}: {e}")));
    written.err().into_iter().collect()
}

/// Says whether the header is what the sources make.
pub fn check(root: &Path) -> Problems {
    match (generate(root), fs::read_to_string(root.join(HEADER))) {
        (Err(problem), _) => vec![problem],
        (_, Err(e)) => vec![format!("{HEADER}: {e}; run `cargo xtask headers`")],
        (Ok(new), Ok(old)) if new != old => vec![format!("{HEADER} is not what ffi/src makes: run `cargo xtask headers` and commit it")],
        _ => Problems::new(),
    }
}

fn generate(root: &Path) -> Result<String, String> {
    let ffi: PathBuf = root.join("ffi");
    let config = cbindgen::Config::from_file(ffi.join("cbindgen.toml")).map_err(|e| format!("ffi/cbindgen.toml: {e}"))?;
    let bindings = cbindgen::Builder::new()
        .with_crate(&ffi)
        .with_config(config)
        .generate()
        .map_err(|e| format!("cbindgen cannot read ffi/src: {e}"))?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    String::from_utf8(text).map_err(|e| format!("cbindgen wrote no UTF-8: {e}"))
}
