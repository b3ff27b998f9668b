//! The `imgtool` program.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use imgrun::terminal::{self, Style};

#[derive(Parser)]
#[command(version, about)]
enum Command {
    Kernel(cli::kernel::Args),
}

#[allow(clippy::print_stderr)]
fn main() -> ExitCode {
    let progress = terminal::progress(Style::Auto);
    let result = imgrun::interrupt::install().and_then(|()| match Command::parse() {
        Command::Kernel(args) => args.run(&progress),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("imgtool: {error}");
            if let Some(hint) = error.hint_text() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.class().exit_code())
        }
    }
}
