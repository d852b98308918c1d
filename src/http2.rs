//! stub
#![allow(missing_docs, clippy::all, dead_code)]
use crate::sniff::Name;
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
#[derive(Debug, Default)]
pub struct RequestFrames;
#[derive(Debug)]
pub struct FrameError;
#[derive(Debug)]
pub struct Claimed {
    pub name: Option<Name>,
    pub port: Option<u16>,
    pub conflict: bool,
    pub method: Vec<u8>,
    pub path: Vec<u8>,
}
#[derive(Debug)]
pub enum FrameStep {
    NeedMore,
    Pass { bytes: usize },
    SettingsAck { bytes: usize },
    Request { bytes: usize, stream: u32, claimed: Claimed },
    Refused(FrameError),
}
impl RequestFrames {
    pub fn next(&mut self, _b: &[u8]) -> FrameStep {
        FrameStep::Refused(FrameError)
    }
}
#[derive(Debug, Default)]
pub struct FrameBoundary;
impl FrameBoundary {
    pub fn passed(&mut self, _b: &[u8]) {}
    pub fn to_boundary(&self) -> usize {
        0
    }
}
pub enum ErrorCode {
    NoError,
}
pub fn goaway(_s: u32, _c: ErrorCode) -> [u8; 17] {
    [0; 17]
}
pub fn answer(_s: u32, _c: u16) -> Vec<u8> {
    vec![]
}
