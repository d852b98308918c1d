//! The gate as values in and values out: see `gate/testing.rs`.

mod corpus;
mod detect;
mod functions;
mod http1;
mod http2;
mod model;
mod open_body;
mod tls;
mod unjudged;
