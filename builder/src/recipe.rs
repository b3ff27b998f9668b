//! The recipe: what a person wrote, checked. Reading one touches neither disk nor network.
//!
//! A recipe is a TOML file; `recipe/wire.rs` knows its keys, this file what they mean. Every
//! mistake in it is reported at once, each with its line and a caret (`recipe/fault.rs`).

mod action;
pub(crate) mod schema;
mod smoke;
mod step;
mod variables;
mod wire;

use std::path::{Path, PathBuf};

use bundle::{Arch, Digest, Init, Name, Test, Version};

use crate::oci::Reference;
use crate::{Error, Result};
pub use action::{Account, Action, Command, Content, Install, Owner, Put, Step, UnitState};
use imgrun::fault::{self, Faults};
pub use schema::schema;
pub use step::COMMAND_TIME_DEFAULT;
pub use variables::{VARIABLES, Variables};
use wire::{At, Wire, WireBootstrap, WireSource};

/// The kernel of a recipe that names none.
pub use imgrun::KERNEL_DEFAULT as DEFAULT_KERNEL;
/// A recipe is at most this many bytes long.
pub const RECIPE_BYTES_MAX: u64 = 1 << 20;
/// An image is at most this many bytes large: ext4 with 4 KiB blocks and 32-bit block numbers.
pub const IMAGE_BYTES_MAX: u64 = 16 << 40;
/// An ext4 label is at most this many bytes long.
pub const LABEL_BYTES_MAX: usize = 16;
/// The last second that ext4 can store: 2446-05-10.
pub const EPOCH_MAX: i64 = 15_032_385_535;

/// What to build, from what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The bundle's name.
    pub name: Name,
    /// The bundle's version.
    pub version: Version,
    /// The machines to build for; never empty, no two alike.
    pub arch: Vec<Arch>,
    /// What runs as process 1 once the root is stacked.
    pub init: Init,
    /// The name of the kernel that the image is built to run on.
    pub kernel: Name,
    /// Times in the image are at most this, in seconds since 1970.
    pub source_date_epoch: Option<u64>,
    /// The image's size in bytes; computed where absent.
    pub size: Option<u64>,
    /// Free space to leave in the image, in bytes.
    pub reserve: Option<u64>,
    /// The file system's label, [`LABEL_BYTES_MAX`] bytes at most.
    pub label: Option<String>,
    /// Where the root file system comes from.
    pub source: Source,
    /// What must be so in a machine that booted the image: `imgtool test` sees to it.
    pub tests: Vec<Test>,
    /// What is done to it, in order.
    pub steps: Vec<Step>,
    /// The names of findings in the finished image that are no reason to fail (`lint.rs`).
    pub allow: Vec<String>,
    /// The digest of the recipe's text.
    pub digest: Digest,
}

/// Where a root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Debian packages, installed by mmdebstrap.
    Bootstrap(Bootstrap),
    /// An OCI image in a registry, a directory or an archive.
    Oci(Reference),
    /// A tar of a root file system, perhaps compressed with gzip or zstd.
    Tarball(PathBuf),
}

/// Debian packages to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// The release: `bookworm`.
    pub suite: String,
    /// The set of packages to begin with, one of [`VARIANTS`].
    pub variant: String,
    /// The archive's components: `main`.
    pub components: Vec<String>,
    /// More packages, each perhaps with `=version`.
    pub packages: Vec<String>,
}

/// The sets of packages that a bootstrap can begin with (mmdebstrap(1), VARIANTS). `extract` is none:
/// the packages named are unpacked and nothing of them is executed, so any architecture will do.
pub const VARIANTS: [&str; 8] =
    ["extract", "essential", "apt", "required", "minbase", "buildd", "important", "standard"];

impl Recipe {
    /// Reads the recipe `file`.
    ///
    /// # Errors
    /// Where the file can not be read, or as [`Recipe::parse`].
    pub fn read(file: &Path) -> Result<Recipe> {
        let about = |e| Error::io(file.display(), e);
        let size = std::fs::metadata(file).map_err(about)?.len();
        if size > RECIPE_BYTES_MAX {
            return Err(Error::input(format!(
                "{}: {size} bytes are no recipe ({RECIPE_BYTES_MAX} at most)",
                file.display()
            )));
        }
        let bytes = std::fs::read(file).map_err(about)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::input(format!("{}: it is not UTF-8 text", file.display())))?;
        Recipe::parse(&text, file)
    }

    /// Checks the recipe `text`; `file` is its name in errors, and relative paths in it are
    /// relative to the directory of `file`.
    ///
    /// # Errors
    /// [`crate::Class::Input`] with every mistake found, each with file, line, column, the line
    /// itself and a caret.
    pub fn parse(text: &str, file: &Path) -> Result<Recipe> {
        let mut faults = Faults::new(text, file);
        let wire = wire::read(text, &mut faults);
        let directory = file.parent().unwrap_or(Path::new(""));
        let recipe = check(wire, text, directory, &mut faults);
        match recipe {
            Some(recipe) if faults.is_empty() => Ok(recipe),
            _ => Err(faults.into_error()),
        }
    }
}

