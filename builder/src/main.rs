//! The `imgtool` program: reads the command line, runs one verb, says how it ended.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use imgrun::{interrupt, terminal};

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let style = cli.style();
    let progress = terminal::progress(style);
    let result = interrupt::install().and_then(|()| cli.run(&progress));
    match result {
        Ok(code) => code,
        Err(error) => {
            // Whatever failed because the user pressed Ctrl-C is not the news.
            let error = if interrupt::interrupted() { imgrun::Error::interrupted() } else { error };
            terminal::failure("imgtool", style, &error);
            ExitCode::from(error.class().exit_code())
        }
    }
}
