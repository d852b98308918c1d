//! Egret: a node-level egress proxy for Linux.
#![deny(unsafe_code)]

pub mod relay;
pub mod sys;
