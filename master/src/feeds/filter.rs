//! Which rows a changefeed carries: rules on `db.table`, the last one that matches decides; and kinds of rows that are left out.
//!
//! A pattern is a name, or has `*` for any number of characters, `?` for one, `[a-z]` for one of some; a name in `"` or backquotes stands for
//! itself, one between `/` is a regular expression.

use super::config::{EventFilter, FilterConfig, ReplicaConfig};
use super::failure::{Code, Failure};
use regex::{Regex, RegexBuilder};

/// Most rules, and the longest: each is a regular expression.
const RULES_MAX: usize = 256;
const RULE_BYTES_MAX: usize = 1024;
/// Bytes that a compiled pattern may take.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// What becomes of a row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Something is there that was not.
    Insert,
    /// Something is other than it was.
    Update,
    /// Something is gone.
    Delete,
}

/// All rules of a feed.
#[derive(Debug)]
pub(crate) struct Filter {
    rules: Vec<Rule>,
    ignored: Vec<(Vec<Rule>, Vec<Op>)>,
}

#[derive(Debug)]
struct Rule {
    takes: bool,
    db: Regex,
    table: Regex,
}

impl Filter {
    /// # Errors
    /// [`Code::FilterRuleInvalid`], [`Code::InvalidIgnoreEventType`].
    pub(crate) fn new(config: &ReplicaConfig) -> Result<Self, Failure> {
        // No rules at all are those that nobody has said.
        let unsaid = FilterConfig::default().rules;
        let said = if config.filter.rules.is_empty() { &unsaid } else { &config.filter.rules };
        let rules = rules(said, config.case_sensitive)?;
        let ignored = config.filter.event_filters.iter().map(|filter| ignored(filter, config.case_sensitive)).collect::<Result<_, _>>()?;
        Ok(Self { rules, ignored })
    }

    /// Whether rows of this table are carried.
    pub(crate) fn takes_table(&self, db: &str, table: &str) -> bool {
        matches(&self.rules, db, table)
    }

    /// Whether this kind of row is.
    pub(crate) fn takes(&self, db: &str, table: &str, op: Op) -> bool {
        self.takes_table(db, table) && !self.ignored.iter().any(|(rules, ops)| ops.contains(&op) && matches(rules, db, table))
    }
}

fn matches(rules: &[Rule], db: &str, table: &str) -> bool {
    rules.iter().rev().find(|rule| rule.db.is_match(db) && rule.table.is_match(table)).is_some_and(|rule| rule.takes)
}

fn rules(texts: &[String], case_sensitive: bool) -> Result<Vec<Rule>, Failure> {
    let wrong = |text: &str, why: &str| Code::FilterRuleInvalid.with(format!("filter rule is invalid {text:.128}: {why}"));
    if texts.len() > RULES_MAX {
        return Err(wrong("", &format!("there are up to {RULES_MAX} of them")));
    }
    let rule = |text: &String| {
        if text.len() > RULE_BYTES_MAX {
            return Err(wrong(text, "it is too long"));
        }
        let (takes, body) = text.trim().strip_prefix('!').map_or((true, text.trim()), |body| (false, body));
        let read = || {
            let (db, rest) = pattern(body)?;
            let (table, rest) = pattern(rest.strip_prefix('.').ok_or("a pattern is DB.TABLE")?)?;
            if !rest.is_empty() {
                return Err("there is more behind it".to_owned());
            }
            let regex = |pattern: String| {
                let mut builder = RegexBuilder::new(&pattern);
                let built = builder.case_insensitive(!case_sensitive).dot_matches_new_line(true).size_limit(PATTERN_BYTES_MAX).build();
                built.map_err(|_| "it cannot be made a regular expression".to_owned())
            };
            Ok::<_, String>(Rule { takes, db: regex(db)?, table: regex(table)? })
        };
        read().map_err(|why| wrong(text, &why))
    };
    texts.iter().map(rule).collect()
}

fn ignored(filter: &EventFilter, case_sensitive: bool) -> Result<(Vec<Rule>, Vec<Op>), Failure> {
    let mut ops = Vec::new();
    for event in &filter.ignore_event {
        match event.as_str() {
            "insert" => ops.push(Op::Insert),
            "update" => ops.push(Op::Update),
            "delete" => ops.push(Op::Delete),
            "all" | "all dml" => ops.extend([Op::Insert, Op::Update, Op::Delete]),
            // There are no definitions among the events here, so that leaving them out is easily done.
            "none" | "" | "all ddl" => {}
            other => return Err(Code::InvalidIgnoreEventType.with(format!("invalid ignore event type: '{other:.64}'"))),
        }
    }
    Ok((rules(&filter.matcher, case_sensitive)?, ops))
}

