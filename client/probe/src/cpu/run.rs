//! One profile, from the first tick to the bytes of the answer, on a thread of its own.

use super::names::{Names, Place};
use super::proto::{Function, Label, Line, Location, Profile, Sample, ValueType};
use super::sampler::Sampler;
use super::sys::{Alarm, cpu_time};
use inferno::flamegraph;
use nix::sys::signal::{SigSet, Signal};
use prost::Message;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How often samples are collected.
const PAUSE: Duration = Duration::from_millis(20);

/// How a profile is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Svg,
    Protobuf,
}

pub(super) struct Order {
    pub(super) duration: Duration,
    /// Samples for each second of CPU.
    pub(super) frequency: u32,
    pub(super) form: Form,
}

/// What was seen.
struct Seen {
    /// How often each stack of each kind of thread was there; the innermost frame first.
    stacks: HashMap<(String, Vec<u64>), u64>,
    samples: u64,
    lost: u64,
    began: SystemTime,
    took: Duration,
    /// CPU that was used meanwhile.
    used: Duration,
}

/// Makes a profile; breaks off, with an error, once nobody wants it any more.
pub(super) fn run(order: &Order, is_unwanted: impl Fn() -> bool) -> io::Result<Vec<u8>> {
    // Or a sample that is just being collected here would have to be waited for here.
    SigSet::from(Signal::SIGPROF).thread_block()?;
    let sampler = Arc::new(Sampler::new()?);
    let mut seen =
        Seen { stacks: HashMap::new(), samples: 0, lost: 0, began: SystemTime::now(), took: Duration::ZERO, used: Duration::ZERO };
    let (began, used) = (Instant::now(), cpu_time());
    let alarm = Alarm::set(Arc::clone(&sampler), order.frequency)?;
    while began.elapsed() < order.duration {
        if is_unwanted() {
            return Err(io::Error::other("nobody waits for it"));
        }
        std::thread::sleep(PAUSE.min(order.duration.saturating_sub(began.elapsed())));
        seen.collect(&sampler);
    }
    drop(alarm);
    seen.collect(&sampler);
    (seen.took, seen.used, seen.lost) = (began.elapsed(), cpu_time().saturating_sub(used), sampler.lost());
    match order.form {
        Form::Svg => seen.svg(order),
        Form::Protobuf => Ok(seen.protobuf(order).encode_to_vec()),
    }
}

impl Seen {
    fn collect(&mut self, sampler: &Sampler) {
        while let Some(sample) = sampler.collect() {
            *self.stacks.entry((kind(&sample.thread), sample.frames().to_vec())).or_default() += 1;
            self.samples += 1;
        }
    }

    fn told(&self, order: &Order) -> String {
        format!(
            "{} samples, {} Hz asked for, {} lost; {:.2} s of CPU used in {:.2} s",
            self.samples,
            order.frequency,
            self.lost,
            self.used.as_secs_f64(),
            self.took.as_secs_f64()
        )
    }

    /// A flame graph: threads of a kind at the root, what they were at at the tips.
    fn svg(&self, order: &Order) -> io::Result<Vec<u8>> {
        let told = self.told(order);
        if self.samples == 0 {
            let page = format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1200\" height=\"40\"><text x=\"10\" y=\"25\">{told}</text></svg>\n"
            );
            return Ok(page.into_bytes());
        }
        let mut names = Names::default();
        let lines: Vec<String> = self.stacks.iter().map(|((thread, stack), count)| folded(thread, stack, *count, &mut names)).collect();
        let mut options = flamegraph::Options::default();
        options.title = "CPU".into();
        options.subtitle = Some(told);
        let mut page = Vec::new();
        flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut page).map_err(io::Error::other)?;
        Ok(page)
    }

    fn protobuf(&self, order: &Order) -> Profile {
        let mut names = Names::default();
        let mut tables = Tables::default();
        tables.text("");
        let mut of = |what: &str, unit: &str| ValueType { r#type: tables.text(what), unit: tables.text(unit) };
        let (samples, cpu) = (of("samples", "count"), of("cpu", "nanoseconds"));
        let thread = tables.text("thread");
        // Where the kernel ticks more slowly than was asked, a sample stands for more.
        let worth = self.used.as_nanos() / u128::from((self.samples + self.lost).max(1));
        let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let mut sample = Vec::with_capacity(self.stacks.len());
        for ((kind, stack), count) in &self.stacks {
            let location_id = stack.iter().map(|address| tables.location(*address, &mut names)).collect();
            let value = vec![count.cast_signed(), i64::try_from(u128::from(*count) * worth).unwrap_or(i64::MAX)];
            sample.push(Sample { location_id, value, label: vec![Label { key: thread, str: tables.text(kind) }] });
        }
        let comment = vec![tables.text(&self.told(order))];
        Profile {
            sample_type: vec![samples, cpu],
            sample,
            location: tables.locations,
            function: tables.functions,
            string_table: tables.texts,
            time_nanos: nanos(self.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()),
            duration_nanos: nanos(self.took),
            period_type: Some(cpu),
            period: nanos(Duration::from_secs(1) / order.frequency),
            comment,
        }
    }
}

