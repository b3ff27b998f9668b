//! The recipe language seen from outside: its schema, a recipe to begin with, completions, pages.

use imgtool_tests::{World, repository};

/// Judges by Python's own reader of TOML and its jsonschema.
const JUDGE: &str = r#"
import json, pathlib, sys, tomllib
import jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for path in sys.argv[2:]:
    try:
        found = next(iter(validator.iter_errors(tomllib.load(open(path, "rb")))), None)
    except tomllib.TOMLDecodeError as error:
        found = error
    print(pathlib.Path(path).stem, "wrong" if found else "right")
"#;

fn judge(world: &World, schema: &str, files: &[String]) -> Vec<(String, bool)> {
    let python = repository().join("target/judges/python/bin/python");
    world.write("judge.py", JUDGE);
    let mut args = vec!["judge.py".to_string(), schema.to_string()];
    args.extend_from_slice(files);
    let text = world.run(python, args).ok().text();
    let verdict = |line: &str| {
        let (name, verdict) = line.split_once(' ').unwrap();
        (name.to_string(), verdict == "right")
    };
    text.lines().map(verdict).collect()
}

fn recipes(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(repository().join(directory)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let toml = paths.filter(|path| path.extension().is_some_and(|e| e == "toml"));
    toml.map(|path| path.display().to_string()).collect()
}

#[test]
fn the_schema_is_the_one_beside_the_recipes_and_takes_what_imgtool_takes() {
    let world = World::new();
    let schema = world.imgtool(["schema"]).ok().stdout;
    let path = repository().join("recipes/recipe.schema.json");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &schema).unwrap();
    }
    let beside = std::fs::read(&path).unwrap_or_default();
    assert!(beside == schema, "imgtool schema > recipes/recipe.schema.json");
    let path = path.display().to_string();
    for (name, right) in judge(&world, &path, &recipes("recipes")) {
        assert!(right, "the schema refuses the recipe {name}");
    }
    // What only a reader can know: names, variables, digits of a version.
    let unseen = [
        "name-wrong",
        "path-variable",
        "write-variable",
        "run-no-epoch",
        "source-no-epoch",
        "copy-to-relative",
        "copy-up",
        "write-a-directory",
        "remove-root",
        "run-empty",
        "run-no-words",
        "packages-none",
        "packages-option",
        "run-env-name",
        "run-secret-path",
        "user-name",
        "service-path",
        "set-owner",
        "set-nothing",
    ];
    for (name, right) in judge(&world, &path, &recipes("tests/it/wrong")) {
        assert_eq!(right, unseen.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn a_new_recipe_is_right_and_is_not_written_over_another() {
    let world = World::new();
    for source in ["bootstrap", "oci", "tarball"] {
        let path = world.imgtool(["new", source, "--from", source, "-o", "mine"]).ok().text();
        assert_eq!(path, format!("mine/{source}.toml"));
        let files = [path.clone()];
        let schema = repository().join("recipes/recipe.schema.json").display().to_string();
        assert!(judge(&world, &schema, &files)[0].1, "{path}");
    }
    world.imgtool(["new", "oci", "-o", "mine"]).fails(6, "mine/oci.toml");
    assert_eq!(world.imgtool(["new", "No Name"]).code, Some(2));
}

#[test]
fn shells_complete_and_there_is_a_page_for_each_verb() {
    let world = World::new();
    let script = world.imgtool(["completions", "bash"]).ok().stdout;
    world.write("imgtool.bash", &script);
    let ask = ". ./imgtool.bash; COMP_WORDS=(imgtool bu); COMP_CWORD=1; _imgtool imgtool bu imgtool; \
               echo ${COMPREPLY[@]}";
    assert_eq!(world.run("bash", ["-c", ask]).ok().text(), "build");
    world.imgtool(["man", "pages"]).ok();
    let pages = world.files("pages");
    for verb in ["imgtool.1", "imgtool-build.1", "imgtool-lock.1", "imgtool-kernel-build.1"] {
        assert!(pages.iter().any(|page| page == verb), "no {verb} in {pages:?}");
    }
    assert!(std::fs::read_to_string(world.path("pages/imgtool-plan.1")).unwrap().contains(".TH"));
}
