//! `imgrun logs MACHINE` and `imgrun console MACHINE`

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imgrun::kept::{Kept, old_log};
use imgrun::{Error, Result};
use serde_json::json;

use super::Shell;

/// How often a log is looked at for more.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;
/// A line that has no end is cut here, bytes, where lines are what is printed.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Print what machines' commands have written: the last 8 MiB at least
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    #[command(flatten)]
    how: How,
}

/// Print what machines' kernels have said, as they said it
#[derive(Debug, clap::Args)]
pub(super) struct Console {
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Names of machines; of several, each line begins with its machine's
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
    /// Go on until the machines end
    #[arg(short, long)]
    follow: bool,
    /// Print each line as a JSON object; bytes that are no UTF-8 are replaced
    #[arg(long)]
    json: bool,
}

impl Logs {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        self.how.print(shell, Kept::output).await
    }
}

impl Console {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        self.how.print(shell, Kept::console).await
    }
}

/// How what is read is printed.
#[derive(Clone, Copy)]
enum Form {
    /// Every byte as it is.
    Exact,
    /// A line at a time, behind the machine's name.
    Named,
    /// A line at a time, as JSON.
    Json,
}

/// A log of a machine.
struct Log {
    kept: Kept,
    path: PathBuf,
    file: Option<File>,
    form: Form,
    /// The beginning of a line whose end is not there yet.
    partial: Vec<u8>,
}

impl How {
    async fn print(self, shell: &mut Shell, path: fn(&Kept) -> PathBuf) -> Result<()> {
        let store = shell.store().await?;
        let form = match (self.json, self.names.len()) {
            (true, _) => Form::Json,
            (false, 1) => Form::Exact,
            (false, _) => Form::Named,
        };
        let log = |name: &String| {
            let kept = Kept::get(&store, name)?;
            let (path, partial) = (path(&kept), Vec::new());
            Ok(Log { kept, path, file: None, form, partial })
        };
        let mut logs: Vec<Log> = self.names.iter().map(log).collect::<Result<_>>()?;
        for log in &mut logs {
            if !log.old()? {
                return Ok(());
            }
        }
        loop {
            let mut running = false;
            for log in &mut logs {
                // Asked before the last look: what came before the end is printed.
                let runs = self.follow && log.kept.is_running()?;
                running |= runs;
                if !log.more(!runs)? {
                    return Ok(());
                }
            }
            if !running {
                return Ok(());
            }
            let look = async {
                tokio::time::sleep(LOOK).await;
                Ok(())
            };
            shell.unless_interrupted(look).await?;
        }
    }
}

impl Log {
    /// Prints what came before the file that is written now; false where nobody reads us any more.
    fn old(&mut self) -> Result<bool> {
        let failed = |e| Error::io(self.path.display(), e);
        match open(&old_log(&self.path)).map_err(failed)? {
            Some(file) => self.copy(file),
            None => Ok(true),
        }
    }

    /// Prints what has come, also where the file is another by now; false where nobody reads us.
    fn more(&mut self, last: bool) -> Result<bool> {
        let there = open(&self.path).map_err(|e| Error::io(self.path.display(), e))?;
        let is_other = inode(&there) != inode(&self.file);
        let files = [self.file.take(), there.filter(|_| is_other)];
        for file in files.into_iter().flatten() {
            if !self.copy(file)? {
                return Ok(false);
            }
        }
        match last && !self.partial.is_empty() {
            true => self.put(b"\n"),
            false => Ok(true),
        }
    }

    /// Prints up to the end, and keeps the file; false where nobody reads us any more.
    fn copy(&mut self, mut file: File) -> Result<bool> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let n = file.read(&mut buffer).map_err(|e| Error::io(self.path.display(), e))?;
            if n == 0 {
                self.file = Some(file);
                return Ok(true);
            }
            if !self.put(&buffer[..n])? {
                return Ok(false);
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<bool> {
        let printed = match self.form {
            Form::Exact => print(bytes),
            Form::Named | Form::Json => print(&self.lines(bytes)),
        };
        match printed {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
            done => done.map(|()| true).map_err(|e| Error::io("stdout", e)),
        }
    }

    /// The lines that `bytes` complete, as they are printed.
    fn lines(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = (LINE_BYTES_MAX - self.partial.len()).min(rest.len());
            let end = rest[..room].iter().position(|&b| b == b'\n').map_or(room, |at| at + 1);
            let piece = rest.split_off(..end).unwrap_or_default();
            self.partial.extend_from_slice(piece);
            if !piece.ends_with(b"\n") && self.partial.len() < LINE_BYTES_MAX {
                continue;
            }
            let line = std::mem::take(&mut self.partial);
            let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line));
            let line = line.strip_suffix('\r').unwrap_or(&line);
            let name = self.kept.name.to_string();
            let text = match self.form {
                Form::Json => json!({ "machine": name, "line": line }).to_string(),
                Form::Exact | Form::Named => format!("{name} | {line}"),
            };
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
        }
        out
    }
}

fn print(bytes: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(bytes).and_then(|()| stdout.flush())
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
