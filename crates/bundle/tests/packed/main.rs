//! Packed bundles: what goes in comes out, in any order and from anywhere, and nothing else does.

mod hostile;
mod roundtrip;
mod world;
