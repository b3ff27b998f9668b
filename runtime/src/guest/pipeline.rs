//! Commands to their ends, with what they wrote: one, or several until one fails.

use std::time::{Duration, Instant};

use agent::{Exec, Exit, Status};

use super::{Guest, NotRun};

/// A command that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub exit: Exit,
    /// All it wrote.
    pub stdout: Vec<u8>,
    /// All it wrote to standard error.
    pub stderr: Vec<u8>,
    /// From asking for it to its end.
    pub took: Duration,
}

impl Finished {
    /// It returned 0.
    pub fn is_success(&self) -> bool {
        self.exit.status == Status::Code(0)
    }
}

impl Guest {
    /// Runs a command to its end, and keeps what it writes: at most `bytes_max` of each stream.
    /// Standard input is empty. Dropping the future kills the command.
    ///
    /// ```no_run
    /// # async fn example(guest: imgrun::Guest) -> imgrun::Result<()> {
    /// let uname = imgrun::Exec { argv: vec![b"uname".to_vec()], ..Default::default() };
    /// let done = guest.run(uname, 1 << 20).await.map_err(|not_run| not_run.error)?;
    /// assert!(done.is_success() && done.stdout == b"Linux\n");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`NotRun`] where it can not be started, writes more, or the machine ends.
    pub async fn run(&self, exec: Exec, bytes_max: usize) -> Result<Finished, NotRun> {
        let began = Instant::now();
        let mut running = self.exec(Exec { stdin: false, ..exec }).await?;
        let (stdout, stderr) = (&mut running.stdout, &mut running.stderr);
        let (stdout, stderr) =
            tokio::try_join!(stdout.read_to_end(bytes_max), stderr.read_to_end(bytes_max))?;
        let exit = running.wait().await?;
        Ok(Finished { exit, stdout, stderr, took: began.elapsed() })
    }

    /// Runs commands one after the other until one fails, and says what became of each that ran:
    /// where there are fewer results than commands, or the last is no success, it was that one.
    ///
    /// ```no_run
    /// # async fn example(machine: imgrun::Machine) -> imgrun::Result<()> {
    /// let sh = |line: &str| imgrun::Exec {
    ///     argv: [&b"sh"[..], b"-c", line.as_bytes()].map(<[u8]>::to_vec).to_vec(),
    ///     ..Default::default()
    /// };
    /// let steps = [sh("make"), sh("make test")];
    /// let done = machine.pipeline(steps, 1 << 20).await.map_err(|not_run| not_run.error)?;
    /// assert!(done.iter().all(|step| step.is_success()));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Guest::run`], for the first command that it holds for.
    pub async fn pipeline(
        &self,
        commands: impl IntoIterator<Item = Exec>,
        bytes_max: usize,
    ) -> Result<Vec<Finished>, NotRun> {
        let mut done = Vec::new();
        for command in commands {
            done.push(self.run(command, bytes_max).await?);
            if done.last().is_some_and(|last| !last.is_success()) {
                break;
            }
        }
        Ok(done)
    }
}
