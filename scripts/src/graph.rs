//! The arrows between our crates are those drawn in `docs/architecture.md`, no more and no fewer.
//!
//! The drawing is the first `text` block that has a `<-` in it. `a, b <- c <- d` says: c uses a and b, d uses c. A crate may also use
//! what lies further to the left of its own arrows. Dev-dependencies are free: a test may start whatever it tests against.

use crate::Problems;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Where the drawing is.
const DRAWING: &str = "docs/architecture.md";

/// Crates that must stay free of I/O, and whose names would bring it in.
const PURE: [&str; 2] = ["protocol", "state"];
const IO: [&str; 9] = ["tokio", "axum", "hyper", "raft", "raft-engine", "nix", "libc", "mio", "ureq"];

/// From a crate to the crates it uses, by short name (`client`, not `perilune-client`).
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Compares the drawing with what cargo says.
pub fn check(root: &Path) -> Problems {
    let drawn = match std::fs::read_to_string(root.join(DRAWING)) {
        Ok(text) => drawn(&text),
        Err(e) => return vec![format!("{DRAWING}: {e}")],
    };
    let (real, outside) = match real(root) {
        Ok(found) => found,
        Err(problem) => return vec![problem],
    };
    let mut problems = compare(&drawn, &real);
    for (name, uses) in outside {
        for used in uses.iter().filter(|used| PURE.contains(&name.as_str()) && IO.contains(&used.as_str())) {
            problems.push(format!("{name} depends on {used}: this crate does no I/O"));
        }
    }
    problems
}

fn short(name: &str) -> &str {
    name.strip_prefix("perilune-").unwrap_or(name)
}

fn drawn(text: &str) -> Arrows {
    let block = text.split("```").skip(1).step_by(2).find(|block| block.starts_with("text") && block.contains("<-")).unwrap_or("");
    let mut arrows = Arrows::new();
    for line in block.lines().filter(|line| line.contains("<-")) {
        let groups: Vec<Vec<&str>> =
            line.split("<-").map(|group| group.split([',', ' ']).map(str::trim).filter(|name| !name.is_empty()).collect()).collect();
        for (used, users) in groups.iter().zip(groups.iter().skip(1)) {
            for user in users {
                arrows.entry((*user).to_owned()).or_default().extend(used.iter().map(|name| (*name).to_owned()));
            }
        }
    }
    arrows
}

/// Our crates' arrows to each other, and to crates from outside.
fn real(root: &Path) -> Result<(Arrows, Arrows), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .map_err(|e| format!("cargo metadata cannot be started: {e}"))?;
    if !out.status.success() {
        return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&out.stderr).trim()));
    }
    let metadata: Value = serde_json::from_slice(&out.stdout).map_err(|e| format!("cargo metadata cannot be read: {e}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (mut ours, mut outside) = (Arrows::new(), Arrows::new());
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = short(&text(&package["name"])).to_owned();
        let uses = package["dependencies"].as_array().into_iter().flatten().filter(|d| d["kind"] != "dev");
        let (inner, outer): (Vec<&Value>, Vec<&Value>) = uses.partition(|d| d["path"].is_string());
        ours.insert(name.clone(), inner.iter().map(|d| short(&text(&d["name"])).to_owned()).collect());
        outside.insert(name, outer.iter().map(|d| text(&d["name"])).collect());
    }
    Ok((ours, outside))
}

fn compare(drawn: &Arrows, real: &Arrows) -> Problems {
    let mut problems = Problems::new();
    for (user, uses) in drawn {
        if reaches(drawn, user).contains(user) {
            problems.push(format!("{DRAWING}: {user} is drawn in a circle"));
        }
        for name in uses.iter().chain([user]).filter(|name| !real.contains_key(*name)) {
            problems.push(format!("{DRAWING}: draws {name}, and there is no such crate"));
        }
    }
    for (user, uses) in real {
        let allowed = reaches(drawn, user);
        for used in uses.difference(&allowed) {
            problems.push(format!("{user} depends on {used}: {DRAWING} does not draw that arrow"));
        }
        for used in drawn.get(user).into_iter().flatten().filter(|used| !uses.contains(*used) && real.contains_key(*used)) {
            problems.push(format!("{DRAWING}: draws {used} <- {user}, and {user} does not depend on {used}"));
        }
    }
    problems
}

/// Everything to the left of `name`, however far.
fn reaches(arrows: &Arrows, name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&String> = arrows.get(name).into_iter().flatten().collect();
    while let Some(one) = next.pop() {
        if found.insert(one.clone()) {
            next.extend(arrows.get(one).into_iter().flatten());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Map\n```sh\nx <- y\n```\n```text\nbase <- mid <- top\n       side <- top\n```\n";

    fn arrows(list: &[(&str, &[&str])]) -> Arrows {
        list.iter().map(|(user, uses)| ((*user).to_owned(), uses.iter().map(|u| (*u).to_owned()).collect())).collect()
    }

    #[test]
    fn the_drawing_is_read() {
        assert_eq!(drawn(TEXT), arrows(&[("mid", &["base"]), ("top", &["mid", "side"])]));
    }

    #[test]
    fn missing_undrawn_and_circular_arrows_are_told() {
        let good = arrows(&[("base", &[]), ("side", &[]), ("mid", &["base"]), ("top", &["mid", "side", "base"])]);
        assert_eq!(compare(&drawn(TEXT), &good), Problems::new());

        let undrawn = arrows(&[("base", &[]), ("side", &["base"]), ("mid", &["base"]), ("top", &["mid", "side"])]);
        assert_eq!(compare(&drawn(TEXT), &undrawn).len(), 1);
        let missing = arrows(&[("base", &[]), ("side", &[]), ("mid", &["base"]), ("top", &["side"])]);
        assert_eq!(compare(&drawn(TEXT), &missing).len(), 1);
        let circle = arrows(&[("a", &["b"]), ("b", &["a"])]);
        assert!(compare(&circle, &circle).iter().any(|p| p.contains("circle")));
    }
}
