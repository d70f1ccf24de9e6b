//! UCX, by its `ucx_perftest`, over the verbs of the same device.
//!
//! Its transport layer (UCT), since its protocol layer (UCP) does not connect here: it does so by datagrams, and over soft-RoCE of kernel 6.1
//! UCX 1.13 waits for the answer for ever. In a UCT test both sides use the device that the client names, so its packets do not leave the device.

use super::case::{Case, Measure};
use super::devices::Device;
use super::pair;
use crate::rivals::{Setting, Trouble};
use std::process::Command;

/// UCX's MB.
const MIB: f64 = 1_048_576.0;

pub(super) const PROGRAM: &str = "ucx_perftest";

/// Measures this many operations. One device, no more.
pub(super) fn measure(setting: &Setting<'_>, device: &Device, case: &Case, operations: u64) -> Result<f64, Trouble> {
    let client = |_, port| {
        let mut command = command(device, port);
        let test = match case.measure {
            Measure::Write => "put_bw",
            Measure::WriteLatency => "put_lat",
            Measure::Read | Measure::ReadLatency => "get",
        };
        command.args(["127.0.0.1", "-t", test, "-x", "rc_verbs", "-D", "zcopy", "-d"]).arg(format!("{}:1", device.name));
        command.args(["-s", &case.size.to_string(), "-O", &case.in_flight.to_string(), "-f", "-v"]);
        command.args(["-n", &operations.to_string(), "-w", &(case.in_flight * 2).to_string()]);
        command
    };
    let printed = pair::run(setting, 1, |_, port| command(device, port), client)?;
    value(&printed[0], case.measure)
}

fn command(device: &Device, port: u16) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env("UCX_IB_GID_INDEX", device.gid_index.to_string()).args(["-p", &port.to_string()]);
    command
}

/// From the line of numbers under that of their names.
fn value(printed: &str, measure: Measure) -> Result<f64, Trouble> {
    let name = if measure.is_rate() { "overall_bw" } else { "50.0_percentile_lat" };
    let mut lines = printed.lines().skip_while(|line| !line.starts_with("iterations,"));
    let at = lines.next().and_then(|names| names.split(',').position(|n| n.trim() == name));
    let number: Option<f64> = at.and_then(|at| lines.next()?.split(',').nth(at)?.trim().parse().ok()).filter(|number| *number > 0.0);
    let number = number.ok_or_else(|| format!("{PROGRAM} printed no figure: {}", printed.trim()))?;
    Ok(if measure.is_rate() { number * MIB } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_ucx_prints() {
        let printed = "iterations,50.0_percentile_lat,avg_lat,overall_lat,avg_bw,overall_bw,avg_mr,overall_mr
 100,795.000,1886.320,1886.320,33.13,33.25,535,535\n";
        assert_eq!(value(printed, Measure::Read).unwrap(), 33.25 * MIB);
        assert_eq!(value(printed, Measure::ReadLatency).unwrap(), 795.0);
        assert!(value("Failed to run test", Measure::Read).unwrap_err().to_string().contains("Failed to run test"));
    }
}
