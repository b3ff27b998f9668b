//! The real agent on a Unix socket, driven as a host drives it.

mod client;
mod commands;
mod sessions;
