//! The verbs of `imgtool`, and what they have in common.

mod access;
mod build;
mod cache;
mod catalog;
mod diff;
mod export;
mod flatten;
mod inputs;
mod inspect;
mod job;
mod kernel;
mod key;
mod lock;
mod new;
mod passphrase;
mod place;
mod plan;
mod publish;
mod render;
mod test;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use imgrun::terminal::Style;
use imgrun::{Progress, Result};

/// Builds microVM images that people trust: container images, Debian bootstraps and tarballs become
/// ext4 root file systems with a guest agent, paired with a minimal kernel, packed into bundles.
///
/// No root, no daemon, no loop device. `imgrun` runs what this builds.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    output: Output,
}

const AFTER_HELP: &str = "\
Examples:
  imgtool build --recipe recipes/debian.toml     build an image and its kernel into out/
  imgtool flatten debian:12 -o root.ext4         only flatten an image's layers into ext4
  imgtool inspect ls -l root.ext4 /etc           look into one
  imgtool kernel build generic-6.1               build only the kernel
  imgtool test out/debian-12-x86_64.tar.zst      boot it and run the recipe's tests
  imgtool publish out/*.tar.zst --to file:/srv/images   sign and publish what was built and tested
  imgrun run out/debian-12-x86_64.tar.zst -- uname -a

Exit codes: 0 done, 1 `inspect diff` found a difference or a test failed, 2 usage, 3 wrong input, 4 wrong digest or signature, 5 network,
6 this machine lacks something, 70 a bug of imgtool, 130 interrupted.";

#[derive(Debug, Subcommand)]
enum Verb {
    Build(build::Args),
    Cache(cache::Args),
    Catalog(catalog::Args),
    Diff(diff::Args),
    Explain(plan::Explain),
    Export(export::Args),
    Flatten(flatten::Args),
    Inspect(inspect::Args),
    Kernel(kernel::Args),
    Key(key::Args),
    Lock(lock::Args),
    Completions(new::Completions),
    Man(new::Man),
    New(new::Args),
    Render(render::Args),
    Schema(new::Schema),
    Verify(verify::Args),
    Outdated(lock::Outdated),
    Plan(plan::Args),
    Publish(publish::Args),
    Test(test::Args),
}

/// How progress and results are shown.
#[derive(clap::Args, Debug)]
struct Output {
    /// Print progress as JSON lines on standard error and the result as JSON on standard output.
    #[arg(long, global = true)]
    json: bool,
    /// Print errors and results only.
    #[arg(long, short, global = true, conflicts_with = "json")]
    quiet: bool,
}

impl Cli {
    /// How progress is to be shown.
    pub(crate) fn style(&self) -> Style {
        match self.output {
            Output { json: true, .. } => Style::Json,
            Output { quiet: true, .. } => Style::Quiet,
            Output { .. } => Style::Auto,
        }
    }

    /// Runs the verb; the program ends with the code.
    pub(crate) fn run(self, progress: &Progress) -> Result<ExitCode> {
        let json = self.output.json;
        match self.verb {
            Verb::Build(args) => args.run(json, progress),
            Verb::Cache(args) => args.run(json, progress),
            Verb::Catalog(args) => args.run(json, progress),
            Verb::Diff(args) => args.run(json, progress),
            Verb::Explain(args) => args.run(json, progress),
            Verb::Export(args) => args.run(json, progress),
            Verb::Flatten(args) => args.run(json, progress),
            Verb::Inspect(args) => return args.run(json, progress),
            Verb::Kernel(args) => args.run(json, progress),
            Verb::Completions(args) => args.run(),
            Verb::Man(args) => args.run(),
            Verb::New(args) => args.run(json, progress),
            Verb::Render(args) => args.run(progress),
            Verb::Schema(args) => args.run(),
            Verb::Verify(args) => return args.run(json, progress),
            Verb::Lock(args) => args.run(json, progress),
            Verb::Outdated(args) => return args.run(json, progress),
            Verb::Key(args) => args.run(json, progress),
            Verb::Plan(args) => args.run(json, progress),
            Verb::Publish(args) => args.run(json, progress),
            Verb::Test(args) => return args.run(json, progress),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

/// Prints a verb's result: the one thing that goes to standard output.
#[allow(clippy::print_stdout)]
fn print(line: impl std::fmt::Display) {
    println!("{line}");
}
