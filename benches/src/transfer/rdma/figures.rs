//! Medians of the rounds, how each stands to perftest, and the tables.

use super::case::{Case, Measure};
use super::counts::PerGb;
use super::{Counted, Samples, Who};
use crate::pinned;
use crate::report::{Origin, Percentiles, Table, median, range};
use perilune_protocol::ByteSize;
use serde::Serialize;

/// The medians of one of those who are measured, in one case.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// A program of perftest, `ucx`, `engine rdma`, or `engine rdma, 64 MiB`: one place after the other in as much memory of the peer, where
    /// the first three use the same bytes again and again.
    pub who: &'static str,
    /// What was measured.
    pub measure: Measure,
    /// Pairs of devices.
    pub devices: usize,
    /// Bytes of an operation.
    pub size: usize,
    /// Operations under way at once.
    pub in_flight: usize,
    /// Rounds that were counted.
    pub rounds: usize,
    /// `bytes/s` or `us`.
    pub unit: &'static str,
    /// The median of the rounds.
    pub median: f64,
    /// The least and the most of a round.
    pub range: [f64; 2],
    /// The median of what a round gave, divided by what perftest gave in the same round.
    pub of_floor: Option<f64>,
    /// Counts for 1e9 bytes, where they were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_gb: Option<PerGb>,
}

/// All figures of a run, and where they were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The machine and the commit.
    pub origin: Origin,
    /// Whether the sides were kept on a core each.
    pub pinned: bool,
    /// Those of the asking side.
    pub devices: Vec<String>,
    /// Those of the other side.
    pub peer_devices: Vec<String>,
    /// Medians.
    pub figures: Vec<Figure>,
    /// Who or what was not measured, and why.
    pub skipped: Vec<String>,
}

/// `one_device`: nobody's packets cross a cable, so that UCX does what the others do.
pub(super) fn of(samples: &Samples, counted: &Counted, one_device: bool) -> Vec<Figure> {
    let of_one = |((case, who), values): (&(Case, Who), &Vec<f64>)| {
        let Case { measure, devices, size, in_flight } = *case;
        let comparable = matches!(who, Who::Engine | Who::Apart) || (*who == Who::Ucx && one_device);
        let floor = samples.get(&(*case, Who::Perftest)).filter(|floor| comparable && floor.len() == values.len());
        Figure {
            who: who.name(measure),
            measure,
            devices,
            size,
            in_flight,
            rounds: values.len(),
            unit: if measure.is_rate() { "bytes/s" } else { "us" },
            median: median(values.iter().copied()),
            range: range(values.iter().copied()),
            of_floor: floor.map(|floor| median(values.iter().zip(floor).map(|(ours, theirs)| ours / theirs))),
            per_gb: counted.get(&(*case, *who)).copied(),
        }
    };
    samples.iter().map(of_one).collect()
}

impl Figure {
    fn show(&self, value: f64) -> String {
        if self.measure.is_rate() { format!("{:.1} MB/s", value / 1e6) } else { Percentiles::show(value) }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.origin)?;
        let (asking, serving) = (self.devices.join(", "), self.peer_devices.join(", "));
        writeln!(f, "{} {asking} ask, {serving} serve. Medians of interleaved rounds, MB = 1e6 bytes.", pinned::sentence(self.pinned))?;
        writeln!(f, "`of floor`: divided by perftest's in the same round, then the median.\n")?;
        let mut table =
            Table::new(["measure", "size", "in flight", "devices", "who", "median", "least", "most", "of floor"]).left(0).left(4);
        let mut counts =
            Table::new(["1e9 bytes", "size", "in flight", "who", "requests", "doorbells", "completions", "arms", "sleeps", "system calls"])
                .left(0)
                .left(3);
        for figure in &self.figures {
            let size = ByteSize(figure.size as u64).to_string();
            if let Some(per_gb) = figure.per_gb {
                let number = |count: Option<f64>| count.map_or("-".into(), |count| format!("{count:.0}"));
                counts.row([
                    figure.measure.as_str().into(),
                    size.clone(),
                    figure.in_flight.to_string(),
                    figure.who.into(),
                    number(per_gb.work_requests),
                    number(per_gb.doorbells),
                    number(per_gb.completions),
                    number(per_gb.arms),
                    number(per_gb.sleeps),
                    number(per_gb.system_calls),
                ]);
            }
            table.row([
                figure.measure.as_str().into(),
                size,
                figure.in_flight.to_string(),
                figure.devices.to_string(),
                figure.who.into(),
                figure.show(figure.median),
                figure.show(figure.range[0]),
                figure.show(figure.range[1]),
                figure.of_floor.map_or(String::new(), |ratio| format!("{ratio:.2}")),
            ]);
        }
        write!(f, "{table}\nThe asking side, for 1e9 bytes:\n\n{counts}")?;
        self.skipped.iter().try_for_each(|skipped| writeln!(f, "\nNot measured: {skipped}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let case = Case { measure: Measure::Write, devices: 1, size: 4096, in_flight: 16 };
        let samples = Samples::from([((case, Who::Engine), vec![50.0, 190.0, 90.0]), ((case, Who::Perftest), vec![100.0, 200.0, 100.0])]);
        let figures = of(&samples, &Counted::new(), false);
        let ours = figures.iter().find(|figure| figure.who == "engine rdma").unwrap();
        assert_eq!((ours.median, ours.of_floor, ours.range), (90.0, Some(0.9), [50.0, 190.0]));
        let floor = figures.iter().find(|figure| figure.who == "ib_write_bw").unwrap();
        assert_eq!(floor.of_floor, None);
        let table =
            Figures { origin: Origin::here(), pinned: false, devices: vec![], peer_devices: vec![], figures, skipped: vec!["x: y".into()] };
        assert!(table.to_string().contains("0.90") && table.to_string().contains("Not measured: x: y"));
    }
}
