//! Saving a machine while it runs: its memory, its devices and its disk, all of one instant.
//!
//! ```text
//! copy memory and disk -> the agent has heard all -> stop -> state | what changed -> go on
//!      it runs                                      '-------- it stands still ------'
//! ```
//! Nothing is asked of the guest's file systems. What they have not written yet is in the memory
//! that is saved with the disk, and a copy goes on with both; only a cold start of that disk would
//! find it as after a power cut, which ext4's journal is for.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Machine;
use crate::replica::Replica;
use crate::vmm::{Monitor, Vmm};
use crate::{Error, Result};

/// The machine's memory; nothing but a hole where that is in the state.
pub(crate) const MEMORY: &str = "memory";
/// Its processors and devices.
pub(crate) const STATE: &str = "state";
/// Its upper disk.
pub(crate) const UPPER: &str = "upper.ext4";

/// A machine that was saved.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    /// How long it stood still.
    pub(crate) pause: Duration,
    /// The VMM's version, as it says it.
    pub(crate) vmm: String,
}

impl Machine {
    /// Writes [`MEMORY`], [`STATE`] and [`UPPER`] of this instant to the directory `into`, where
    /// none of them is. The machine goes on, also where that fails; where the future is dropped
    /// [`Machine::shutdown`] is what is left to do.
    ///
    /// # Errors
    /// `Guest` where its agent does not answer or is too old to go on as a copy; `Host` where
    /// something can not be written, or the VMM refuses.
    pub(crate) async fn save(&self, into: &Path) -> Result<Saved> {
        if !self.volumes.is_empty() {
            // Its copies would all have them.
            return Err(Error::usage("a machine that has volumes can not be saved"));
        }
        if self.vmm.vmm() != Vmm::Qemu {
            let why = format!("machines of {} can not be saved", self.vmm.program());
            return Err(Error::host(why).hint("start it with --vmm qemu"));
        }
        if !self.guest.ack().restores {
            let why = "the agent in the image can not go on as a copy of itself";
            return Err(Error::guest(why).hint("build the image with this version's imgtool"));
        }
        let path = into.join(STATE);
        let state = File::options().write(true).create_new(true).mode(0o600).open(&path);
        let state = state.map_err(|e| Error::io(path.display(), e))?;
        let copies = self.copy(into).await?;
        let mut monitor = self.monitor.lock().await;
        monitor.unbridle().await?;
        monitor.take_file(state.as_fd()).await?;
        let vmm = monitor.version().await?;
        // Bytes that arrived while the machine stands still would change its memory.
        let quiet = self.guest.quiet().await?;
        let began = Instant::now();
        self.stopped.store(true, Ordering::Relaxed);
        let frozen = freeze(&mut monitor, copies).await;
        let goes_on = monitor.go_on().await;
        self.stopped.store(goes_on.is_err(), Ordering::Relaxed);
        let pause = began.elapsed();
        drop(quiet);
        frozen?;
        goes_on?;
        Ok(Saved { pause, vmm })
    }

    /// Copies the memory and the disk of a machine that runs.
    async fn copy(&self, into: &Path) -> Result<[Replica; 2]> {
        let memory = self.memory.try_clone();
        let memory = memory.map_err(|e| Error::host("the machine's memory").because(e))?;
        let upper = File::open(&self.upper).map_err(|e| Error::io(self.upper.display(), e))?;
        let (to_memory, to_upper) = (into.join(MEMORY), into.join(UPPER));
        blocking(move || {
            let memory = Replica::create(memory, &to_memory)?;
            // The VMM flushes it when it stops: most of that can be done before.
            upper.sync_data().map_err(|e| Error::io(to_upper.display(), e))?;
            Ok([memory, Replica::create(upper, &to_upper)?])
        })
        .await
    }
}

/// Stops the machine and saves it; it is for the caller to let it go on.
async fn freeze(monitor: &mut Monitor, copies: [Replica; 2]) -> Result<()> {
    monitor.stop().await?;
    let changed = blocking(move || copies.iter().try_for_each(Replica::update));
    let (saved, changed) = tokio::join!(monitor.save(), changed);
    saved.and(changed)
}

/// Does work that waits for disks on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::new(crate::Class::Bug, "a thread failed").because(e)))
}
