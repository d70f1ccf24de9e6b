//! The one table of settings. A flag's long name is also its key in the file of `--config` and, in capitals after
//! `PERILUNE_`, its environment name; whoever defines a flag has defined all three. A command line beats the
//! environment, the environment beats the file, the file beats the default.
//!
//! ```toml
//! master = "10.0.0.1:50051"     # for whatever command is run, which must have this flag
//! [store]                       # only for `perilune store`
//! segment-size = "64GiB"
//! [bench.store]                 # only for `perilune bench store`
//! rounds = 9
//! ```

use crate::command::Command;
use crate::failure::Failure;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A distributed memory segment store for LLM KV caches.
#[derive(Parser)]
#[command(name = "perilune", version, propagate_version = true, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Every flag `--some-flag V` may also be given as `some-flag = \"V\"` in the file of --config (a section such as
`[store]` is read by that command only), or as PERILUNE_SOME_FLAG=V in the environment. The command line comes
first, then the environment, then the file. Sizes read 4096, 64KiB, 4GiB; durations read 500ms, 10s, 2m.
Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// What every command takes.
#[derive(clap::Args)]
pub(crate) struct Global {
    /// A file of `key = value` settings (TOML); the keys are the names of the flags
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to log to stderr: a level, or `module=level,...`
    #[arg(long, global = true, value_name = "FILTER", default_value = "warn")]
    pub(crate) log: String,
}

/// The commands with their environment names: what help, completions and man pages are made from.
pub(crate) fn table() -> clap::Command {
    fn name_in_environment(command: clap::Command) -> clap::Command {
        command
            .mut_args(|arg| match arg.get_long().map(environment_name) {
                Some(name) if is_setting(&arg) => arg.env(name).hide_env_values(true),
                _ => arg,
            })
            .mut_subcommands(name_in_environment)
    }
    name_in_environment(Cli::command())
}

/// Reads the command line, the environment and the file of `--config`.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Failure> {
    let args: Vec<OsString> = args.into_iter().collect();
    // The first reading only learns which command is run and with which file; its mistakes are reported by the second.
    let rough = table().ignore_errors(true).try_get_matches_from(&args).ok();
    let file = rough.as_ref().and_then(|m| m.try_get_one::<PathBuf>("config").ok().flatten().cloned());
    let chosen = rough.as_ref().map(chosen_path).unwrap_or_default();
    let Some(file) = file else { return Ok(Cli::from_arg_matches(&table().try_get_matches_from(&args)?)?) };

    let values = read_file(&file, &chosen)?;
    let mut unused: BTreeMap<&str, &Vec<String>> = values.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let table = with_defaults(table(), &chosen, &mut unused);
    if let Some(key) = unused.keys().next() {
        let command = if chosen.is_empty() { "perilune".to_owned() } else { format!("perilune {}", chosen.join(" ")) };
        return Err(Failure::Usage(format!(
            "{}: unknown key `{key}`: `{command}` has no flag --{key}; see `{command} --help`, or put the key into the section of its command",
            file.display()
        )));
    }
    let matches = table.try_get_matches_from(&args).map_err(|e| name_the_file(e, &file, &values))?;
    Ok(Cli::from_arg_matches(&matches)?)
}

fn environment_name(long: &str) -> String {
    format!("PERILUNE_{}", long.to_ascii_uppercase().replace('-', "_"))
}

fn is_setting(arg: &Arg) -> bool {
    !matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version)
}

/// The names of the subcommands that were chosen, outermost first.
fn chosen_path(matches: &clap::ArgMatches) -> Vec<String> {
    let mut path = Vec::new();
    let mut at = matches;
    while let Some((name, inner)) = at.subcommand() {
        path.push(name.to_owned());
        at = inner;
    }
    path
}

/// The settings of the file that are meant for the chosen command: the top level, then its section.
fn read_file(file: &Path, chosen: &[String]) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        Failure::Usage(format!("--config {}: {e}; write `key = value` lines into it, or leave --config out", file.display()))
    })?;
    let root: toml::Table =
        text.parse().map_err(|e: toml::de::Error| Failure::Usage(format!("{}: {}", file.display(), e.to_string().trim_end())))?;
    let known = table();
    let mut values = BTreeMap::new();
    let mut section = Some(&root);
    check_sections(file, &root, &known)?;
    for name in std::iter::once(None).chain(chosen.iter().map(Some)) {
        section = match (name, section) {
            (None, at) => at,
            (Some(name), Some(at)) => at.get(name).and_then(toml::Value::as_table),
            (Some(_), None) => None,
        };
        for (key, value) in section.into_iter().flatten().filter(|(_, v)| !v.is_table()) {
            let texts = plain(value).ok_or_else(|| {
                Failure::Usage(format!("{}: key `{key}`: a setting is a text, a number, true or false, or a list of these", file.display()))
            })?;
            values.insert(key.clone(), texts);
        }
    }
    Ok(values)
}