/// A stack on one line, the outermost first, as flame graphs are made from.
fn folded(thread: &str, stack: &[u64], count: u64, names: &mut Names) -> String {
    let mut line = thread.to_owned();
    for address in stack.iter().rev() {
        for place in names.at(*address).iter().rev() {
            line.push(';');
            line.push_str(&place.function.replace(';', ":"));
        }
    }
    format!("{line} {count}")
}

/// Threads of a pool are one kind: their names without the number at the end, and blanks as dashes.
fn kind(thread: &[u8; 16]) -> String {
    let end = thread.iter().position(|byte| *byte == 0).unwrap_or(thread.len());
    let name = String::from_utf8_lossy(&thread[..end]).replace([' ', '_', ';'], "-");
    let kind = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
    if kind.is_empty() { "unnamed".into() } else { kind.into() }
}

/// Strings, functions and locations, each once.
#[derive(Default)]
struct Tables {
    texts: Vec<String>,
    text_at: HashMap<String, i64>,
    functions: Vec<Function>,
    function_at: HashMap<(i64, i64), u64>,
    locations: Vec<Location>,
    location_at: HashMap<u64, u64>,
}

impl Tables {
    fn text(&mut self, text: &str) -> i64 {
        if let Some(at) = self.text_at.get(text) {
            return *at;
        }
        let at = self.texts.len() as i64;
        self.texts.push(text.to_owned());
        self.text_at.insert(text.to_owned(), at);
        at
    }

    fn function(&mut self, place: &Place) -> u64 {
        let (name, filename) = (self.text(&place.function), self.text(&place.file));
        let functions = &mut self.functions;
        *self.function_at.entry((name, filename)).or_insert_with(|| {
            let id = functions.len() as u64 + 1;
            functions.push(Function { id, name, system_name: name, filename });
            id
        })
    }

    fn location(&mut self, address: u64, names: &mut Names) -> u64 {
        if let Some(id) = self.location_at.get(&address) {
            return *id;
        }
        let line = |place: &Place| Line { function_id: self.function(place), line: place.line.into() };
        let line = names.at(address).iter().map(line).collect();
        let id = self.locations.len() as u64 + 1;
        self.locations.push(Location { id, address, line });
        self.location_at.insert(address, id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// One at a time: the timer is the process's.
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

    #[inline(never)]
    fn perilune_spins_here(stop: &AtomicBool) -> u64 {
        let mut sum = 1_u64;
        while !stop.load(Ordering::Relaxed) {
            for n in 0..10_000_u64 {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(n));
            }
        }
        sum
    }

    #[inline(never)]
    fn perilune_copies_here(stop: &AtomicBool) -> u8 {
        let (from, mut to) = (vec![7_u8; 1 << 20], vec![0_u8; 1 << 20]);
        while !stop.load(Ordering::Relaxed) {
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&mut to);
        }
        to[0]
    }

