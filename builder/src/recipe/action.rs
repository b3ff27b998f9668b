//! What a step does, checked: the working form of a `[[step]]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bundle::Arch;
use serde::Serialize;

use super::Span;
use super::variables::Variables;

/// One step of a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it does.
    pub action: Action,
    /// The machines that it is for; empty for all.
    pub arch: Vec<Arch>,
    /// Where it stands in the text.
    pub span: Span,
}

/// What a step does. Its JSON is part of the step's key: a renamed field runs all steps again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Runs a command in the image.
    Run(Command),
    /// Installs packages with the image's own package manager.
    Packages(Install),
    /// Puts a file or directory of the host into the image.
    Copy {
        /// The file or directory.
        from: PathBuf,
        /// Where it goes; with a `/` at its end, into that directory.
        to: String,
        /// Its metadata.
        put: Put,
    },
    /// Puts a file into the image.
    Write {
        /// Where.
        path: String,
        /// What it holds.
        content: Content,
        /// Its metadata.
        put: Put,
    },
    /// Adds to the end of a file, which is made where it is missing.
    Append {
        /// Which.
        path: String,
        /// What is added.
        content: Content,
    },
    /// Makes a directory and those above it.
    Mkdir {
        /// Which.
        path: String,
        /// Its metadata; of one that is there already only what is said here changes.
        put: Put,
    },
    /// Makes a symbolic link, in place of a file or link.
    Symlink {
        /// Where.
        path: String,
        /// Where it points.
        target: String,
    },
    /// Removes files and whole directories.
    Remove {
        /// Which; `*` in a last name stands for any letters.
        paths: Vec<String>,
    },
    /// Makes files empty.
    Truncate {
        /// Which.
        paths: Vec<String>,
    },
    /// Changes mode and owner of what is there.
    Set {
        /// Of what.
        paths: Vec<String>,
        /// The new metadata.
        put: Put,
    },
    /// Makes a user with a group and a home.
    User(Account),
    /// Starts a service at boot, or does not.
    Service {
        /// The unit's name, `.service` where it has no ending.
        unit: String,
        /// What it is to be.
        state: UnitState,
    },
    /// Installs packages when a machine starts for the first time.
    FirstBoot {
        /// Their names.
        packages: Vec<String>,
    },
}

/// A command to run in the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Whether it reaches the network.
    pub network: bool,
    /// Names of secrets, each a file in `/run/secrets` while it runs.
    pub secrets: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// `user[:group]`; root where there is none.
    pub user: Option<String>,
    /// The directory to start in; `/` where there is none.
    pub workdir: Option<String>,
    /// It is ended after this time.
    #[serde(skip)]
    pub timeout: Duration,
}

/// Packages to install.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Install {
    /// Their names, perhaps with `=version`.
    pub packages: Vec<String>,
    /// Whether what they recommend comes along.
    pub recommends: bool,
    /// Whether the network is needed for it.
    pub network: bool,
    /// It is ended after this time.
    #[serde(skip)]
    pub timeout: Duration,
}

/// Metadata to be set where it is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Put {
    /// Permission bits.
    pub mode: Option<u16>,
    /// User and group.
    pub owner: Option<Owner>,
}

/// A user and perhaps a group, names or numbers of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// The user.
    pub user: String,
    /// The group; the user's own where there is none.
    pub group: Option<String>,
}

/// A text to put into a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Content {
    /// The text.
    pub text: String,
    /// Whether braces in it mean nothing.
    pub raw: bool,
}

/// A user to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// The name; the group is called the same.
    pub name: String,
    /// The number of user and group; the first free one from 1000 on where none is said.
    pub uid: Option<u32>,
    /// `/home/NAME` where none is said.
    pub home: Option<String>,
    /// `/bin/bash` where the image has it, else `/bin/sh`, where none is said.
    pub shell: Option<String>,
    /// Other groups to be in, which must be there.
    pub groups: Vec<String>,
}

/// What a service is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitState {
    /// Started at boot.
    Enabled,
    /// Not started at boot.
    Disabled,
    /// Never started.
    Masked,
}

impl Action {
    /// The verb.
    pub fn verb(&self) -> &'static str {
        match self {
            Action::Run(_) => "run",
            Action::Packages(_) => "packages",
            Action::Copy { .. } => "copy",
            Action::Write { .. } => "write",
            Action::Append { .. } => "append",
            Action::Mkdir { .. } => "mkdir",
            Action::Symlink { .. } => "symlink",
            Action::Remove { .. } => "remove",
            Action::Truncate { .. } => "truncate",
            Action::Set { .. } => "set",
            Action::User(_) => "user",
            Action::Service { .. } => "service",
            Action::FirstBoot { .. } => "first_boot",
        }
    }

    /// Whether it runs programs of the image.
    pub fn boots(&self) -> bool {
        matches!(self, Action::Run(_) | Action::Packages(_))
    }

    /// One line that names it: `copy to /opt/app`.
    pub fn title(&self) -> String {
        let what = match self {
            Action::Run(command) => match command.argv.as_slice() {
                [_, flags, _, script] if flags == "-eu" => script.clone(),
                argv => argv.join(" "),
            },
            Action::Packages(install) => install.packages.join(" "),
            Action::Copy { to, .. } => format!("to {to}"),
            Action::Write { path, .. }
            | Action::Append { path, .. }
            | Action::Mkdir { path, .. }
            | Action::Symlink { path, .. } => path.clone(),
            Action::Remove { paths } | Action::Truncate { paths } | Action::Set { paths, .. } => {
                paths.join(" ")
            }
            Action::User(account) => account.name.clone(),
            Action::Service { unit, .. } => unit.clone(),
            Action::FirstBoot { packages } => packages.join(" "),
        };
        short(&format!("{} {what}", self.verb()))
    }

    /// Makes a path of the host relative to `directory`.
    pub(super) fn relative_to(&mut self, directory: &Path) {
        if let Action::Copy { from, .. } = self {
            *from = directory.join(&*from);
        }
    }

    /// It with its variables filled in.
    #[must_use]
    pub fn filled(&self, variables: &Variables) -> Action {
        let fill = |text: &String| variables.fill(text);
        let all = |texts: &Vec<String>| texts.iter().map(fill).collect();
        let content = |content: &Content| match content.raw {
            true => content.clone(),
            false => Content { text: fill(&content.text), raw: false },
        };
        let mut action = self.clone();
        match &mut action {
            Action::Run(_) | Action::Service { .. } => {}
            Action::Packages(install) => install.packages = all(&install.packages),
            Action::FirstBoot { packages } => *packages = all(packages),
            Action::Copy { from, to, .. } => {
                *from = PathBuf::from(variables.fill(&from.to_string_lossy()));
                *to = fill(to);
            }
            Action::Write { path, content: text, .. } | Action::Append { path, content: text } => {
                *path = fill(path);
                *text = content(text);
            }
            Action::Mkdir { path, .. } => *path = fill(path),
            Action::Symlink { path, target } => {
                *path = fill(path);
                *target = fill(target);
            }
            Action::Remove { paths } | Action::Truncate { paths } | Action::Set { paths, .. } => {
                *paths = all(paths);
            }
            Action::User(account) => account.home = account.home.as_ref().map(fill),
        }
        action
    }
}

/// The first line, cut where it is long.
fn short(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.next().unwrap_or("");
    let cut = line.chars().count() > CHARS_MAX || lines.next().is_some();
    let line: String = line.chars().take(CHARS_MAX).filter(|c| !c.is_control()).collect();
    if cut { format!("{line} …") } else { line }
}
