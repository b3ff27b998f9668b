//! The tar reader against other people's: what it takes, all read alike; what they read
//! differently, it refuses.

mod block;
mod corpus;
mod readers;
mod sparse;

use std::path::{Path, PathBuf};
use std::process::Command;

use corpus::{Case, Expect};
use readers::View;
use tempfile::TempDir;

/// What is wrong with how `file` is read: nothing where ours refuses it, or all that take it agree.
/// Gives also how many others took it.
fn compare(ours: &View, file: &Path, python: Option<&View>, but: &str) -> (Vec<String>, usize) {
    let (gnu, bsdtar) = (readers::gnu(file), readers::bsdtar(file));
    let others = [("python", python), ("GNU tar", gnu.as_ref()), ("bsdtar", bsdtar.as_ref())];
    let mut wrong = Vec::new();
    let mut agree = 0;
    for (name, view) in others {
        let Some(view) = view.filter(|_| name != but) else { continue };
        if view.lines != ours.lines {
            wrong.push(format!("{name} reads {:#?}, we {:#?}", view.lines, ours.lines));
        } else if view.content.is_some() && view.content != ours.content {
            wrong.push(format!("{name} reads other content"));
        } else {
            agree += 1;
        }
    }
    (wrong, agree)
}

fn judge(case: &Case, file: &Path, python: Option<&View>) -> Vec<String> {
    let but = match case.expect {
        Expect::Refused(words) => {
            return match readers::ours(&case.bytes) {
                Ok(view) => vec![format!("is not refused: {view:#?}")],
                Err(error) if error.to_string().contains(words) => Vec::new(),
                Err(error) => vec![format!("no {words:?} in {error}")],
            };
        }
        Expect::ReadBut(name, _why) => name,
        Expect::Read => "",
    };
    match readers::ours(&case.bytes) {
        Err(error) => vec![format!("is refused: {error}")],
        Ok(view) => {
            let (mut wrong, agree) = compare(&view, file, python, but);
            if agree < 2 && wrong.is_empty() {
                wrong.push(format!("is read by {agree} others only"));
            }
            wrong
        }
    }
}

#[test]
fn what_we_accept_all_read_alike() {
    let directory = TempDir::new().unwrap();
    let cases = corpus::corpus();
    let file = |case: &Case| -> PathBuf {
        let path = directory.path().join(format!("{}.tar", case.name.replace('/', " ")));
        assert!(!path.exists(), "{} is there twice", case.name);
        std::fs::write(&path, &case.bytes).unwrap();
        path
    };
    let files: Vec<PathBuf> = cases.iter().map(file).collect();
    let python = readers::python(&files);
    let mut wrong = Vec::new();
    for ((case, file), python) in cases.iter().zip(&files).zip(&python) {
        wrong.extend(
            judge(case, file, python.as_ref()).iter().map(|w| format!("{}: {w}", case.name)),
        );
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// CPython's collection of odd entries (package libpython3.11-testsuite), one by one.
#[test]
fn pythons_own_test_archive() {
    const ACCEPTED_MIN: usize = 30;
    const FIND: &str = "import glob, sysconfig\n\
        library = sysconfig.get_paths()['stdlib']\n\
        print(*glob.glob(library + '/test/**/testtar.tar', recursive=True))";
    let found = Command::new("/usr/bin/python3").args(["-c", FIND]).output().unwrap();
    let archive = String::from_utf8(found.stdout).unwrap();
    assert!(!archive.trim().is_empty(), "no testtar.tar: run tests/setup tests");
    let directory = TempDir::new().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tar/view.py");
    let mut command = Command::new("python3");
    let status = command.args([script, "--slice", archive.trim()]).arg(directory.path()).status();
    assert!(status.unwrap().success());
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let python = readers::python(&files);
    let (mut accepted, mut wrong) = (0, Vec::new());
    for (file, python) in files.iter().zip(&python) {
        // Types that readers disagree on, and the like, are refused.
        let Ok(view) = readers::ours(&std::fs::read(file).unwrap()) else { continue };
        accepted += 1;
        let (found, _) = compare(&view, file, python.as_ref(), "");
        wrong.extend(found.iter().map(|w| format!("{}: {w}", file.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(accepted >= ACCEPTED_MIN, "{accepted} of {} accepted", files.len());
}
