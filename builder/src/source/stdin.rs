//! A root file system as a tar on standard input, spooled into a draft of the cache: layers are read
//! from disk, some of them twice.

use std::io::{self, Read};
use std::os::fd::AsFd;

use imgrun::{Progress, Unit, interrupt};
use rustix::event::{PollFd, PollFlags, poll};

use super::{LAYER_BYTES_MAX, Resolved};
use crate::cache::{Cache, Draft};
use crate::{Error, Result};

/// Read in pieces of this many bytes.
const PIECE_BYTES: usize = 256 << 10;
/// What errors call it.
const NAME: &str = "standard input";

/// A source and the file it is in, which is gone when this is dropped.
#[derive(Debug)]
pub struct Spooled {
    /// The one layer.
    pub source: Resolved,
    /// Where its bytes are.
    pub draft: Draft,
}

/// Reads `input`, a tar that may be compressed, to its end.
///
/// # Errors
/// Where it is a terminal, empty, no tar, or longer than a layer may be; where the disk is full.
pub fn resolve(
    input: &(impl AsFd + ?Sized),
    cache: &Cache,
    progress: &Progress,
) -> Result<Spooled> {
    let input = input.as_fd();
    if rustix::termios::isatty(input) {
        return Err(Error::usage(format!("{NAME} is a terminal: a tar is wanted")));
    }
    let stage = progress.stage(format!("read {NAME}"), Unit::Bytes, None);
    let mut draft = cache.draft()?;
    let mut file = std::fs::File::from(input.try_clone_to_owned().map_err(about)?);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        wait(&file)?;
        let n = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(about(e)),
        };
        if draft.bytes() + n as u64 > LAYER_BYTES_MAX {
            return Err(Error::input(format!("{NAME}: more than {LAYER_BYTES_MAX} bytes")));
        }
        draft.append(&piece[..n])?;
        stage.add(n as u64);
    }
    let (bytes, digest) = (draft.bytes(), draft.digest());
    let source = super::single(NAME.into(), NAME.into(), draft.path(), bytes, digest)?;
    stage.finish(digest.to_string());
    Ok(Spooled { source, draft })
}

fn about(error: io::Error) -> Error {
    Error::io(NAME, error)
}

/// Until there is something to read, or a signal.
fn wait(file: &std::fs::File) -> Result<()> {
    loop {
        interrupt::check()?;
        let mut fds = vec![PollFd::new(file, PollFlags::IN)];
        let signalled = interrupt::fd();
        if let Some(fd) = &signalled {
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) if !fds[0].revents().is_empty() => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(about(e.into())),
        }
    }
}
