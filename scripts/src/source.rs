//! The files of the repository, and Rust text without its comments and literals.

use std::fs;
use std::path::Path;

/// A text file of the repository.
#[derive(Debug)]
pub struct Source {
    /// Its path from the top folder, with `/` between the parts.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// Folders that hold no source of ours.
const SKIPPED: [&str; 5] = ["target", "perilune-data", "node_modules", "corpus", "__pycache__"];

/// Every text file below `root`, sorted by path; hidden folders only where they are ours (`.ci`, `.cargo`).
///
/// # Errors
/// When a folder or file cannot be read.
pub fn files(root: &Path) -> std::io::Result<Vec<Source>> {
    let mut found = Vec::new();
    walk(root, String::new(), &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(folder: &Path, prefix: String, found: &mut Vec<Source>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
        if kind.is_dir() && !hidden && !SKIPPED.contains(&name.as_str()) {
            walk(&entry.path(), path + "/", found)?;
        } else if kind.is_file()
            && !hidden
            && let Ok(text) = String::from_utf8(fs::read(entry.path())?)
        {
            found.push(Source { path, text });
        }
    }
    Ok(())
}

/// The text with comments and the insides of literals blanked. Lines stay where they were.
pub fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let end = match c {
            '/' if chars.get(at + 1) == Some(&'/') => find(&chars, at, |rest| rest[0] == '\n'),
            '/' if chars.get(at + 1) == Some(&'*') => block_comment_end(&chars, at),
            '"' => string_end(&chars, at + 1),
            'r' if !ends_in_word(&out) => raw_string_end(&chars, at).unwrap_or(at),
            '\'' => char_end(&chars, at),
            _ => at,
        };
        if end == at {
            out.push(c);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Whether `word` stands in `code` with no letter, digit or `_` on either side.
pub fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| !ends_in_word(&code[..at]) && !code[at + word.len()..].starts_with(is_word))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn ends_in_word(text: &str) -> bool {
    // `b` and `c` before a raw string are part of its opening.
    text.ends_with(is_word) && !matches!(text.trim_end_matches(['b', 'c']).chars().last(), Some(c) if !is_word(c))
}

fn find(chars: &[char], from: usize, stop: impl Fn(&[char]) -> bool) -> usize {
    (from..chars.len()).find(|at| stop(&chars[*at..])).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], from: usize) -> usize {
    let (mut depth, mut at) = (0, from);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], from: usize) -> Option<usize> {
    let hashes = chars[from + 1..].iter().take_while(|c| **c == '#').count();
    let open = from + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let close = |rest: &[char]| rest[0] == '"' && rest[1..].iter().take_while(|c| **c == '#').count() >= hashes;
    Some((find(chars, open + 1, close) + 1 + hashes).min(chars.len()))
}

/// The end of a character literal, or `from` when the quote begins a lifetime.
fn char_end(chars: &[char], from: usize) -> usize {
    match (chars.get(from + 1), chars.get(from + 2)) {
        (Some('\\'), _) => (find(chars, from + 3, |rest| rest[0] == '\'') + 1).min(chars.len()),
        (Some(_), Some('\'')) => from + 3,
        _ => from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        let text =
            "a // unsafe\nb /* unsafe /* x */ unsafe */ c \"unsafe \\\" unsafe\" 'u' '\\'' &'life d r#\"unsafe \" \"# br\"unsafe\" e\n";
        let code = code_only(text);
        assert!(!has_word(&code, "unsafe"), "{code}");
        let words: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(words[..4], ["a", "b", "c", "&'life"], "{code}");
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("x = unsafe { y }", "unsafe"));
        assert!(!has_word("forbid(unsafe_code)", "unsafe"));
        assert!(!has_word("notunsafe", "unsafe"));
    }
}
