//! End-to-end tests: the real binary, real redirects, real namespaces.
//!
//! Each test makes a lab of its own (`lab`: a workload's pod, its node, the world outside), starts
//! the proxy in the node (`proxy`), and lets scripted peers (`peer`) talk through it. A test that
//! ends well ends with the baseline check: descriptors, threads and gauges are back where they
//! started, and the byte counters agree with what the peers counted themselves.
//!
//! They need root, or a user namespace: `scripts/lab.sh enter cargo test --test netns`. With
//! `EGRET_BINARY` set they test that program instead of the one that cargo has built.

mod beside;
mod blackhole;
mod connect;
mod drain;
mod fail_closed;
mod fail_closed_raw;
mod fail_closed_serving;
mod idle;
mod lab;
mod limits;
mod metrics;
mod names_claimed;
mod names_dns;
mod names_explain;
mod names_field;
mod names_http;
mod names_http2;
mod names_log;
mod names_matrix;
mod names_refused;
mod names_series;
mod names_slow;
mod names_tls;
mod names_wait;
mod options;
mod pattern;
mod peer;
mod programs;
mod proxy;
mod relay;
mod reload;
mod reset;
mod retry;
mod rules;
mod scrape;
mod self_call;
mod start;
mod starved;
