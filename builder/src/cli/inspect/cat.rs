//! `imgtool inspect cat`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use imgrun::{Result, interrupt};
use imgtool::inspect::{failed, open};

use super::out::Out;

/// Bytes read at once.
const PIECE_BYTES: usize = 1 << 20;

/// Write a file's content to standard output.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// A file with an ext4 file system.
    image: PathBuf,
    /// The file in it; symbolic links are followed.
    path: OsString,
}

impl Args {
    pub(super) fn run(self) -> Result<()> {
        let failed = failed(&self.image);
        let mut reader = open(&self.image)?;
        let file = reader.find(self.path.as_bytes(), true).map_err(&failed)?;
        let mut content = reader.content(&file).map_err(&failed)?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut out = Out::new();
        while !out.is_closed() {
            interrupt::check()?;
            match content.fill(&mut piece).map_err(&failed)? {
                0 => break,
                count => out.bytes(&piece[..count])?,
            }
        }
        out.finish()
    }
}
