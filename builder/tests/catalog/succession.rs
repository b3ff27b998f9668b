//! Keys that were stolen or lost, and rotated out: what they have signed is signed anew only where a
//! root has taken it over.

use std::fs;

use imgrun::Class;
use imgrun::tuf::{Memory, MetaFile, Role, Root, Timestamp};
use imgtool::sign::sign;

use crate::attacks::{point_at, read, seen, write};

/// The online keys were stolen, and rotated out in time. Who owns the store, too, puts what they sign
/// there; a publisher that never saw the catalog signs none of it anew, whatever it is asked for.
#[test]
fn what_stolen_keys_sign_is_never_signed_anew() {
    let repository = seen();
    let spare = repository.key("spare");
    for role in [Role::Targets, Role::Snapshot, Role::Timestamp] {
        let old = repository.key(role.name());
        let rotate = |p: &imgtool::publish::Publisher<'_>| {
            p.rotate(role, Some(old.public()), Some(spare.public()), None)
        };
        repository.publish_by(rotate).unwrap();
    }
    let honest = repository.read().unwrap().trusted;
    let mut evil = honest.targets;
    evil.version += 1;
    evil.targets.retain(|path, _| path.contains("a-1"));
    let bytes = write(&repository, &Role::Targets.file(evil.version), &evil, "targets");
    let mut snapshot = honest.snapshot;
    snapshot.version += 1;
    snapshot.meta.insert("targets.json".to_string(), MetaFile::of(evil.version, &bytes));
    let name = Role::Snapshot.file(snapshot.version);
    let bytes = write(&repository, &name, &snapshot, "snapshot");
    point_at(&repository, snapshot.version, &bytes, "timestamp");
    let before = repository.save();

    let fresh = repository.world.path("fresh");
    let memory = Memory::open(fresh).unwrap();
    memory.begin("store", &fs::read(repository.file("1.root.json")).unwrap(), "root").unwrap();
    let mut refused = 0;
    let mut refuse = |error: imgtool::Error| {
        assert_eq!(error.class(), Class::Trust, "{error}");
        assert!(!error.hint_text().unwrap_or_default().contains("mend"), "{error}");
        refused += 1;
    };
    let expire = spare.public();
    let by = |work: &dyn Fn(&imgtool::publish::Publisher<'_>) -> imgtool::Result<()>| {
        repository.publish_with(&memory, |p| work(p)).unwrap_err()
    };
    refuse(by(&|p| p.mending().map(drop)));
    refuse(by(&|p| p.repair().map(drop)));
    refuse(by(&|p| p.refresh().map(drop)));
    refuse(by(&|p| p.rotate(Role::Targets, Some(expire), None, None).map(drop)));
    refuse(by(&|p| p.expire(expire).map(drop)));
    refuse(by(&|p| p.yank(&|_| true, Some("x")).map(drop)));
    assert_eq!(refused, 6);
    assert!(repository.save() == before, "something was signed");
}

/// A key was lost, and its rotation cut behind the new root; then somebody found the key. Only what
/// the root took over by name is signed anew, and not even that by who has seen what came after it.
#[test]
fn only_what_a_root_took_over_is_signed_anew() {
    let mut repository = seen();
    let (lost, spare) = (repository.key("timestamp"), repository.key("spare"));
    for half in ["pem", "json"] {
        fs::remove_file(repository.world.path(&format!("keys/timestamp.{half}"))).unwrap();
    }
    repository.reload_keys();
    let cut = repository.save();
    let rotate = |p: &imgtool::publish::Publisher<'_>| {
        p.rotate(Role::Timestamp, Some(lost.public()), Some(spare.public()), None)
    };
    assert_eq!(repository.publish_by(rotate).unwrap(), 2);
    let root = fs::read(repository.file("2.root.json")).unwrap();
    repository.restore(&cut);
    fs::write(repository.file("2.root.json"), root).unwrap();

    let error = repository.publish_by(|p| p.mending()).unwrap_err();
    assert!(error.hint_text().unwrap().contains("has seen the catalog whole"), "{error}");

    // Back to when there was one version.
    let mut evil: Timestamp = read(&repository.file("2.timestamp.json"));
    evil.version = 4;
    let bytes = sign(&evil, &[&lost]).unwrap().to_bytes();
    for name in ["timestamp.json", "4.timestamp.json"] {
        fs::write(repository.file(name), &bytes).unwrap();
    }
    let memory = Memory::open(repository.world.path("fresh")).unwrap();
    memory.begin("store", &fs::read(repository.file("1.root.json")).unwrap(), "root").unwrap();
    let named = fs::read(repository.file("3.timestamp.json")).unwrap();
    fs::write(repository.file("3.timestamp.json"), &bytes).unwrap();
    let error = repository.publish_with(&memory, |p| p.mending()).unwrap_err();
    assert!(error.to_string().contains("another"), "{error}");
    fs::write(repository.file("3.timestamp.json"), named).unwrap();
    let mending = repository.publish_with(&memory, |p| p.mending()).unwrap();
    assert_eq!(mending.entries.len(), 2, "{mending:?}");
    assert_eq!(mending.files()[..2], ["2.root.json", "3.targets.json"]);
    let catalog = repository.publish_with(&memory, |p| p.mend(mending)).unwrap();
    assert_eq!(catalog.entries.len(), 2);
    let catalog = repository.read().unwrap();
    assert_eq!((catalog.entries.len(), catalog.trusted.root.version), (2, 2));
    // The next root takes nothing over.
    repository.publish_by(|p| p.rotate(Role::Root, None, Some(spare.public()), None)).unwrap();
    let root: Root = read(&repository.file("3.root.json"));
    assert!(root.succeeds.is_empty());
}