/// The pattern that `text` begins with, as a regular expression, and what follows it.
fn pattern(text: &str) -> Result<(String, &str), String> {
    let Some(first) = text.chars().next() else { return Err("a pattern is empty".into()) };
    let quoted = |quote: char| {
        let (mut name, mut rest) = (String::new(), &text[1..]);
        loop {
            let at = rest.find(quote).ok_or("a quoted name does not end")?;
            name.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            // Twice is the quote itself.
            match rest.strip_prefix(quote) {
                Some(tail) => {
                    name.push(quote);
                    rest = tail;
                }
                None => return Ok::<_, String>((name, rest)),
            }
        }
    };
    match first {
        '"' | '`' => quoted(first).map(|(name, rest)| (format!("^{}$", regex::escape(&name)), rest)),
        '/' => quoted('/'),
        _ => wildcards(text),
    }
}

fn wildcards(text: &str) -> Result<(String, &str), String> {
    let mut out = String::from("^");
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '.' if at == 0 => return Err("a name is empty".into()),
            '.' => return Ok((out + "$", &text[at..])),
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '[' => {
                let end = text[at..].find(']').ok_or("a [ is not closed")? + at;
                let inner = &text[at + 1..end];
                let (not, inner) = inner.strip_prefix('!').map_or(("", inner), |inner| ("^", inner));
                if inner.is_empty() || inner.contains(['[', '\\', '^', '&', '~']) {
                    return Err("what is between [ and ] is no list of characters".into());
                }
                out.push_str(&format!("[{not}{inner}]"));
                while chars.as_str().len() > text.len() - end - 1 {
                    chars.next();
                }
            }
            '\\' => {
                let (_, escaped) = chars.next().ok_or("nothing is behind a \\")?;
                out.push_str(&regex::escape(&escaped.to_string()));
            }
            c if c.is_alphanumeric() || "_$-@:#".contains(c) => out.push_str(&regex::escape(&c.to_string())),
            other => return Err(format!("{other:?} stands for itself only between quotes")),
        }
    }
    Ok((out + "$", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(rules: &[&str]) -> Result<Filter, Failure> {
        let mut config = ReplicaConfig::default();
        config.filter.rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
        Filter::new(&config)
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        for (rules, table, takes) in [
            (&["*.*"][..], "a.b", true),
            (&[], "a.b", true),
            (&["a.*"], "a.b", true),
            (&["a.*"], "ab.c", false),
            (&["A.B"], "a.b", true),
            (&["*.*", "!system.*"], "system.nodes", false),
            (&["*.*", "!system.*", "system.nodes"], "system.nodes", true),
            (&["a?.t[0-9]"], "ab.t7", true),
            (&["a?.t[!0-9]"], "ab.t7", false),
            (&["a?.t[0-9]"], "a.t7", false),
            (&["`a.b`.c"], "a.b|c", true),
            (&[r#""q""x".c"#], r#"q"x.c"#, true),
            (&["/^m[ao]del$/.*"], "model.x", true),
            (&["llama-8b.x\\*y"], "llama-8b.x*y", true),
        ] {
            let (db, table) = table.split_once('|').or(table.split_once('.')).unwrap();
            assert_eq!(filter(rules).unwrap().takes_table(db, table), takes, "{rules:?} {db} {table}");
        }
        for wrong in ["", "a", "a.", ".b", "a.b.c", "a.[", "a.[]", "\"a.b", "/(/.x", "a.b c", "a.\\", "@file"] {
            let failure = filter(&[wrong]).unwrap_err();
            assert!(
                failure.code == Code::FilterRuleInvalid && failure.message.starts_with("filter rule is invalid "),
                "{wrong}: {failure}"
            );
        }
    }

    #[test]
    fn kinds_of_rows_are_left_out_where_they_are_to_be() {
        let mut config = ReplicaConfig { case_sensitive: true, ..ReplicaConfig::default() };
        let ignore = |event: &str| EventFilter { matcher: vec!["a.*".into()], ignore_event: vec![event.into()], ..EventFilter::default() };
        config.filter.event_filters = vec![ignore("update"), ignore("none")];
        let filter = Filter::new(&config).unwrap();
        assert!(filter.takes("a", "t", Op::Insert) && !filter.takes("a", "t", Op::Update) && filter.takes("b", "t", Op::Update));
        assert!(filter.takes("A", "t", Op::Update), "case counts");
        config.filter.event_filters = vec![ignore("drop database x")];
        assert_eq!(Filter::new(&config).unwrap_err().code, Code::InvalidIgnoreEventType);
    }
}
