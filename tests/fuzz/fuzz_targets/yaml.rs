//! Any file against `properties::yaml`, which says what must hold.
#![no_main]

#[allow(dead_code)] // Each target checks one of the properties.
#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::yaml(bytes));
