//! A file that goes to the disk while it is written: nobody has to wait for all of it at the end.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// So much is left to the system's own pace, bytes.
const AHEAD_BYTES: u64 = 32 << 20;

/// Writes to a file and asks for what was written to be settled, every [`AHEAD_BYTES`].
pub(super) struct Settling<'f> {
    file: &'f File,
    unasked: u64,
    ask: SyncSender<()>,
}

/// Lets `work` write `file`, which a thread syncs meanwhile.
///
/// # Errors
/// Those of `work`, and where the disk refused what was written.
pub(super) fn settled<T>(
    file: &File,
    work: impl FnOnce(Settling<'_>) -> Result<T, bundle::Error>,
) -> Result<T, bundle::Error> {
    thread::scope(|scope| {
        let (ask, asked) = sync_channel(1);
        let settler = scope.spawn(move || asked.into_iter().try_for_each(|()| file.sync_data()));
        let done = work(Settling { file, unasked: 0, ask })?;
        // The asking end went with the writer.
        settler.join().map_err(|_| io::Error::other("a thread ended early"))??;
        Ok(done)
    })
}

impl Write for Settling<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.unasked += written as u64;
        if self.unasked >= AHEAD_BYTES {
            self.unasked = 0;
            // Where it is still busy with the last, the next time is early enough; where it has
            // failed, it says so at the end.
            let _ = self.ask.try_send(());
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Settling<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
