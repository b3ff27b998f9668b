//! TUF metadata (The Update Framework, specification 1.0.33), the reading half: who may sign, what
//! was signed, and how old it may be. Nothing here holds a private key.
//!
//! Our own and not the crate tough, whose file format this is: tough writes its memory without
//! fsync, rename or lock, loads a repository only as a whole (a publisher also has to look at the
//! numbered files that no timestamp names yet), checks what it has re-serialized instead of the
//! bytes that were signed, passes 88 of the 113 cases of TUF's conformance suite, and would bring
//! imgrun thirty crates. What is left is small, and python-tuf and that suite judge it.
//!
//! ```text
//! role       what the four roles sign           key      public keys, signatures, envelopes
//! canonical  the bytes that are signed          memory   what this host has seen
//! client     from the root to today's targets   time     dates
//! ```
//! Ed25519 is what we make; P-256 and RSA are read. Delegations are not followed.

mod canonical;
mod client;
mod key;
mod memory;
mod role;
pub mod time;

pub use canonical::canonical;
pub use client::{Clock, Fetch, Trusted, next_root, open, refresh};
pub use key::{Envelope, KeyId, KeyVal, PublicKey, Signature, to_hex};
pub use memory::{Memory, State};
pub use role::{
    MetaFile, Role, RoleKeys, Root, SNAPSHOT, SPEC_VERSION, Signed, Snapshot, TARGETS, Target,
    Targets, Time, Timestamp,
};
