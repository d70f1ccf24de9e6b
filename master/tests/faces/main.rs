//! The HTTP faces, over real sockets.

mod connections;
mod engine;
mod http;
mod metrics;
mod mooncake;
mod openapi;
mod real;
