//! Catalogs and publishing, from the outside and from within: attacks, races, kills, and what other
//! programs say.

mod attacks;
mod chunked;
mod contract;
mod judges;
mod kills;
mod prunes;
mod races;
mod servers;
mod succession;
mod tested;
mod verbs;
mod world;
