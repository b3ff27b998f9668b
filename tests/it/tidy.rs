//! House rules as tests: who may name whom, how long things may be, where `unsafe` may stand.

use std::fs;
use std::path::{Path, PathBuf};

use imgtool_tests::repository;

/// Code lines of a file, tests not counted.
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const ARCHITECTURE_LINES_MAX: usize = 150;

/// Each package, and those of ours that it may depend on (ARCHITECTURE.md, "Arrows").
const ARROWS: [(&str, &[&str]); 6] = [
    ("crates/ext4", &[]),
    ("crates/bundle", &[]),
    ("crates/agent", &[]),
    ("runtime", &["agent", "bundle", "ext4"]),
    ("builder", &["agent", "bundle", "ext4", "imgrun"]),
    ("tests", &[]),
];
const OURS: [&str; 5] = ["agent", "bundle", "ext4", "imgrun", "imgtool"];
/// Packages that are pure: no network, no processes.
const PURE: [&str; 3] = ["crates/ext4/src", "crates/bundle/src", "crates/agent/src"];
/// The agent's program is what runs processes; its library is pure.
const AGENT_PROGRAM: &str = "crates/agent/src/bin";

fn rust_files() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut directories: Vec<PathBuf> =
        ARROWS.iter().map(|(package, _)| repository().join(package)).collect();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let inside = path.strip_prefix(repository()).unwrap().to_path_buf();
                files.push((inside, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files.len() > 50, "only {} files found", files.len());
    files
}

/// The part of a file before its unit tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

#[test]
fn packages_name_only_whom_they_may() {
    for (package, allowed) in ARROWS {
        let manifest = fs::read_to_string(repository().join(package).join("Cargo.toml")).unwrap();
        let (_, dependencies) = manifest.split_once("\n[dependencies]\n").unwrap();
        let dependencies = dependencies.split("\n[").next().unwrap();
        for ours in OURS {
            let named = dependencies.lines().any(|l| l.starts_with(&format!("{ours}.")));
            assert!(!named || allowed.contains(&ours), "{package} must not depend on {ours}");
        }
    }
}

#[test]
fn pure_crates_touch_no_network_and_start_no_process() {
    for (path, text) in rust_files() {
        let pure = PURE.iter().any(|p| path.starts_with(p)) && !path.starts_with(AGENT_PROGRAM);
        for word in ["std::net", "std::process", "std::os::unix::net", "tokio", "reqwest"] {
            let named =
                code(&text).lines().any(|l| !l.trim().starts_with("//") && l.contains(word));
            assert!(!pure || !named, "{}: {word}", path.display());
        }
    }
}

#[test]
fn files_and_functions_are_short() {
    let mut long = Vec::new();
    for (path, text) in rust_files() {
        let lines: Vec<&str> = code(&text).lines().collect();
        if lines.len() > FILE_LINES_MAX {
            long.push(format!("{}: {} lines", path.display(), lines.len()));
        }
        let mut start = None;
        for (number, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head = line.trim_start();
            let is_function = ["fn ", "pub fn ", "async fn ", "pub(crate) fn ", "pub(super) fn "]
                .iter()
                .any(|f| head.starts_with(f));
            if is_function && !head.ends_with(';') && !head.ends_with('}') {
                start = Some((number, indent));
            }
            if let Some((first, depth)) = start
                && head == "}"
                && indent == depth
            {
                if number - first + 1 > FUNCTION_LINES_MAX {
                    let length = number - first + 1;
                    long.push(format!("{}:{}: {length} lines", path.display(), first + 1));
                }
                start = None;
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn unsafe_stands_only_where_the_architecture_says() {
    let architecture = fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap();
    for (path, text) in rust_files() {
        if text.contains("#![allow(unsafe_code)]") {
            let path = path.display().to_string();
            assert!(architecture.contains(&format!("`{path}`")), "{path} has unsafe code");
        }
    }
}

/// Words in backticks with a slash are paths; they must exist.
#[test]
fn paths_in_the_documents_exist() {
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(repository().join(document)).unwrap();
        for word in text.split('`').skip(1).step_by(2) {
            let is_path = word.contains('/')
                && !word.starts_with(['/', '~', '$', '<'])
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
                && !["out/", "target/", "usr/", "bundles/"].iter().any(|p| word.starts_with(p));
            let exists = Path::new(repository()).join(word).exists();
            assert!(!is_path || exists, "{document} names {word}, which is not there");
        }
    }
    let lines = fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap().lines().count();
    assert!(lines <= ARCHITECTURE_LINES_MAX, "ARCHITECTURE.md has {lines} lines");
}
