//! The `imgrun` program.
fn main() {}
