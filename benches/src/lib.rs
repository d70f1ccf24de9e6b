//! Loads, traces and reports.
