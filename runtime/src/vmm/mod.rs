//! Programs that run machines. A VMM is a child process: what to start is a value that can be
//! printed and tested ([`launch`]), starting it is another step.
//!
//! The child inherits socket pairs and no path: its standard input is the agent's port, its
//! standard output the console. There is no socket file that could be too long for `sun_path`, be
//! left behind, or be connected to by somebody else.

mod child;
mod monitor;
mod qemu;

use std::fmt;
use std::path::Path;

use crate::{Spec, Upper};

pub(crate) use child::{Child, Ends};
pub(crate) use monitor::Monitor;
pub(crate) use qemu::{binary, cpu};

/// Where a machine has a network, the VMM writes what the guest sends to this descriptor,
pub(crate) const GUARD_OUT_FD: i32 = 900;
/// and reads from this one what may pass. Numbers that no process of ours has come to: so nothing
/// is lost when the child puts its ends there.
pub(crate) const GUARD_IN_FD: i32 = 901;
/// Here it listens to us,
pub(crate) const MONITOR_FD: i32 = 902;
/// and this is the machine's memory: ours, too, so that it can be copied.
pub(crate) const MEMORY_FD: i32 = 903;

/// What to start: a program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The program, to be looked up in `PATH`.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
}

/// What to start for `spec`, with the upper disk `upper` where there is one. Pure.
pub fn launch(spec: &Spec, upper: Option<&Upper>) -> Launch {
    qemu::launch(spec, upper, None)
}

/// What to start for a machine that is to go on from a state, as [`launch`], with `memory`: a file
/// that stays as it is. Pure.
pub(crate) fn relaunch(spec: &Spec, upper: &Upper, memory: &Path) -> Launch {
    qemu::launch(spec, Some(upper), Some(memory))
}

impl fmt::Display for Launch {
    /// As a shell would take it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)?;
        for arg in &self.args {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:".contains(c);
            if !arg.is_empty() && arg.chars().all(plain) {
                write!(f, " {arg}")?;
            } else {
                write!(f, " '{}'", arg.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}
