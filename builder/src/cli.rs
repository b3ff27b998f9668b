//! The verbs of `imgtool`.

pub(crate) mod kernel;
