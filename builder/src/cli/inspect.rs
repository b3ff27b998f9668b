//! `imgtool inspect …`: what is in an ext4 image, without mounting it.

mod cat;
mod compare;
mod list;
mod out;
mod stat;
mod summary;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use imgrun::{Progress, Result};

pub(crate) use compare::{line, object};

/// Look into an ext4 image, without root and without mounting it: a summary, or what a verb says.
///
/// Reads what imgtool, mke2fs and the kernel write, and checks every checksum of metadata: damage to
/// it is an error, never a wrong answer (contents have no checksums in ext4). Control characters in
/// names are shown as escapes.
#[derive(clap::Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = HELP
)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// A file with an ext4 file system: its sizes, counts, features, UUID and label are shown.
    #[arg(required = true)]
    image: Option<PathBuf>,
}

const HELP: &str = "\
Examples:
  imgtool inspect root.ext4
  imgtool inspect ls -lR root.ext4 /etc
  imgtool inspect cat root.ext4 /etc/os-release
  imgtool inspect diff old.ext4 new.ext4 --ignore mtime

Paths are followed as a program in the image would: symbolic links lead to places in the image.";

#[derive(Debug, Subcommand)]
enum Verb {
    Ls(list::Args),
    Stat(stat::Args),
    Cat(cat::Args),
    Diff(compare::Args),
}

impl Args {
    /// Does it; only a comparison ends with another code than 0.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<ExitCode> {
        match (self.verb, self.image) {
            (Some(Verb::Ls(args)), _) => args.run(json)?,
            (Some(Verb::Stat(args)), _) => args.run(json)?,
            (Some(Verb::Cat(args)), _) => args.run()?,
            (Some(Verb::Diff(args)), _) => return args.run(json, progress),
            (None, Some(image)) => summary::print(&image, json)?,
            (None, None) => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A path in an image as people write it: with a leading slash.
fn absolute(path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    [b"/", path].concat()
}
