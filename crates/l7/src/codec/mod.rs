//! Protocols without I/O: bytes in, events out.

pub mod client_hello;
pub mod h1;
pub mod h2;
pub mod path;
pub mod proxy_protocol;
pub mod websocket;
