//! One line at a time, on the console (PID 1) or in the journal (a unit).

use std::io::Write;

/// Says `line` on standard error.
pub(crate) fn say(line: &str) {
    // With nobody to read it there is nobody to tell.
    let _ = std::io::stderr().write_all(format!("imgagent: {line}\n").as_bytes());
}

/// Writes all of `bytes` to standard output, as an answer.
pub(crate) fn write(bytes: &[u8]) -> Result<(), String> {
    let mut stdout = std::io::stdout();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|e| e.to_string())
}

/// Says `line` on standard output, as an answer.
pub(crate) fn print(line: &str) {
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}
