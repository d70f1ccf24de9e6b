//! Where a token comes from: a file or the environment. Never a command line, which every user of a machine can read.

use perilune_protocol::access::Token;
use std::path::Path;

/// The environment variable that holds the token itself.
pub const VARIABLE: &str = "PERILUNE_ADMIN_TOKEN";
/// The one that holds that of the meta service.
pub const META_VARIABLE: &str = "PERILUNE_META_TOKEN";

/// The token in `file`, else that in the environment, else none.
///
/// # Errors
/// The file cannot be read, or what is there is no token.
pub fn find(file: Option<&Path>) -> Result<Option<Token>, String> {
    find_in(file, VARIABLE)
}

/// The same for the token of the meta service.
///
/// # Errors
/// As [`find`].
pub fn find_meta(file: Option<&Path>) -> Result<Option<Token>, String> {
    find_in(file, META_VARIABLE)
}

fn find_in(file: Option<&Path>, variable: &str) -> Result<Option<Token>, String> {
    let (place, text) = match (file, std::env::var(variable)) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file).map_err(|e| format!("the token in {}: {e}", file.display()))?;
            (file.display().to_string(), text)
        }
        (None, Ok(text)) => (variable.to_owned(), text),
        (None, Err(std::env::VarError::NotPresent)) => return Ok(None),
        (None, Err(error)) => return Err(format!("the token in {variable}: {error}")),
    };
    Token::new(&text).map(Some).map_err(|why| format!("the token in {place}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_a_token_and_what_is_wrong_is_named_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        assert!(find(Some(&file)).unwrap_err().contains("token"));
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        assert_eq!(find(Some(&file)).unwrap().unwrap().secret(), "0123456789abcdef");
        std::fs::write(&file, "secret").unwrap();
        let why = find(Some(&file)).unwrap_err();
        assert!(why.contains(file.to_str().unwrap()) && !why.contains("secret"), "{why}");
    }
}
