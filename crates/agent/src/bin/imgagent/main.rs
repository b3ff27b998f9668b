//! The guest agent: one static program. As PID 1 it sets the machine up first; beside the image's
//! own init it only serves. It trusts the host, and nothing in it waits without a limit.

mod accounts;
mod boot;
mod clock;
mod cmdline;
mod command;
mod console;
mod disk;
mod host;
mod identity;
mod network;
mod overlay;
mod port;
mod ports;
mod power;
mod serve;
mod spawn;
mod sys;
mod volume;

use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::process::ExitCode;

use agent::InitKind;
use port::Port;
use rustix::fs::Mode;
use serve::{Server, Setting};

/// Bytes of a copy on their way.
const STREAM_BYTES: usize = 64 * 1024;

const USAGE: &str =
    "usage: imgagent serve [--socket PATH] | send PATH | receive TO NAME | ports | --version";

fn main() -> ExitCode {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::close_inherited_on_exec();
    if std::process::id() == 1 {
        boot::run();
    }
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let args: Vec<_> = args.iter().map(|a| a.to_str().unwrap_or_default()).collect();
    let served = match args[..] {
        ["serve"] => serve_port(),
        ["serve", "--socket", path] => serve_socket(Path::new(path)),
        ["send", path] => send(Path::new(path)),
        ["receive", to, name] => receive(Path::new(to), name),
        ["ports"] => ports::lines().and_then(|lines| console::write(lines.as_bytes())),
        ["--version"] => {
            console::print(env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => Err(USAGE.to_string()),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            console::say(&why);
            ExitCode::FAILURE
        }
    }
}

/// As a command of `imgrun cp`.
fn send(path: &Path) -> Result<(), String> {
    let mut out = BufWriter::with_capacity(STREAM_BYTES, std::io::stdout().lock());
    agent::copy::send(path, &mut out).map(drop).map_err(|e| e.to_string())
}

/// As a command of `imgrun cp`, which is trusted as every host is.
fn receive(to: &Path, name: &str) -> Result<(), String> {
    let mut input = BufReader::with_capacity(STREAM_BYTES, std::io::stdin().lock());
    agent::copy::receive(to, name.as_bytes(), true, &mut input).map(drop).map_err(|e| e.to_string())
}

/// As a unit of the image's systemd.
fn serve_port() -> Result<(), String> {
    let port = port::open(cmdline::read()?.vsock)?;
    Server::new(port, Setting::Unit).and_then(|s| s.run()).map_err(|e| format!("serving: {e}"))
}

/// For tests on a developer's machine: no virtual machine, and no power to switch off.
fn serve_socket(path: &Path) -> Result<(), String> {
    let named = |e| format!("{}: {e}", path.display());
    let stream = std::os::unix::net::UnixStream::connect(path).map_err(named)?;
    stream.set_nonblocking(true).map_err(named)?;
    Server::new(Port { stream: stream.into(), listener: None }, Setting::Socket)
        .and_then(|s| s.run())
        .map_err(named)
}

impl Setting {
    /// Who is PID 1, for the host.
    fn init(self) -> InitKind {
        match self {
            Setting::Init => InitKind::Agent,
            Setting::Unit | Setting::Socket => InitKind::Systemd,
        }
    }
}
