//! A shell in the machine whose command failed, on our terminal or from a pipe.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;

use imgrun::{Exec, Machine, Output, Status, Terminal};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

use crate::{Error, Result};

/// Read from the terminal at once.
const READ_BYTES: usize = 4096;

/// Opens it and returns when it ends. What it writes goes to standard error: standard output is for
/// results.
pub(super) async fn open(machine: &Machine, environment: &[String], why: &Error) -> Result<()> {
    let terminal = std::io::stdin().is_terminal().then(size);
    let mut env: Vec<Vec<u8>> = environment.iter().map(|e| e.clone().into_bytes()).collect();
    if let Ok(term) = std::env::var("TERM") {
        env.push(format!("TERM={term}").into_bytes());
    }
    let exec = Exec {
        argv: vec![b"/bin/sh".to_vec()],
        env,
        cwd: Some(b"/".to_vec()),
        terminal,
        stdin: true,
        ..Exec::default()
    };
    let said = why.detail_text().map(|text| format!("{text}\n")).unwrap_or_default();
    show(format!("{said}{why}: a shell where it failed; `exit` ends it\n").as_bytes())?;
    let mut running = machine.exec(exec).await.map_err(|e| e.error)?;
    let _raw = terminal.map(|_| Raw::enter()).transpose()?;
    let stdin = running.stdin.take();
    let typed = async move {
        let Some(mut to) = stdin else { return Ok(()) };
        let mut from = typing();
        while let Some(bytes) = from.recv().await {
            if !to.write(&bytes).await? {
                break;
            }
        }
        Ok(())
    };
    let control = running.control();
    let ended = async {
        let (exit, out, err) =
            tokio::join!(control.wait(), pass(&mut running.stdout), pass(&mut running.stderr));
        out.and(err)?;
        exit
    };
    tokio::pin!(ended);
    let exit = tokio::select! {
        exit = &mut ended => exit?,
        typed = typed => {
            let typed: Result<()> = typed;
            typed?;
            ended.await?
        }
    };
    match exit.status {
        Status::Code(_) => Ok(()),
        Status::Signal(signal) => Err(Error::guest(format!("signal {signal} ended the shell"))),
    }
}

/// Standard input, read by a thread that nobody waits for: it may never end.
fn typing() -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(n @ 1..) = std::io::stdin().read(&mut buffer) {
            if send.blocking_send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    receive
}

async fn pass(output: &mut Output) -> Result<()> {
    while let Some(bytes) = output.read().await? {
        show(&bytes)?;
    }
    Ok(())
}

fn show(bytes: &[u8]) -> Result<()> {
    let mut err = std::io::stderr();
    err.write_all(bytes).and_then(|()| err.flush()).map_err(|e| Error::io("standard error", e))
}

fn size() -> Terminal {
    const DEFAULT: Terminal = Terminal { rows: 24, cols: 80 };
    let found = tcgetwinsize(std::io::stdin().as_fd());
    found.map_or(DEFAULT, |size| Terminal { rows: size.ws_row, cols: size.ws_col })
}

/// Our terminal, which passes every key on until this is dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Raw> {
        let about = |e: rustix::io::Errno| Error::host("the terminal").because(e);
        let before = tcgetattr(std::io::stdin().as_fd()).map_err(about)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &raw).map_err(about)?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.0);
    }
}
