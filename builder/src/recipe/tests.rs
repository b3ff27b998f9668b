//! Recipes good and bad; the texts of errors are golden.

use super::*;

const GOOD: &str = r#"
name = "debian"
version = "12"
arch = ["x86_64"]
init = "systemd"
source_date_epoch = 1700000000
size = "4GiB"
reserve = "64 MiB"
label = "root"

[source]
bootstrap = { suite = "bookworm", packages = ["systemd", "g++", "curl=7.88.1-10+deb12u12"] }

[[test]]
command = ["uname", "-r"]

[[test]]
name = "no such user"
command = ["id", "nobody2"]
exit = 1
equals = ""
contains = ""
timeout = "2m"
"#;

fn parse(text: &str) -> Result<Recipe> {
    Recipe::parse(text, Path::new("dir/x.toml"))
}

fn errors(text: &str) -> String {
    let error = parse(text).expect_err(text);
    assert_eq!(error.class(), crate::Class::Input);
    error.to_string()
}

fn with_source(source: &str) -> String {
    format!("name = \"a\"\nversion = \"1\"\n[source]\n{source}\n")
}

#[test]
fn a_whole_recipe_is_read() {
    let recipe = parse(GOOD).unwrap();
    assert_eq!(recipe.init, Init::Systemd);
    assert_eq!(recipe.kernel.as_str(), DEFAULT_KERNEL);
    assert_eq!(recipe.arch, [Arch::X86_64]);
    assert_eq!((recipe.size, recipe.reserve), (Some(4 << 30), Some(64 << 20)));
    assert_eq!(recipe.source_date_epoch, Some(1_700_000_000));
    assert_eq!(recipe.digest, Digest::of(GOOD));
    let Source::Bootstrap(bootstrap) = recipe.source else { panic!("another source") };
    assert_eq!(bootstrap.suite, "bookworm");
    assert_eq!(bootstrap.variant, "minbase");
    assert_eq!(bootstrap.components, ["main"]);
    assert_eq!(bootstrap.packages.len(), 3);
    let tests = recipe.tests;
    assert_eq!((tests[0].name.as_str(), tests[0].exit, &tests[0].equals), ("uname -r", 0, &None));
    assert_eq!((tests[0].timeout_seconds, tests[1].timeout_seconds), (60, 120));
    assert_eq!((tests[1].name.as_str(), tests[1].exit), ("no such user", 1));
    assert_eq!(
        (&tests[1].equals, &tests[1].contains),
        (&Some(String::new()), &Some(String::new()))
    );
}

#[test]
fn paths_are_relative_to_the_recipe() {
    let recipe = parse(&with_source("tarball = \"root.tar.gz\"")).unwrap();
    assert_eq!(recipe.source, Source::Tarball("dir/root.tar.gz".into()));
    assert_eq!(recipe.init, Init::Agent);
    let recipe = parse(&with_source("oci = \"oci-layout:/a/b:1\"")).unwrap();
    assert_eq!(recipe.source, Source::Oci("oci-layout:/a/b:1".parse().unwrap()));
}

#[test]
fn every_mistake_is_shown_where_it_stands() {
    let text = GOOD
        .replace("init =", "inti =")
        .replace("4GiB", "4GB")
        .replace("suite =", "suit =")
        .replace("\"x86_64\"", "\"x86\"");
    assert_eq!(
        errors(&text),
        r#"dir/x.toml:4:9: architecture "x86" is not valid: x86_64 and aarch64 are known
  4 | arch = ["x86"]
    |         ^^^^^
dir/x.toml:5:1: unknown key `inti`; did you mean `init`?
  5 | inti = "systemd"
    | ^^^^
dir/x.toml:7:8: the unit GB has two meanings; write 4GiB
  7 | size = "4GB"
    |        ^^^^^
dir/x.toml:12:15: unknown key `suit`; did you mean `suite`?
  12 | bootstrap = { suit = "bookworm", packages = ["systemd", "g++", "curl=7.88.1-10+deb12u12"] }
     |               ^^^^"#
    );
}

#[test]
fn a_key_in_the_wrong_section_is_told_where_it_belongs() {
    let text = with_source("tarball = \"t\"\nkernel = \"k\"");
    assert_eq!(
        errors(&text),
        "dir/x.toml:5:1: unknown key `kernel`; it belongs to the top of the file\n  \
         5 | kernel = \"k\"\n    | ^^^^^^"
    );
    let text = format!("suites = 1\n{}", with_source("tarball = \"t\""));
    assert!(errors(&text).contains("did you mean `suite`, which belongs to [source.bootstrap]?"));
    let text = format!("colour = 1\n{}", with_source("tarball = \"t\""));
    assert!(errors(&text).contains("unknown key `colour`; the top of the file has: name, version"));
}

#[test]
fn broken_toml_is_shown_where_it_breaks() {
    let shown = errors("name = \"a\nversion = \"1\"\n");
    assert!(shown.starts_with("dir/x.toml:1:"), "{shown}");
    assert!(shown.contains("\n  1 | name = \"a\n"), "{shown}");
    assert!(!shown.contains("is missing"), "{shown}");
    let twice = errors("name = \"a\"\nname = \"b\"\n");
    assert!(twice.starts_with("dir/x.toml:2:1: duplicate key"), "{twice}");
}

