//! `simulate`: runs seeds of the simulation, and says which one broke which rule. See `docs/simulation.md`.

use perilune_master::planted::Defect;
use perilune_master::simulation::{FAULTS, Options, Report, run};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
usage: simulate [--seeds A..B | --seed N [--trace]] [--without FAULT]... [--check-determinism] [--find]

  --seeds A..B          these seeds, B left out; 0..100 if nothing is said
  --seed N              this one alone
  --trace               says what happens
  --without FAULT       leaves a kind of fault out
  --check-determinism   runs every seed twice, and both must go alike
  --defects             names of what can be planted
  --planted DEFECT      with this defect
  --find                is content when a seed breaks a rule, and not when none does";

struct Asked {
    seeds: std::ops::Range<u64>,
    trace: bool,
    twice: bool,
    find: bool,
    without: Vec<String>,
}

fn main() -> ExitCode {
    match asked() {
        Ok(Some(asked)) => simulate(&asked),
        Ok(None) => {
            println!("{USAGE}\n\nfaults:");
            FAULTS.iter().for_each(|(name, what)| println!("  {name:<14} {what}"));
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("{what}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn asked() -> Result<Option<Asked>, String> {
    let mut asked = Asked { seeds: 0..100, trace: false, twice: false, find: false, without: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is not a number"));
        match word.as_str() {
            "-h" | "--help" => return Ok(None),
            "--trace" => asked.trace = true,
            "--check-determinism" => asked.twice = true,
            "--find" => asked.find = true,
            "--defects" => {
                Defect::ALL.iter().for_each(|(name, _)| println!("{name}"));
                std::process::exit(0);
            }
            "--planted" => plant(&value()?)?,
            "--seed" => {
                let seed = number(&value()?)?;
                asked.seeds = seed..seed.saturating_add(1);
            }
            "--seeds" => {
                let text = value()?;
                let (from, to) = text.split_once("..").ok_or_else(|| format!("{text:?} is not A..B"))?;
                asked.seeds = number(from)?..number(to)?;
            }
            "--without" => {
                let name = value()?;
                if !FAULTS.iter().any(|(known, _)| *known == name) {
                    return Err(format!("there is no fault {name:?}; --help lists them"));
                }
                asked.without.push(name);
            }
            _ => return Err(format!("unknown word {word:?}")),
        }
    }
    if asked.seeds.is_empty() { Err("no seeds between the two numbers".into()) } else { Ok(Some(asked)) }
}

fn plant(name: &str) -> Result<(), String> {
    let (_, defect) = Defect::ALL.iter().find(|(known, _)| *known == name).ok_or_else(|| format!("there is no defect {name:?}"))?;
    perilune_master::planted::plant(*defect);
    Ok(())
}

fn simulate(asked: &Asked) -> ExitCode {
    let (began, mut simulated, mut told) = (Instant::now(), Duration::ZERO, Instant::now());
    for seed in asked.seeds.clone() {
        let mut options = Options::of(seed);
        (options.trace, options.without) = (asked.trace, asked.without.clone());
        if asked.trace {
            println!("{options:?}");
        }
        let report = match once(&options, asked.twice) {
            Ok(report) => report,
            Err(what) => {
                eprintln!("seed {seed}: {what}");
                return ExitCode::FAILURE;
            }
        };
        simulated += Duration::from_millis(report.simulated_ms);
        if asked.trace {
            println!("seed {seed}: hash {:016x}, {}", report.hash, report.summary);
        }
        if let Some((rule, what)) = &report.broken {
            println!("seed {seed} breaks the rule \"{rule}\" after {} ms: {what}", report.simulated_ms);
            println!("to see how: scripts/simulate --seed {seed} --trace");
            return if asked.find { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            eprintln!("seed {seed}: {}", speed(simulated, began.elapsed()));
        }
    }
    println!("{} seeds, {}: no rule is broken", asked.seeds.end - asked.seeds.start, speed(simulated, began.elapsed()));
    if asked.find { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn once(options: &Options, twice: bool) -> Result<Report, String> {
    let report = run(options.clone())?;
    if twice {
        let again = run(options.clone())?;
        if again.hash != report.hash {
            return Err(format!("it goes differently the second time: {:016x}, {:016x}", report.hash, again.hash));
        }
    }
    Ok(report)
}

fn speed(simulated: Duration, took: Duration) -> String {
    let hours = simulated.as_secs_f64() / 3600.0;
    format!("{hours:.2} simulated hours in {:.0} s, {:.1} a minute", took.as_secs_f64(), hours / took.as_secs_f64().max(0.001) * 60.0)
}