/// Turns the wire form into the checked one. `None` means that a fault was recorded.
fn check(wire: Wire, text: &str, directory: &Path, faults: &mut Faults) -> Option<Recipe> {
    let wanted = |found: bool, key: &str, example: &str, faults: &mut Faults| {
        if !found && !faults.is_broken() && !faults.means(key) {
            faults.add(0..0, format!("`{key}` is missing, as in {example}"));
        }
    };
    wanted(wire.name.is_some(), "name", "name = \"debian\"", faults);
    wanted(wire.version.is_some(), "version", "version = \"12\"", faults);
    wanted(wire.has_source, "source", "a table [source]", faults);
    let epoch = wire.source_date_epoch.and_then(|at| check_epoch(at, faults));
    if let (Some(WireSource::Bootstrap(bootstrap)), None) = (&wire.source, epoch) {
        faults.add(
            bootstrap.span.clone(),
            "a bootstrap wants `source_date_epoch`: packages write the time of their installation \
             into files, so without it no two builds are alike",
        );
    }
    let needs_epoch = wire.steps.iter().find(|step| step.action.boots());
    if let (Some(step), None) = (needs_epoch, epoch) {
        faults.add(
            step.span.clone(),
            "a step that runs programs wants `source_date_epoch`: they write the time of day into \
             files, so without it no two builds are alike",
        );
    }
    let arch = match wire.arch {
        Some(list) => check_arch(list, faults),
        None => vec![Arch::host()],
    };
    let name = wire.name.and_then(|at| parse(at, faults));
    let version = wire.version.and_then(|at| parse(at, faults));
    let kernel = match wire.kernel {
        Some(at) => parse(at, faults),
        None => DEFAULT_KERNEL.parse().ok(),
    };
    let init = match wire.init {
        Some(at) => check_init(at, faults),
        None => Some(Init::default()),
    };
    let size = wire.size.and_then(|at| check_size(at, faults));
    let reserve = wire.reserve.and_then(|at| check_size(at, faults));
    let label = wire.label.and_then(|at| check_label(at, faults));
    let source = wire.source.and_then(|source| check_source(source, directory, faults));
    let tests = smoke::check(wire.tests, faults);
    let allow = wire.allow.map_or(Vec::new(), |at| check_allow(at.value, faults));
    let mut steps = wire.steps;
    steps.iter_mut().for_each(|step| step.action.relative_to(directory));
    Some(Recipe {
        name: name?,
        version: version?,
        arch,
        init: init?,
        kernel: kernel?,
        source_date_epoch: epoch,
        size,
        reserve,
        label,
        source: source?,
        tests,
        steps,
        allow,
        digest: Digest::of(text),
    })
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    at: At<String>,
    faults: &mut Faults,
) -> Option<T> {
    at.value.parse().map_err(|e: T::Err| faults.add(at.span, e.to_string())).ok()
}

fn check_epoch(at: At<i64>, faults: &mut Faults) -> Option<u64> {
    if (0..=EPOCH_MAX).contains(&at.value) {
        return Some(at.value.cast_unsigned());
    }
    faults.add(at.span, format!("seconds since 1970 are wanted, from 0 to {EPOCH_MAX}"));
    Some(0)
}

fn check_arch(list: At<Vec<At<String>>>, faults: &mut Faults) -> Vec<Arch> {
    if list.value.is_empty() {
        faults.add(list.span, "at least one architecture is wanted");
    }
    let mut all = Vec::new();
    for at in list.value {
        let span = at.span.clone();
        match parse(at, faults) {
            Some(arch) if all.contains(&arch) => faults.add(span, "it is named twice"),
            Some(arch) => all.push(arch),
            None => {}
        }
    }
    all
}

fn check_init(at: At<String>, faults: &mut Faults) -> Option<Init> {
    let all = [Init::Agent, Init::Systemd];
    let found = all.into_iter().find(|init| init.name() == at.value);
    if found.is_none() {
        faults.not_one_of(at.span, &at.value, &all.map(Init::name));
    }
    found
}

