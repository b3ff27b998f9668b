//! The agent program, built beside the test, on a socket of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use imgrun::{Exec, Guest, Status};
use tokio::net::UnixListener;

/// An agent that was told to connect to us, killed when dropped.
pub(crate) struct Agent {
    child: Child,
    listener: UnixListener,
    _dir: tempfile::TempDir,
}

impl Agent {
    pub(crate) fn start() -> Agent {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut command = Command::new(program());
        command.args(["serve", "--socket"]).arg(&socket).stdin(Stdio::null());
        Agent { child: command.spawn().unwrap(), listener, _dir: dir }
    }

    pub(crate) async fn greet(&self) -> Guest {
        let (stream, _) = within(self.listener.accept()).await.unwrap();
        within(Guest::greet(stream)).await.unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The agent, built beside this test. Cargo builds no other package's program for us.
fn program() -> PathBuf {
    let path = std::env::current_exe().unwrap();
    let target = path.parent().and_then(Path::parent).unwrap();
    let built =
        Command::new(env!("CARGO")).args(["build", "--quiet", "-p", "imgtool-agent"]).status();
    assert!(built.unwrap().success(), "the agent does not build");
    target.join("imgagent")
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("no answer in 20 s")
}

pub(crate) fn shell(script: &str) -> Exec {
    let argv = ["/bin/sh", "-c", script].map(|a| a.as_bytes().to_vec()).to_vec();
    Exec { argv, ..Exec::default() }
}

/// Runs `exec` to its end: stdout, stderr, status.
pub(crate) async fn run(guest: &Guest, exec: Exec, input: Vec<u8>) -> (Vec<u8>, Vec<u8>, Status) {
    let mut running = within(guest.exec(exec)).await.unwrap();
    let stdin = running.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            stdin.write(&input).await.unwrap();
        }
    };
    let ((), out, err) = within(async {
        tokio::join!(feed, running.stdout.read_to_end(1 << 30), running.stderr.read_to_end(1 << 30))
    })
    .await;
    let exit = within(running.wait()).await.unwrap();
    (out.unwrap(), err.unwrap(), exit.status)
}
