//! Waiting for asynchronous work, until it is done or the user has had enough.

use std::future::Future;

use crate::interrupt;
use tokio::runtime::Runtime;

use crate::{Error, Result};

/// A runtime within the calling thread.
///
/// # Errors
/// [`crate::Class::Host`] where none can be made.
pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::host("start an asynchronous runtime").because(e))
}

/// An event loop that can be dropped anywhere: tokio's own waits for its threads (names are looked up
/// on one), which is forbidden within asynchronous code.
#[derive(Debug)]
pub(crate) struct Loop(Option<Runtime>);

impl Loop {
    pub(crate) fn start() -> Result<Self> {
        Ok(Loop(Some(runtime()?)))
    }

    pub(crate) fn get(&self) -> Result<&Runtime> {
        self.0.as_ref().ok_or_else(|| Error::bug("the event loop has ended"))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Runs to the end or to a signal.
///
/// # Errors
/// Those of `work`, and [`crate::Class::Interrupted`] after a signal.
pub fn run<T>(runtime: &Runtime, work: impl Future<Output = Result<T>>) -> Result<T> {
    interrupt::check()?;
    runtime.block_on(async {
        tokio::select! {
            result = work => result,
            () = signalled() => Err(Error::interrupted()),
        }
    })
}

/// Returns when a signal has come; never where none can be waited for.
async fn signalled() {
    // A socket that becomes readable. It is ours alone, but for its mode, which nobody minds.
    let watched = interrupt::fd().and_then(|fd| {
        let socket = std::os::unix::net::UnixStream::from(fd.try_clone_to_owned().ok()?);
        socket.set_nonblocking(true).ok()?;
        tokio::net::UnixStream::from_std(socket).ok()
    });
    match watched {
        // Any answer will do: an error must not keep a user from stopping us.
        Some(socket) => drop(socket.readable().await),
        None => std::future::pending().await,
    }
}
