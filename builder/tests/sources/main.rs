//! The sources against real programs: umoci and skopeo make the images, Debian's docker-registry
//! serves them, skopeo judges what we read. Faults come from a proxy of our own in between.

mod bootstrap;
mod faults;
mod local;
mod proxy;
mod reach;
mod registries;
mod world;