    /// A profile of so many milliseconds, taken while both work.
    fn busy(form: Form, millis: u64) -> Vec<u8> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let named = |name: &str| std::thread::Builder::new().name(name.into());
            named("spin_worker 12").spawn_scoped(scope, || perilune_spins_here(&stop)).unwrap();
            named("copy-7").spawn_scoped(scope, || perilune_copies_here(&stop)).unwrap();
            let order = Order { duration: Duration::from_millis(millis), frequency: 250, form };
            let made = scope.spawn(move || run(&order, || false)).join().unwrap();
            stop.store(true, Ordering::Relaxed);
            made.unwrap()
        })
    }

    #[test]
    fn who_uses_the_cpu_is_named_down_to_the_innermost_function() {
        let _alone = ALONE.lock().unwrap();
        let profile = Profile::decode(&*busy(Form::Protobuf, 1000)).unwrap();
        let text = |at: i64| profile.string_table[at as usize].as_str();
        let function = |id: u64| text(profile.function.iter().find(|f| f.id == id).unwrap().name);
        let names = |sample: &Sample| -> Vec<&str> {
            let location = |id: &u64| profile.location.iter().find(|location| location.id == *id).unwrap();
            sample.location_id.iter().flat_map(|id| &location(id).line).map(|line| function(line.function_id)).collect()
        };
        let of = |kind: &str| -> Vec<(Vec<&str>, i64)> {
            profile.sample.iter().filter(|s| text(s.label[0].str) == kind).map(|s| (names(s), s.value[0])).collect()
        };
        for (kind, function) in [("spin-worker", "perilune_spins_here"), ("copy", "perilune_copies_here")] {
            let stacks = of(kind);
            let all: i64 = stacks.iter().map(|(_, count)| count).sum();
            let named = |(names, _): &&(Vec<&str>, i64)| names.iter().any(|name| name.ends_with(function));
            let inside: i64 = stacks.iter().filter(named).map(|(_, count)| count).sum();
            // Threads begin and end somewhere else.
            assert!(all > 10 && inside * 10 >= all * 9, "{kind}: {inside} of {all} samples: {stacks:?}");
            let whole = |(names, _): &(Vec<&str>, i64)| names.iter().any(|name| name.contains("thread_start") || name.contains("clone"));
            assert!(stacks.iter().any(whole), "a stack reaches to where its thread began: {stacks:?}");
        }
        let copies = of("copy");
        assert!(copies.iter().any(|(names, _)| names[0].contains("mem")), "the copying itself is seen: {copies:?}");
        let cpu: i64 = profile.sample.iter().map(|sample| sample.value[1]).sum();
        assert!(cpu > 0 && profile.duration_nanos >= 1_000_000_000 && profile.period == 4_000_000);
    }

    #[test]
    fn a_flame_graph_has_the_function_and_the_thread_in_it() {
        let _alone = ALONE.lock().unwrap();
        let page = String::from_utf8(busy(Form::Svg, 500)).unwrap();
        for word in ["<svg", "perilune_spins_here", "spin-worker", "</svg>"] {
            assert!(page.contains(word), "{word}");
        }
    }

    #[test]
    fn where_nothing_happened_the_page_says_so() {
        let seen = Seen {
            stacks: HashMap::new(),
            samples: 0,
            lost: 0,
            began: SystemTime::now(),
            took: Duration::from_secs(1),
            used: Duration::ZERO,
        };
        let order = Order { duration: Duration::from_secs(1), frequency: 99, form: Form::Svg };
        let page = String::from_utf8(seen.svg(&order).unwrap()).unwrap();
        assert!(page.starts_with("<svg") && page.contains("0 samples"));
        let profile = seen.protobuf(&order);
        assert!(profile.sample.is_empty() && profile.string_table[0].is_empty() && profile.sample_type.len() == 2);
    }

    /// Allocations, panics and stack traces take locks that the handler must do without.
    #[test]
    fn threads_that_allocate_panic_and_trace_are_sampled_unharmed() {
        let _alone = ALONE.lock().unwrap();
        let stop = AtomicBool::new(false);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let many: Vec<Vec<u8>> = (1..200).map(|n| vec![1; n * 7]).collect();
                        std::hint::black_box(many);
                        assert!(std::panic::catch_unwind(|| panic!("on purpose")).is_err());
                        let _ = std::hint::black_box(std::backtrace::Backtrace::force_capture());
                    }
                });
            }
            let order = Order { duration: Duration::from_secs(2), frequency: 1000, form: Form::Protobuf };
            let made = scope.spawn(move || run(&order, || false)).join().unwrap();
            stop.store(true, Ordering::Relaxed);
            assert!(Profile::decode(&*made.unwrap()).unwrap().sample.len() > 10);
        });
        std::panic::set_hook(hook);
    }

    #[test]
    fn nothing_is_made_for_nobody() {
        let _alone = ALONE.lock().unwrap();
        let order = Order { duration: Duration::from_secs(600), frequency: 99, form: Form::Svg };
        let began = Instant::now();
        assert!(std::thread::spawn(move || run(&order, || true)).join().unwrap().is_err());
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn threads_of_a_pool_are_one_kind() {
        for (name, then) in
            [("rest-12", "rest"), ("spin_worker 3", "spin-worker"), ("tokio-rt-worker", "tokio-rt-worker"), ("7", "unnamed")]
        {
            let mut bytes = [0; 16];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            assert_eq!(kind(&bytes), then);
        }
    }
}
