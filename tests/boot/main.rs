//! Tests that boot machines.
