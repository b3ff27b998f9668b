//! Debian bootstraps. They need the package mirror that mmdebstrap asks.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bundle::Arch;
use imgrun::{Event, Progress};
use imgtool::oci::Access;
use imgtool::recipe::Recipe;
use imgtool::source::{self, Resolved};
use imgtool::{Class, Result};

use crate::world::run;

const RECIPE: &str = r#"
name = "tiny"
version = "1"
source_date_epoch = 1700000000
[source.bootstrap]
suite = "bookworm"
variant = "essential"
"#;

fn resolve(text: &str, cache: &Path, refresh: bool) -> (Result<Resolved>, Vec<String>) {
    let recipe = Recipe::parse(text, Path::new("tiny.toml")).unwrap();
    let cache = imgtool::cache::Cache::open(cache).unwrap();
    let notes = Arc::new(Mutex::new(Vec::new()));
    let heard = notes.clone();
    let progress = Progress::new(move |event| {
        if let Event::Note { text } = event {
            heard.lock().unwrap().push(text);
        }
    });
    let resolved =
        source::resolve(&recipe, Arch::X86_64, refresh, &Access::default(), &cache, &progress);
    let notes = notes.lock().unwrap().clone();
    (resolved, notes)
}

#[test]
fn a_bootstrap_is_made_once_and_knows_nothing_of_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let (made, notes) = resolve(RECIPE, &cache, false);
    let made = made.unwrap();
    assert!(notes.is_empty());
    let (again, notes) = resolve(RECIPE, &cache, false);
    assert!(notes[0].starts_with("using the bootstrap of 20"), "{notes:?}");
    assert!(notes[0].ends_with("from the cache (--refresh to make it anew)"), "{notes:?}");
    assert_eq!(again.unwrap().digest, made.digest);

    let layer = &made.layers[0];
    layer.verify().unwrap();
    assert_eq!(crate::world::read_all(&made).unwrap(), [made.digest]);
    let tar = dir.path().join("tar");
    let mut stream = layer.decompressed().unwrap();
    std::io::copy(&mut stream, &mut std::fs::File::create(&tar).unwrap()).unwrap();
    let list = run("tar", &["tf", tar.to_str().unwrap()]);
    let list = String::from_utf8(list).unwrap();
    assert!(list.lines().count() > 1000);
    assert!(list.lines().any(|name| name == "./etc/debian_version"));
    for name in ["./etc/hostname", "./etc/resolv.conf", "./var/cache/ldconfig/aux-cache"] {
        assert!(!list.lines().any(|line| line == name), "{name}");
    }
}

#[test]
fn a_failed_bootstrap_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let text = RECIPE.replace("\"essential\"", "\"essential\"\npackages = [\"no-such-package-x\"]");
    let (result, _) = resolve(&text, dir.path(), false);
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::Host);
    assert!(error.to_string().contains("no-such-package-x"), "{error}");
    for place in ["blobs/sha256", "keys"] {
        assert_eq!(std::fs::read_dir(dir.path().join(place)).unwrap().count(), 0);
    }
}

#[test]
fn offline_a_bootstrap_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = Recipe::parse(RECIPE, Path::new("tiny.toml")).unwrap();
    let cache = imgtool::cache::Cache::open(dir.path()).unwrap();
    let offline = Access { offline: true, ..Access::default() };
    let progress = Progress::silent();
    let error = source::resolve(&recipe, Arch::X86_64, false, &offline, &cache, &progress);
    let error = error.unwrap_err();
    assert_eq!(error.class(), Class::Network);
    let text = error.to_string();
    assert_eq!(text, "offline: debian bookworm essential x86_64 is not in the cache");
}