/// Refuses sections that are no command, and keys in them that their command does not have.
fn check_sections(file: &Path, at: &toml::Table, command: &clap::Command) -> Result<(), Failure> {
    for (name, value) in at {
        let Some(inner) = value.as_table() else { continue };
        let sub = command.get_subcommands().find(|c| c.get_name() == name).ok_or_else(|| {
            Failure::Usage(format!("{}: unknown section `[{name}]`: sections are named after commands, such as [store]", file.display()))
        })?;
        for key in inner.iter().filter(|(_, v)| !v.is_table()).map(|(k, _)| k) {
            let is_global = ["json", "log"].contains(&key.as_str());
            if !is_global && !sub.get_arguments().any(|a| is_setting(a) && a.get_long() == Some(key)) && !sub.has_subcommands() {
                return Err(Failure::Usage(format!(
                    "{}: unknown key `{key}` in section `[{name}]`: `perilune {name}` has no flag --{key}",
                    file.display()
                )));
            }
        }
        check_sections(file, inner, sub)?;
    }
    Ok(())
}

fn plain(value: &toml::Value) -> Option<Vec<String>> {
    Some(match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Integer(n) => vec![n.to_string()],
        toml::Value::Float(n) => vec![n.to_string()],
        toml::Value::Boolean(b) => vec![b.to_string()],
        toml::Value::Array(items) => {
            items.iter().map(|i| plain(i).and_then(|mut one| (one.len() == 1).then(|| one.remove(0)))).collect::<Option<_>>()?
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => return None,
    })
}

/// Makes the file's values the defaults of the chosen command's flags; takes what it used out of `unused`.
fn with_defaults(mut command: clap::Command, chosen: &[String], unused: &mut BTreeMap<&str, &Vec<String>>) -> clap::Command {
    command = command.mut_args(|arg| {
        let Some(values) = arg.get_long().filter(|long| is_setting(&arg) && *long != "config").and_then(|long| unused.remove(long)) else {
            return arg;
        };
        arg.required(false).default_values(values.clone())
    });
    match chosen.split_first() {
        Some((name, rest)) => command.mut_subcommand(name, |sub| with_defaults(sub, rest, unused)),
        None => command,
    }
}

/// A value that came from the file is blamed on the file.
fn name_the_file(error: clap::Error, file: &Path, values: &BTreeMap<String, Vec<String>>) -> Failure {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let key = context(ContextKind::InvalidArg).and_then(|arg| Some(arg.strip_prefix("--")?.split([' ', '=', '.']).next()?.to_owned()));
    let value = context(ContextKind::InvalidValue);
    match (key, value) {
        (Some(key), Some(value)) if values.get(&key).is_some_and(|given| given.contains(&value)) => {
            let why = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Failure::Usage(format!("{}: key `{key}`: `{value}` is not a value for it{why}", file.display()))
        }
        _ => Failure::Arguments(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound_and_every_flag_is_explained() {
        fn walk(command: &clap::Command) {
            for arg in command.get_arguments().filter(|a| is_setting(a)) {
                assert!(arg.get_help().is_some(), "{} {} has no help", command.get_name(), arg.get_id());
                if let Some(long) = arg.get_long() {
                    assert_eq!(arg.get_env().and_then(|e| e.to_str()), Some(environment_name(long).as_str()), "{}", command.get_name());
                }
            }
            command.get_subcommands().for_each(walk);
        }
        let mut table = table();
        table.build();
        table.clone().debug_assert();
        walk(&super::table());
    }

    fn parse_with(file: &str, args: &[&str]) -> Result<Cli, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("perilune.toml");
        std::fs::write(&path, file).unwrap();
        parse(["perilune", "--config", path.to_str().unwrap()].iter().chain(args).map(OsString::from))
    }

    fn complaint(result: Result<Cli, Failure>) -> String {
        match result {
            Ok(_) => panic!("accepted"),
            Err(Failure::Usage(text)) => text,
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_file_gives_defaults_and_the_command_line_beats_it() {
        let Ok(Cli { command: Command::Ls(ls), .. }) =
            parse_with("limit = 7\n[ls]\nmaster = [\"a:1\", \"b:2\"]\n[store]\nsegment-size = \"1GiB\"\n", &["ls"])
        else {
            panic!("not read")
        };
        assert_eq!((ls.limit, ls.client.master), (7, vec!["a:1".to_owned(), "b:2".to_owned()]));
        let Ok(Cli { command: Command::Ls(ls), .. }) = parse_with("limit = 7\n", &["ls", "--limit", "8"]) else { panic!("not read") };
        assert_eq!(ls.limit, 8);
        let Ok(Cli { global, .. }) = parse_with("json = true\n", &["stat"]) else { panic!("not read") };
        assert!(global.json);
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named_with_the_file() {
        for (file, words) in [
            ("segment-sise = 4\n", vec!["perilune.toml", "segment-sise"]),
            ("[stroe]\nlimit = 1\n", vec!["perilune.toml", "stroe"]),
            ("[store]\nlimit = 1\n", vec!["perilune.toml", "[store]", "limit"]),
            ("limit = \"many\"\n", vec!["perilune.toml", "limit", "many"]),
            ("limit = \n", vec!["perilune.toml", "line 1"]),
            ("limit = 1979-05-27\n", vec!["perilune.toml", "limit"]),
        ] {
            let text = complaint(parse_with(file, &["ls"]));
            assert!(words.iter().all(|w| text.contains(w)), "{file:?} gave {text:?}");
        }
    }
}
