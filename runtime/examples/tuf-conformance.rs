//! Our TUF client behind the command line of theupdateframework's conformance suite (its
//! CLIENT-CLI.md): `tests/judge/conformance` runs that.
#![allow(clippy::print_stderr)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use imgrun::depot::{Depot, Http};
use imgrun::tuf::{Clock, Memory, Role, Trusted, refresh, time};
use imgrun::{Error, Result};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut flags, mut targets, mut words) = (HashMap::new(), Vec::new(), Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("--") {
            Some("target-name") => targets.extend(arguments.next()),
            Some(flag) => {
                flags.insert(flag.to_string(), arguments.next().unwrap_or_default());
            }
            None => words.push(argument),
        }
    }
    let flag = |name: &str| flags.get(name).cloned().unwrap_or_default();
    let dir = flag("metadata-dir");
    let dir = Path::new(&dir);
    let memory = Memory::open(dir.join("memory"))?;
    match words.first().map(String::as_str) {
        Some("init") => {
            let root = fs::read(&words[1]).map_err(|e| Error::io(&words[1], e))?;
            fs::write(dir.join("root.json"), &root).map_err(|e| Error::io("root.json", e))?;
            memory.begin("the repository", &root, "root.json")
        }
        Some("refresh") => update(&memory, dir, &flag("metadata-url")).map(drop),
        Some("download") => {
            let trusted = update(&memory, dir, &flag("metadata-url"))?;
            let (base, to) = (flag("target-base-url"), flag("target-dir"));
            targets.iter().try_for_each(|name| download(&trusted, name, &base, Path::new(&to)))
        }
        _ => Err(Error::usage("init, refresh or download")),
    }
}

/// Refreshes, and shows what is then remembered as the files that the suite looks for.
fn update(memory: &Memory, dir: &Path, url: &str) -> Result<Trusted> {
    let depot = Http::new(url)?;
    // The suite runs us under libfaketime.
    let clock = Clock::At(time::now());
    let result = refresh(memory, &|name: &str, max: u64| depot.get(name, max), clock);
    if let Some(state) = memory.load()? {
        for role in Role::ALL {
            let path = dir.join(format!("{role}.json"));
            match state.file(role) {
                Some(text) => fs::write(&path, text).map_err(|e| Error::io(path.display(), e))?,
                None => drop(fs::remove_file(&path)),
            }
        }
    }
    result
}

fn download(trusted: &Trusted, name: &str, base: &str, to: &Path) -> Result<()> {
    let gone = || Error::trust(format!("{name}: it is not listed"));
    let target = trusted.targets.targets.get(name).ok_or_else(gone)?;
    let path = to.join(name.replace('/', "%2F"));
    if fs::read(&path).is_ok_and(|bytes| target.is(&bytes)) {
        return Ok(());
    }
    let (dir, file) = name.rsplit_once('/').map_or(("", name), |(dir, file)| (dir, file));
    let dir = if dir.is_empty() { String::new() } else { format!("{dir}/") };
    let prefix = match trusted.root.consistent_snapshot {
        true => format!("{}.", target.hashes.values().next().ok_or_else(gone)?),
        false => String::new(),
    };
    let depot = Http::new(base)?;
    let bytes = depot.get(&format!("{dir}{prefix}{file}"), target.length)?.ok_or_else(gone)?;
    if !target.is(&bytes) {
        return Err(Error::trust(format!("{name}: other bytes than were signed")));
    }
    fs::write(&path, bytes).map_err(|e| Error::io(path.display(), e))
}
