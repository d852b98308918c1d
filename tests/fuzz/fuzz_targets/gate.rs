//! Any bytes of a client and a server against `properties::gate`, which says what must hold.
#![no_main]

#[allow(dead_code)] // Each target checks one of the properties.
#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::gate(bytes));
