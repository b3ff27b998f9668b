//! `imgtool new`, `schema`, `completions` and `man`: what a person starts with.

use std::io::Write;
use std::path::PathBuf;

use bundle::Name;
use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use imgrun::{Progress, Result};
use imgtool::{Error, recipe};

/// Write a recipe to begin with: NAME.toml, with every key that one usually wants.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The image's name.
    name: Name,
    /// Where its root file system comes from.
    #[arg(long, value_name = "SOURCE", default_value = "bootstrap")]
    from: From,
    /// Where the recipe goes.
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    /// Debian packages.
    Bootstrap,
    /// An image in a registry.
    Oci,
    /// A tar of a root file system.
    Tarball,
}

/// Print the recipe language as a JSON Schema, for editors.
///
/// Put it beside your recipes and name it in their first line, as in `#:schema recipe.schema.json`:
/// editors with a TOML language server (taplo) then complete and check keys.
#[derive(clap::Args, Debug)]
pub(crate) struct Schema {}

/// Print a completion script for a shell.
///
/// For bash: imgtool completions bash > ~/.local/share/bash-completion/completions/imgtool
#[derive(clap::Args, Debug)]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

/// Write manual pages: imgtool.1 and one for each verb.
#[derive(clap::Args, Debug)]
pub(crate) struct Man {
    /// The directory they go to; made if it is not there.
    #[arg(default_value = "man")]
    directory: PathBuf,
}

const TEMPLATE: &str = include_str!("../../../templates/recipe.toml");

impl Args {
    /// Writes it, in place of nothing, and prints its path.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let source = match self.from {
            From::Bootstrap => {
                "[source.bootstrap]\nsuite = \"bookworm\"\nvariant = \"minbase\"\npackages = [\"ca-certificates\", \"curl\"]"
            }
            From::Oci => "[source]\noci = \"docker.io/library/debian:12\"",
            From::Tarball => "[source]\ntarball = \"root.tar.gz\"",
        };
        let text = TEMPLATE.replace("@NAME@", self.name.as_str()).replace("@SOURCE@", source);
        let path = self.output.join(format!("{}.toml", self.name));
        // What we write is right, or this is the place to know.
        recipe::Recipe::parse(&text, &path).map_err(|e| Error::bug("the template").because(e))?;
        let about = |e| Error::io(path.display(), e);
        std::fs::create_dir_all(&self.output).map_err(about)?;
        let made = std::fs::File::create_new(&path);
        made.and_then(|mut file| file.write_all(text.as_bytes())).map_err(about)?;
        progress.note(format!("build it: imgtool build --recipe {}", path.display()));
        match json {
            true => super::print(serde_json::json!({ "path": path })),
            false => super::print(path.display()),
        }
        Ok(())
    }
}

impl Schema {
    /// Prints it.
    pub(crate) fn run(self) -> Result<()> {
        let text = serde_json::to_string_pretty(&recipe::schema());
        super::print(text.map_err(|e| Error::bug("the schema").because(e))?);
        Ok(())
    }
}

impl Completions {
    /// Prints it.
    pub(crate) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "imgtool", &mut script);
        super::print(String::from_utf8_lossy(&script).trim_end());
        Ok(())
    }
}

impl Man {
    /// Writes them and prints the directory.
    pub(crate) fn run(self) -> Result<()> {
        let about = |e| Error::io(self.directory.display(), e);
        std::fs::create_dir_all(&self.directory).map_err(about)?;
        clap_mangen::generate_to(super::Cli::command(), &self.directory).map_err(about)?;
        super::print(self.directory.display());
        Ok(())
    }
}