#[test]
fn each_rule_has_its_sentence() {
    let epoch = "source_date_epoch = 1\n";
    let table = [
        (String::new(), "`name` is missing"),
        (with_source(""), "a source is one of: bootstrap, oci, tarball"),
        (with_source("tarball = \"a\"\noci = \"b\""), "x.toml:5:1: a second source"),
        (with_source("tarball = 3"), "`tarball` is a whole number; it has to be a string"),
        (with_source("tarball = \"\""), "a path is wanted"),
        (with_source("oci = \"A B\""), "\"A B\" is no image reference"),
        (with_source("bootstrap = { suite = \"b\" }"), "a bootstrap wants `source_date_epoch`"),
        (epoch.to_string() + &with_source("bootstrap = { suite = \"../b\" }"), "is no suite"),
        (
            epoch.to_string() + &with_source("bootstrap = { suite = \"b\", variant = \"minbas\" }"),
            "did you mean \"minbase\"?",
        ),
        (
            epoch.to_string()
                + &with_source("bootstrap = { suite = \"b\", packages = [\"--x\", 3] }"),
            "\"--x\" is no package",
        ),
        (
            "source_date_epoch = -1\n".to_string() + &with_source("tarball = \"t\""),
            "seconds since 1970 are wanted",
        ),
        ("arch = []\n".to_string() + &with_source("tarball = \"t\""), "at least one architecture"),
        (
            "arch = [\"amd64\", \"x86_64\"]\n".to_string() + &with_source("tarball = \"t\""),
            "it is named twice",
        ),
        (
            "label = \"seventeen letters\"\n".to_string() + &with_source("tarball = \"t\""),
            "at most 16 bytes",
        ),
        ("init = \"sytemd\"\n".to_string() + &with_source("tarball = \"t\""), "\"systemd\"?"),
        ("size = \"99TiB\"\n".to_string() + &with_source("tarball = \"t\""), "at most 16TiB"),
        ("size = 4\n".to_string() + &with_source("tarball = \"t\""), "has to be a string"),
        ("source = 4\n".to_string(), "it has to be a table, as in [source]"),
    ];
    let good = with_source("tarball = \"t\"") + "[[test]]\ncommand = [\"a\"]\n";
    let table = table.into_iter().chain([
        (good.clone() + "exit = 256", "an exit code is 0 to 255"),
        (good.clone() + "timeout = \"61m\"", "an hour at most"),
        (good.clone() + "timeout = \"0s\"", "a time is wanted"),
        (good.clone() + "name = \"a\\nb\"", "a name is one line"),
        (good.clone() + "stdout = \"x\"", "unknown key `stdout`; [[test]] has: name, command"),
        (good.clone() + "[[test]]\ncommand = [\"a\"]", "x.toml:7:1: a second test \"a\""),
        (good.clone() + "[[test]]\nname = \"b\"", "x.toml:7:1: `command` is missing"),
        (good.replace("\"a\"]", "]"), "a command has a program"),
        (good.replace("[[test]]", "[test]"), "it has to be a list of tables, as in [[test]]"),
    ]);
    for (text, sentence) in table {
        let shown = errors(&text);
        assert!(shown.contains(sentence), "{text}\n---\n{shown}");
    }
}

#[test]
fn a_report_fits_on_a_screen() {
    let text: String = (0..1000).map(|i| format!("key{i} = {i}\n")).collect();
    let shown = errors(&text);
    assert!(shown.lines().count() < 24, "{shown}");
    assert!(shown.ends_with("… and 997 more"), "{shown}");
    let long = format!("{} = 1", "ä".repeat(100_000));
    assert!(errors(&long).len() < 4096);
    let long = format!("name = \"{}\"\u{7f} x", "ä".repeat(1000));
    assert!(errors(&long).len() < 4096);
}

#[test]
fn the_recipes_of_the_repository_are_right() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let recipes: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|e| e == "toml")).collect();
    assert!(recipes.len() >= 2);
    for file in recipes {
        let recipe = Recipe::read(&file).unwrap();
        assert_eq!(Some(recipe.name.as_str()), file.file_stem().and_then(|stem| stem.to_str()));
    }
}

#[test]
fn no_text_breaks_the_report() {
    let texts = [GOOD.to_string(), GOOD.replace('\n', "\r\n"), GOOD.replace('e', "é")];
    for good in texts {
        for at in (0..good.len()).step_by(3).filter(|&at| good.is_char_boundary(at)) {
            let _ = parse(&good[..at]);
            for odd in ["\0", "\n", "\"", "[", "=", "é", "\u{202e}", "9"] {
                let _ = parse(&format!("{}{odd}{}", &good[..at], &good[at..]));
            }
        }
    }
    let deep = format!("{}x", "a = [".repeat(100_000));
    assert!(errors(&deep).lines().count() < 24);
}
