//! Where passphrases come from: the environment, else the terminal.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};

use imgrun::{Error, Result};
use rustix::termios::{self, LocalModes, OptionalActions, Termios};

/// Holds the passphrase of all keys.
pub(crate) const VARIABLE: &str = "IMGTOOL_KEY_PASSPHRASE";

/// The passphrase of the key `name`.
pub(crate) fn ask(name: &str) -> Result<String> {
    match std::env::var(VARIABLE) {
        Ok(passphrase) => Ok(passphrase),
        Err(_) => prompt(&format!("passphrase of key {name}: ")),
    }
}

/// A passphrase for the new key `name`.
pub(crate) fn ask_new(name: &str) -> Result<String> {
    if let Ok(passphrase) = std::env::var(VARIABLE) {
        return Ok(passphrase);
    }
    let first = prompt(&format!("passphrase for the new key {name}: "))?;
    if first.is_empty() {
        return Err(Error::usage("an empty passphrase protects nothing")
            .hint("--no-passphrase makes a key without one"));
    }
    match prompt("the same again: ")? == first {
        true => Ok(first),
        false => Err(Error::usage("the two passphrases differ")),
    }
}

/// Restores the terminal, whatever happens.
struct Quiet<'a>(&'a File, Termios);

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(self.0, OptionalActions::Now, &self.1);
    }
}

fn prompt(question: &str) -> Result<String> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let mut tty = opened.map_err(|e| {
        Error::host("no terminal to ask for a passphrase")
            .because(e)
            .hint(format!("set {VARIABLE}"))
    })?;
    let about = |e: std::io::Error| Error::io("the terminal", e);
    let before = termios::tcgetattr(&tty).map_err(|e| about(e.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    tty.write_all(question.as_bytes()).map_err(about)?;
    let mut answer = String::new();
    {
        termios::tcsetattr(&tty, OptionalActions::Flush, &silent).map_err(|e| about(e.into()))?;
        let _quiet = Quiet(&tty, before);
        BufReader::new(&tty).read_line(&mut answer).map_err(about)?;
    }
    imgrun::interrupt::check()?;
    Ok(answer.trim_end_matches(['\n', '\r']).to_string())
}
