//! The suites of `sluice-perf`: each measures one thing and returns a report.
