//! Egret: a node-level egress proxy for Linux.
#![deny(unsafe_code)]

pub mod admission;
pub mod app;
pub mod check;
pub mod config;
pub mod control;
pub mod drain;
pub mod http1;
pub mod identity;
pub mod load;
pub mod mailbox;
pub mod metrics;
pub mod prefix;
pub mod problem;
pub mod registry;
pub mod relay;
pub mod sniff;
pub mod sys;
pub mod worker;
pub mod workload;
pub mod yaml;
