//! Steps: each is a function from the image so far to a layer.
//!
//! A layer is a tar like those that the source came as, so the finished image is one flatten of
//! the source's layers, the steps' and the agent's, and owners, whiteouts and links have one
//! meaning. Neighbouring steps that only touch files make one layer together ([`Work::Files`]);
//! a command makes one by itself.
//!
//! | work | reads | makes its layer of |
//! |---|---|---|
//! | files | the image so far, an ext4 file that is never mounted | edits kept in memory |
//! | run, packages | the same file, booted read-only by our own runtime | the upper disk of the machine |
//!
//! A stage's key is the digest of its [`Stage::parts`]: what the steps mean, the digests of what
//! they copy, the layers below, the agent, kernel and procedures that run them. A layer is kept in
//! the cache under that key, so what did not change is not done again; where a changed step makes
//! the same layer as before, what stands above it is found, too.

mod account;
mod base;
mod files;
mod firstboot;
mod host;
mod layer;
mod machine;
pub mod namespace;
mod packages;
mod shell;
mod stage;
mod todisk;
mod unit;
mod unpack;
mod upper;
mod view;

pub use machine::{Executor, OnError, Secret};
pub use stage::{Difference, Outcome, Part, Seen, Site, Stage, Stages, Work};
