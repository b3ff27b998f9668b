//! imgrun: boots microVM bundles, runs commands in them, throws the machines away.
//!
//! # The life of a machine
//!
//! ```text
//! packed file --Store::import--> Stored --+
//! kernel      --Store::kernel--> Kernel --+--> Spec --Machine::boot--> Machine --exec--> Running
//! /dev/kvm    --choose_accel---> Accel  --+     |                         |                |
//!                                        launch (pure: a command line)  kill, drop    streams, wait
//! ```
//!
//! 1. A [`Store`] takes packed bundles in ([`Store::import`]: whole or not at all) and finds the
//!    kernel that an image names ([`Store::kernel`]).
//! 2. [`choose_accel`] decides by evidence ([`KvmEvidence`]) who will execute the guest, and says
//!    in one line why where that is not the processor.
//! 3. A [`Spec`] is a value; [`launch`] turns it into a command line without doing anything.
//! 4. [`Machine::boot`] makes the machine's directory and its upper disk, starts the VMM as a
//!    child, greets the agent over a socket pair, and returns when the agent has answered. A
//!    kernel panic, a VMM that ends and a guest that stays silent are errors of their own, with
//!    the console's last lines.
//! 5. [`Machine::exec`] gives a [`Running`] command: standard input, output and error apart and
//!    exact, signals, the exit.
//! 6. Dropping the [`Machine`] kills the VMM, waits for it and removes the directory; dropping any
//!    future on the way here does the same. If this process is killed, the kernel kills the VMM,
//!    and the next [`Store::open`] removes the directory.
//!
//! Machines with a name stay ([`kept`]): each has a process of its own, the [`Supervisor`], whose
//! socket passes the agent's protocol on, so a client's [`Guest`] is the same as the owner's.
//!
//! A machine that runs can be saved ([`Snapshot`]) and go on as any number of others: each has a
//! session only once its agent has made it a machine of its own.
//!
//! The guest is never trusted: what it sends is checked and bounded, and what it says is made
//! harmless before it is shown. This library prints nothing; what it has to say while it works
//! goes to a [`Progress`].
//!
//! ```no_run
//! use std::path::Path;
//! use imgrun::*;
//!
//! # async fn example() -> Result<()> {
//! let (store, quiet, cancel) = (Store::open("/var/lib/me")?, Progress::silent(), Cancel::new());
//! let image = store.import(Path::new("debian-12-x86_64.tar.zst"), &quiet, &cancel)?.bundle;
//! let kernel = store.kernel(&image, None, Some(Path::new(".")), &quiet, &cancel)?;
//! let accel = choose_accel(AccelChoice::Auto, image.manifest.arch, || KvmEvidence::gather(false))?.accel;
//! let spec = Spec::new(&image, &kernel, accel);
//! let machine = Machine::boot(&store, &spec, boot_max(accel)).await?;
//! let exec = Exec { argv: vec![b"uname".to_vec(), b"-a".to_vec()], ..Exec::default() };
//! let mut uname = machine.exec(exec).await.map_err(|not_run| not_run.error)?;
//! let answer = uname.stdout.read_to_end(1 << 20).await?;
//! assert_eq!(uname.wait().await?.status, Status::Code(0));
//! # drop(answer); Ok(()) }
//! ```
//! Run it on a current-thread runtime: see [`Machine::boot`].
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod accel;
pub mod cache;
mod cancel;
pub mod catalog;
mod console;
pub mod container;
pub mod date;
pub mod depot;
mod disk;
mod doctor;
mod error;
pub mod fault;
pub mod feed;
mod guest;
pub mod image;
pub mod inject;
pub mod interrupt;
pub mod kept;
mod kvm;
pub mod layer;
mod lease;
mod log;
mod machine;
mod network;
pub mod oci;
pub mod offer;
pub mod packages;
pub mod patience;
mod progress;
pub mod pull;
mod replica;
pub mod retry;
pub mod rootfs;
pub mod sbom;
mod snapshot;
mod spec;
mod store;
mod supervisor;
pub mod sync;
pub mod tar;
pub mod terminal;
pub mod tool;
mod tsc;
pub mod tuf;
mod vmm;
pub mod volume;

pub use accel::{AccelChoice, Decision, RING0_RATE_MIN, choose as choose_accel};
pub use agent::copy::Copied;
pub use agent::listening::{Listener, Transport};
pub use agent::{Exec, Exit, FaultCode, Status, Terminal};
pub use cancel::Cancel;
pub use console::printable;
pub use disk::Upper;
pub use doctor::{Check, Health, examine};
pub use error::{Class, EXIT_NOT_RUN, EXIT_TIMED_OUT, Error, Result};
pub use guest::{Control, Finished, Guest, NotRun, Output, Running, Stdin, Wish, check_exec};
pub use kvm::{Evidence as KvmEvidence, Guest as KvmGuest};
pub use machine::{BOOT_MAX_KVM, BOOT_MAX_TCG, Machine, boot_max};
pub use network::{Forward, NAMESERVER, Network};
pub use progress::{Event, Progress, Stage, Unit};
pub use snapshot::{About, Snapshot};
pub use spec::{
    Accel, CMDLINE_BYTES_MAX, CPUS_MAX, HOSTNAME_BYTES_MAX, Hostname, MEMORY_MIB_DEFAULT,
    MEMORY_MIB_MAX, MEMORY_MIB_MIN, Spec, UPPER_BYTES_DEFAULT,
};
pub use store::{
    Container, Damage, Garbage, Hold, Imported, KEEP_DEFAULT, KERNEL_DEFAULT, Kernel, KernelNaming,
    Store, Stored,
};
pub use supervisor::Supervisor;
pub use tool::Tool;
pub use tsc::tsc_khz;
pub use vmm::{Launch, Place, Reach, Vmm, VmmChoice, choose as choose_vmm, launch};
