//! imgrun: boots microVM bundles, runs commands in them, throws the machines away.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod accel;
mod cancel;
mod console;
mod disk;
mod doctor;
mod error;
mod guest;
pub mod interrupt;
mod kvm;
mod lease;
mod machine;
mod progress;
mod spec;
mod store;
pub mod terminal;
pub mod tool;
mod tsc;
mod vmm;

pub use accel::{AccelChoice, Decision, RING0_RATE_MIN, choose as choose_accel};
pub use agent::{Exec, Exit, FaultCode, Status, Terminal};
pub use cancel::Cancel;
pub use doctor::{Check, Health, examine};
pub use error::{Class, EXIT_NOT_RUN, EXIT_TIMED_OUT, Error, Result};
pub use guest::{Control, Guest, NotRun, Output, Running, Stdin};
pub use kvm::{Evidence as KvmEvidence, Guest as KvmGuest};
pub use machine::{BOOT_MAX_KVM, BOOT_MAX_TCG, Machine, boot_max};
pub use progress::{Event, Progress, Stage, Unit};
pub use spec::{
    Accel, CMDLINE_BYTES_MAX, CPUS_MAX, HOSTNAME_BYTES_MAX, Hostname, MEMORY_MIB_DEFAULT,
    MEMORY_MIB_MAX, MEMORY_MIB_MIN, Network, Spec, UPPER_BYTES_DEFAULT, check_arch,
};
pub use store::{Imported, Kernel, Store, Stored};
pub use tool::Tool;
pub use tsc::tsc_khz;
pub use vmm::{Launch, launch};
