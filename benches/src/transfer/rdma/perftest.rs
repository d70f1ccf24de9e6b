//! `ib_write_bw`, `ib_read_bw`, `ib_write_lat`, `ib_read_lat`: the floor.

use super::case::{Case, Measure};
use super::devices::{Device, Ends};
use super::pair;
use crate::rivals::{Setting, Trouble};
use std::process::Command;

/// Perftest's MB.
const MIB: f64 = 1_048_576.0;

pub(super) fn program(measure: Measure) -> &'static str {
    match measure {
        Measure::Write => "ib_write_bw",
        Measure::Read => "ib_read_bw",
        Measure::WriteLatency => "ib_write_lat",
        Measure::ReadLatency => "ib_read_lat",
    }
}

/// Measures this many operations; two pairs of devices are two pairs of processes at the same time, each with its share.
pub(super) fn measure(setting: &Setting<'_>, ends: &Ends, case: &Case, operations: u64) -> Result<f64, Trouble> {
    let share = share(case, operations);
    let server = |number: usize, port| command(&ends.serving[number], case, share, port);
    let client = |number: usize, port| asking(&ends.asking[number], case, share, port);
    let printed = pair::run(setting, case.devices, server, client)?;
    let values = printed.iter().map(|text| value(text, case)).collect::<Result<Vec<f64>, _>>()?;
    Ok(values.iter().sum())
}

/// The operations of each pair; perftest wants at least 5, and as many as may be under way.
fn share(case: &Case, operations: u64) -> u64 {
    (operations / case.devices as u64).max(5).max(depth(case) as u64)
}

fn depth(case: &Case) -> usize {
    (case.in_flight / case.devices).max(1)
}

/// The client, for `operations` of one pair.
pub(super) fn asking(device: &Device, case: &Case, operations: u64, port: u16) -> Command {
    let mut command = command(device, case, operations, port);
    command.arg("127.0.0.1");
    command
}

/// The server; the client is the same with a host.
pub(super) fn command(device: &Device, case: &Case, operations: u64, port: u16) -> Command {
    let mut command = Command::new(program(case.measure));
    // -F: the speed of the processor may change. -t: how many are under way, which the latency programs do not know.
    command.args(["-F", "-d", &device.name, "-x", &device.gid_index.to_string(), "-p", &port.to_string()]);
    command.args(["-s", &case.size.to_string(), "-n", &operations.to_string()]);
    if case.measure.is_rate() {
        command.args(["-t", &depth(case).to_string()]);
    }
    command
}

/// The average rate, or the typical time: the fourth and fifth of the numbers in the line that begins with the size.
fn value(printed: &str, case: &Case) -> Result<f64, Trouble> {
    let size = case.size.to_string();
    let line = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|words| words.first() == Some(&size.as_str()));
    let at = if case.measure.is_rate() { 3 } else { 4 };
    let number: Option<f64> = line.and_then(|words| words.get(at)?.parse().ok()).filter(|number| *number > 0.0);
    let number = number.ok_or_else(|| format!("{} printed no figure: {}", program(case.measure), printed.trim()))?;
    Ok(if case.measure.is_rate() { number * MIB } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_perftest_prints() {
        let case = |measure, size| Case { measure, devices: 1, size, in_flight: 16 };
        let bw = " #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]
 65536      500              118.53             71.67  \t\t   0.001147\n";
        assert_eq!(value(bw, &case(Measure::Write, 65536)).unwrap(), 71.67 * MIB);
        let lat = " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]
 4096    500          37.52          2983.46      72.02    \t       99.11       \t208.50 \t\t2085.68 \t\t2983.46 \n";
        assert_eq!(value(lat, &case(Measure::WriteLatency, 4096)).unwrap(), 72.02);
        let error = value("Couldn't connect to 127.0.0.1:5000", &case(Measure::Write, 65536)).unwrap_err().to_string();
        assert!(error.contains("ib_write_bw") && error.contains("Couldn't connect"), "{error}");
        assert!(value(" 65536 500 inf 0.00 0.0", &case(Measure::Write, 65536)).is_err());
    }

    #[test]
    fn each_pair_gets_its_share() {
        let case = |devices, in_flight| Case { measure: Measure::Write, devices, size: 4096, in_flight };
        assert_eq!(share(&case(2, 16), 100), 50);
        assert_eq!(share(&case(1, 16), 3), 16);
        assert_eq!(share(&case(2, 1), 3), 5);
    }
}
