//! Catalogs and publishing, from the outside and from within: attacks, races, kills, and what other
//! programs say.

mod attacks;
mod kills;
mod races;
mod verbs;
mod world;
