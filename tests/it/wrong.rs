//! Wrong recipes: each has its exact error, a screen at most.
//!
//! `BLESS=1` writes what is said now into `tests/it/wrong/*.txt`, to be read in the diff.

use imgtool_tests::{World, repository};

const SCREEN_LINES: usize = 24;

#[test]
fn each_wrong_recipe_has_its_error() {
    let directory = repository().join("tests/it/wrong");
    let mut names: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".toml").map(str::to_string)
        })
        .collect();
    names.sort();
    assert!(names.len() >= 40, "only {} wrong recipes", names.len());
    let mut wrong = Vec::new();
    for name in names {
        let world = World::new();
        std::fs::copy(directory.join(format!("{name}.toml")), world.path("recipe.toml")).unwrap();
        let outcome = world.imgtool(["plan", "-r", "recipe.toml"]);
        assert_eq!(outcome.code, Some(3), "{name}: {outcome:#?}");
        assert!(outcome.stderr.lines().count() <= SCREEN_LINES, "{name}: {}", outcome.stderr);
        let golden = directory.join(format!("{name}.txt"));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&golden, &outcome.stderr).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if expected != outcome.stderr {
            wrong.push(format!("{name}:\n{}\ninstead of\n{expected}", outcome.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