fn check_size(at: At<String>, faults: &mut Faults) -> Option<u64> {
    match parse_size(&at.value) {
        Ok(bytes) => return Some(bytes),
        Err(why) => faults.add(at.span, why),
    }
    None
}

/// `64MiB`, `4GiB`, `512KiB`, `1TiB` in bytes.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        "KB" | "MB" | "GB" | "TB" | "K" | "M" | "G" | "T" | "k" => {
            let binary = unit.trim_start()[..1].to_uppercase();
            return Err(format!("the unit {unit} has two meanings; write {number}{binary}iB"));
        }
        _ => return Err("a size is wanted, as in \"64MiB\" (KiB, MiB, GiB, TiB)".into()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
    match bytes {
        Some(bytes @ 1..=IMAGE_BYTES_MAX) => Ok(bytes),
        _ => Err("a size is more than nothing and at most 16TiB".into()),
    }
}

fn check_allow(list: Vec<At<String>>, faults: &mut Faults) -> Vec<String> {
    let known = crate::lint::Rule::ALL.map(|rule| rule.name());
    for at in &list {
        if !known.contains(&at.value.as_str()) {
            faults.not_one_of(at.span.clone(), &at.value, &known);
        }
    }
    list.into_iter().map(|at| at.value).collect()
}

fn check_label(at: At<String>, faults: &mut Faults) -> Option<String> {
    if at.value.len() > LABEL_BYTES_MAX || at.value.bytes().any(|c| c.is_ascii_control()) {
        faults.add(at.span, format!("a label has at most {LABEL_BYTES_MAX} bytes, all printable"));
        return None;
    }
    Some(at.value)
}

fn check_source(source: WireSource, directory: &Path, faults: &mut Faults) -> Option<Source> {
    match source {
        WireSource::Bootstrap(at) => check_bootstrap(at, faults).map(Source::Bootstrap),
        WireSource::Oci(at) => {
            let reference = at.value.parse::<Reference>();
            let reference = reference.map_err(|why| faults.add(at.span, why)).ok()?;
            Some(Source::Oci(reference.relative_to(directory)))
        }
        WireSource::Tarball(at) => {
            if at.value.is_empty() || at.value.contains('\0') {
                faults.add(at.span, "a path is wanted");
                return None;
            }
            Some(Source::Tarball(directory.join(at.value)))
        }
    }
}

fn check_bootstrap(at: At<WireBootstrap>, faults: &mut Faults) -> Option<Bootstrap> {
    let At { value: wire, span } = at;
    if wire.suite.is_none() && !faults.is_broken() && !faults.means("suite") {
        faults.add(span, "`suite` is missing, as in suite = \"bookworm\"");
    }
    let word = |at: At<String>, what: &str, more: &str, faults: &mut Faults| {
        let ok = is_word(&at.value, more);
        if !ok {
            let rule = format!("{:?} is no {what}: lower-case letters, digits", at.value);
            faults.add(at.span, format!("{rule} and {more} are allowed, a letter or digit first"));
        }
        ok.then_some(at.value)
    };
    let suite = wire.suite.and_then(|at| word(at, "suite", "-._", faults));
    let variant = match wire.variant {
        None => "minbase".to_string(),
        Some(at) => {
            if !VARIANTS.contains(&at.value.as_str()) {
                faults.not_one_of(at.span, &at.value, &VARIANTS);
            }
            at.value
        }
    };
    let mut components = Vec::new();
    for at in wire.components.into_iter().flat_map(|at| at.value) {
        components.extend(word(at, "component", "-", faults));
    }
    if components.is_empty() {
        components.push("main".to_string());
    }
    let mut packages = Vec::new();
    for at in wire.packages.into_iter().flat_map(|at| at.value) {
        packages.extend(check_package(at, faults));
    }
    Some(Bootstrap { suite: suite?, variant, components, packages })
}

/// A Debian package's name (Debian Policy 5.6.1), perhaps with `=version` (5.6.12).
fn check_package(at: At<String>, faults: &mut Faults) -> Option<String> {
    let (name, version) = at.value.split_once('=').unwrap_or((&at.value, "0"));
    let version_ok = !version.is_empty()
        && version.bytes().all(|c| c.is_ascii_alphanumeric() || b".+-~:".contains(&c));
    if name.len() >= 2 && is_word(name, "+-.") && version_ok {
        return Some(at.value);
    }
    faults.add(at.span, format!("{:?} is no package: as in \"curl\" or \"curl=1.2-3\"", at.value));
    None
}

fn is_word(text: &str, more: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(plain) && text.chars().all(|c| plain(c) || more.contains(c))
}

/// Where in the text something stands, in bytes.
type Span = fault::Span;

#[cfg(test)]
mod tests;
