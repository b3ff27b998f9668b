//! `imgrun logs MACHINE` and `imgrun console MACHINE`

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use imgrun::kept::{Kept, old_log};
use imgrun::{Error, Result};

use super::Shell;

/// How often a log is looked at for more.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;

/// Print what a machine's command has written: the last 8 MiB at least
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// The machine's name
    machine: String,
    /// Go on until the machine ends
    #[arg(short, long)]
    follow: bool,
}

/// Print what a machine's kernel has said, as it said it
#[derive(Debug, clap::Args)]
pub(super) struct Console {
    /// The machine's name
    machine: String,
    /// Go on until the machine ends
    #[arg(short, long)]
    follow: bool,
}

impl Logs {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let kept = Kept::get(&shell.store().await?, &self.machine)?;
        print(shell, &kept, &kept.output(), self.follow).await
    }
}

impl Console {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let kept = Kept::get(&shell.store().await?, &self.machine)?;
        print(shell, &kept, &kept.console(), self.follow).await
    }
}

async fn print(shell: &mut Shell, kept: &Kept, path: &Path, follow: bool) -> Result<()> {
    let failed = |e| Error::io(path.display(), e);
    if let Some(mut old) = open(&old_log(path)).map_err(failed)?
        && !copy(&mut old).map_err(failed)?
    {
        return Ok(());
    }
    let mut log = open(path).map_err(failed)?;
    loop {
        // Asked before the last look: what came before the end is printed.
        let running = follow && kept.is_running()?;
        if let Some(file) = &mut log
            && !copy(file).map_err(failed)?
        {
            return Ok(());
        }
        if !running {
            return Ok(());
        }
        let look = async {
            tokio::time::sleep(LOOK).await;
            Ok(())
        };
        shell.unless_interrupted(look).await?;
        let there = open(path).map_err(failed)?;
        if inode(&there) != inode(&log) {
            if let Some(file) = &mut log {
                copy(file).map_err(failed)?;
            }
            log = there;
        }
    }
}

fn inode(file: &Option<File>) -> Option<u64> {
    file.as_ref().and_then(|f| f.metadata().ok()).map(|m| m.ino())
}

fn open(path: &Path) -> std::io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Copies up to the end; false where nobody reads us any more.
fn copy(file: &mut File) -> std::io::Result<bool> {
    let (mut buffer, mut stdout) = (vec![0; READ_BYTES], std::io::stdout());
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return stdout.flush().map(|()| true);
        }
        match stdout.write_all(&buffer[..n]) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(false),
            done => done?,
        }
    }
}
