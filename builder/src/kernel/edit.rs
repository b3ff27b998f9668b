//! Changing a configuration with Kconfig's own editor, and what of that a fragment has to say.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bundle::Arch;
use imgrun::{Progress, Tool, Unit};

use super::build::Build;
use super::fragment::{Wanted, line};
use super::options::Options;
use super::tree::Tree;
use super::{Job, Work, read_text};
use crate::cache::Cache;
use crate::{Error, Result};

/// Kconfig's editor for terminals.
pub const EDITOR: &str = "menuconfig";

/// What an editor left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edited {
    /// The fewest options that give the edited configuration, together with the fragments there
    /// are: by name, with the new value.
    pub options: BTreeMap<String, String>,
    /// Options that a fragment asks for otherwise: fragments do not overrule each other, so those
    /// lines have to be changed by hand.
    pub conflicts: BTreeMap<String, Wanted>,
}

impl Edited {
    /// As a fragment, without those in conflict.
    pub fn fragment(&self) -> String {
        let free = self.options.iter().filter(|(name, _)| !self.conflicts.contains_key(*name));
        free.map(|(name, value)| line(name, value)).collect()
    }
}

/// Opens an editor on the configuration of the kernel that the file `config` describes, and says
/// what was changed. `editor` is a target of the kernel's makefile ([`EDITOR`], `nconfig`), or, if
/// it holds a slash, a program that is given the path of the `.config`. Changes no file of ours.
///
/// # Errors
/// As [`build`](super::build); where the editor fails or what it left is no configuration.
pub fn edit(
    config: &Path,
    arch: Arch,
    editor: &str,
    offline: bool,
    cache: &Cache,
    progress: &Progress,
) -> Result<Edited> {
    let job = Job::new(config, arch, offline, cache, progress)?;
    let _lock = job.lock()?;
    let source = job.source()?;
    let work = Work::new(job.file("work"))?;
    let build = job.build(&work);
    let tree = build.prepare(&source, progress)?;
    let before = Options::parse(&build.configure(&tree, progress)?)?;
    run_editor(&build, &tree, editor)?;
    // An editor of text may have left what Kconfig does not accept.
    build.make(&tree, "olddefconfig")?.run()?;
    let after = Options::parse(&read_text(&build.config_path())?)?;
    let changed: Vec<(String, String)> =
        before.changes(&after).into_iter().map(|change| (change.name, change.to)).collect();
    let stage = progress.stage("find the fewest options", Unit::Items, None);
    let requested = &job.inputs.request;
    let gives = |options: &[(String, String)]| {
        stage.add(1);
        let text = requested.merged_with(options);
        Ok(Options::parse(&build.all_no_config(&tree, &text)?)? == after)
    };
    let fewest = fewest(changed, gives)?.ok_or_else(|| {
        Error::input("the edited configuration does not come out again from allnoconfig")
    })?;
    let options: BTreeMap<String, String> = fewest.into_iter().collect();
    stage.finish(format!("{} options", options.len()));
    let conflicts = requested.options().iter().filter(|(name, _)| options.contains_key(*name));
    let conflicts = conflicts.map(|(name, wanted)| (name.clone(), wanted.clone())).collect();
    Ok(Edited { options, conflicts })
}

fn run_editor(build: &Build<'_>, tree: &Tree, editor: &str) -> Result<()> {
    if editor.contains('/') {
        let program = std::path::absolute(editor).map_err(|e| Error::io(editor, e))?;
        return Tool::new(program).arg(build.config_path()).on_terminal();
    }
    let make = build.make(tree, editor)?;
    // What it takes to draw on a terminal.
    ["TERM", "COLORTERM", "DISPLAY"]
        .iter()
        .filter_map(|key| Some((key, std::env::var_os(key)?)))
        .fold(make, |make, (key, value)| make.env(key, value))
        .on_terminal()
        .map_err(|e| e.hint("menuconfig needs its library: apt-get install libncurses-dev"))
}

/// A smallest part of `options` of which `gives` is still true: none of its options can go alone.
/// `None` where it is not true of all of them.
fn fewest<T: Clone>(
    mut options: Vec<T>,
    mut gives: impl FnMut(&[T]) -> Result<bool>,
) -> Result<Option<Vec<T>>> {
    if !gives(&options)? {
        return Ok(None);
    }
    // What one option selects goes in large pieces first.
    let mut piece = options.len();
    while piece > 0 {
        let mut at = 0;
        while at < options.len() {
            let end = (at + piece).min(options.len());
            let rest = [&options[..at], &options[end..]].concat();
            if gives(&rest)? { options = rest } else { at = end }
        }
        piece /= 2;
    }
    Ok(Some(options))
}

/// Writes `edited` into the fragment `path`, behind what is there already. `None` where there is
/// nothing to write.
///
/// # Errors
/// Where it can not be written.
pub fn write_fragment(edited: &Edited, path: &Path) -> Result<Option<String>> {
    let fragment = edited.fragment();
    if fragment.is_empty() {
        return Ok(None);
    }
    let old = match path.exists() {
        true => read_text(path)?,
        false => String::new(),
    };
    let dir = path.parent().unwrap_or(Path::new("."));
    let file = super::entry::partial_file(dir)?;
    fs::write(file.path(), old + &fragment).map_err(|e| Error::io(path.display(), e))?;
    file.as_file().sync_all().map_err(|e| Error::io(path.display(), e))?;
    file.persist(path).map_err(|e| Error::io(path.display(), e.error))?;
    Ok(Some(fragment))
}

#[cfg(test)]
mod tests {
    use super::super::options::OFF;
    use super::*;

    #[test]
    fn the_fewest_are_found_with_few_tries() {
        let all: Vec<u32> = (0..100).collect();
        let mut tries = 0;
        let found = fewest(all.clone(), |some| {
            tries += 1;
            Ok([7, 50, 51].iter().all(|n| some.contains(n)))
        });
        assert_eq!(found.unwrap(), Some(vec![7, 50, 51]));
        assert!(tries < 60, "{tries}");
        assert_eq!(fewest(all, |_| Ok(true)).unwrap(), Some(vec![]));
        assert_eq!(fewest(vec![1], |_| Ok(false)).unwrap(), None);
    }

    #[test]
    fn what_is_in_conflict_is_not_written() {
        let wanted = Wanted { value: "y".into(), at: "f:1".into(), reason: String::new() };
        let option = |name: &str, value: &str| (name.to_string(), value.to_string());
        let edited = Edited {
            options: [option("A", "y"), option("B", OFF), option("C", "\"x\"")].into(),
            conflicts: [("A".to_string(), wanted)].into(),
        };
        assert_eq!(edited.fragment(), "# CONFIG_B is not set\nCONFIG_C=\"x\"\n");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.config");
        fs::write(&path, "# why\nCONFIG_Z=y\n").unwrap();
        write_fragment(&edited, &path).unwrap().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "# why\nCONFIG_Z=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n");
        assert_eq!(write_fragment(&Edited::default(), &path).unwrap(), None);
    }
}
