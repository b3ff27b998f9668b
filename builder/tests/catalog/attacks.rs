//! What an attacker may try who owns the store, the network, or one key too few. Each test is one
//! attack; the reader has seen the honest catalog before.

use std::fs;
use std::path::Path;

use imgrun::Class;
use imgrun::catalog::{Catalog, entries};
use imgrun::tuf::{
    Clock, Envelope, Memory, MetaFile, Role, Root, Signed, Snapshot, Targets, Time, Timestamp, time,
};
use imgtool::publish::{Draft, examine};
use imgtool::sign::{SigningKey, sign};

use crate::world::Repository;

pub(crate) fn read<T: Signed>(path: &Path) -> T {
    T::read(&Envelope::parse(&fs::read(path).unwrap(), "it").unwrap(), "it").unwrap()
}

/// With two versions, both seen by the reader.
pub(crate) fn seen() -> Repository {
    let repository = Repository::new();
    repository.publish("a", "1");
    repository.publish("a", "2");
    assert_eq!(repository.read().unwrap().entries.len(), 2);
    repository
}

pub(crate) fn write<T: Signed>(
    repository: &Repository,
    name: &str,
    signed: &T,
    key: &str,
) -> Vec<u8> {
    let key: SigningKey = repository.key(key);
    let bytes = sign(signed, &[&key]).unwrap().to_bytes();
    fs::write(repository.file(name), &bytes).unwrap();
    bytes
}

/// Signs `targets` and lets snapshot and timestamp follow, each with the key of its role but for
/// those in `keys`.
fn publish_targets(repository: &Repository, targets: &Targets, keys: [&str; 3]) {
    let n = targets.version;
    let bytes = write(repository, &Role::Targets.file(n), targets, keys[0]);
    let mut snapshot: Snapshot = read(&repository.file("3.snapshot.json"));
    snapshot.version = n;
    snapshot.meta.insert("targets.json".to_string(), MetaFile::of(n, &bytes));
    let bytes = write(repository, &Role::Snapshot.file(n), &snapshot, keys[1]);
    point_at(repository, n, &bytes, keys[2]);
}

pub(crate) fn point_at(repository: &Repository, snapshot: u64, bytes: &[u8], key: &str) {
    let mut timestamp: Timestamp = read(&repository.file("timestamp.json"));
    timestamp.version += 1;
    timestamp.meta.insert("snapshot.json".to_string(), MetaFile::of(snapshot, bytes));
    write(repository, "timestamp.json", &timestamp, key);
}

fn targets(repository: &Repository) -> Targets {
    let mut targets: Targets = read(&repository.file("3.targets.json"));
    targets.version += 1;
    targets
}

const HONEST: [&str; 3] = ["targets", "snapshot", "timestamp"];

#[test]
fn honest_metadata_made_by_these_helpers_are_believed() {
    let repository = seen();
    publish_targets(&repository, &targets(&repository), HONEST);
    assert_eq!(repository.read().unwrap().trusted.targets.version, 4);
}

/// Changes one byte inside the signed part of each file that the next reader gets.
fn tampered(name: &str, from: &str, to: &str, words: &str) {
    let repository = seen();
    repository.publish("a", "3");
    let path = repository.file(name);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replace(from, to)).unwrap();
    repository.refused(words);
    // A reader that has seen nothing is not fooled, either.
    let fresh = Memory::open(repository.world.path("fresh")).unwrap();
    fresh.begin("store", &fs::read(repository.file("1.root.json")).unwrap(), "root").unwrap();
    let error = Catalog::open(&repository.depot, &fresh, Clock::now()).unwrap_err();
    assert_eq!(error.class(), Class::Trust);
}

#[test]
fn tampered_targets() {
    tampered("4.targets.json", "\"tested\": false", "\"tested\":  true", "another digest");
}

#[test]
fn tampered_snapshot() {
    tampered("4.snapshot.json", "\"version\": 4", "\"version\": 5", "another digest");
}

#[test]
fn tampered_timestamp() {
    tampered("timestamp.json", "\"version\": 4", "\"version\": 9", "valid signatures");
}

#[test]
fn tampered_next_root() {
    let repository = seen();
    repository
        .publish_by(|p| p.rotate(Role::Targets, None, Some(repository.key("spare").public()), None))
        .unwrap();
    let path = repository.file("2.root.json");
    let text = fs::read_to_string(&path).unwrap().replace("\"threshold\": 1", "\"threshold\": 0");
    fs::write(&path, text).unwrap();
    repository.refused("valid signatures");
}

#[test]
fn tampered_blob_and_tampered_manifest() {
    let repository = seen();
    let catalog = repository.read().unwrap();
    let path = repository.world.path("store").join(catalog.entries[0].key());
    let honest = fs::read(&path).unwrap();
    assert!(examine(&repository.depot, &catalog, true).unwrap().is_empty());
    let mut flipped = honest.clone();
    flipped[honest.len() / 2] ^= 1;
    // Another manifest in the same bundle.
    let other = fs::read(repository.world.kernel("b", "1")).unwrap();
    for bytes in [flipped, other, honest[..10].to_vec(), [honest.as_slice(), b"more"].concat()] {
        fs::write(&path, bytes).unwrap();
        let mut out = Vec::new();
        let error = catalog.entries[0].fetch(&repository.depot, &mut out).unwrap_err();
        assert_eq!(error.class(), Class::Trust);
        assert!(out.len() <= honest.len(), "more was taken than was signed");
        assert_eq!(examine(&repository.depot, &catalog, true).unwrap().len(), 1);
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(examine(&repository.depot, &catalog, false).unwrap().len(), 1);
}

#[test]
fn rollback_of_the_whole_store() {
    let repository = Repository::new();
    repository.publish("a", "1");
    let old = repository.save();
    repository.publish("a", "2");
    repository.read().unwrap();
    repository.restore(&old);
    repository.refused("older than what this host has seen");
}

#[test]
fn rollback_of_the_snapshot_under_a_new_timestamp() {
    let repository = seen();
    let bytes = fs::read(repository.file("2.snapshot.json")).unwrap();
    point_at(&repository, 2, &bytes, "timestamp");
    repository.refused("snapshot: version 2 is older than 3");
}

#[test]
fn mix_and_match_of_old_targets_in_a_new_snapshot() {
    let repository = seen();
    let mut snapshot: Snapshot = read(&repository.file("3.snapshot.json"));
    snapshot.version = 4;
    let bytes = fs::read(repository.file("2.targets.json")).unwrap();
    snapshot.meta.insert("targets.json".to_string(), MetaFile::of(2, &bytes));
    let bytes = write(&repository, "4.snapshot.json", &snapshot, "snapshot");
    point_at(&repository, 4, &bytes, "timestamp");
    repository.refused("targets.json: version 2 is older than 3");
}

#[test]
fn a_snapshot_of_another_number_than_the_timestamp_says() {
    let repository = seen();
    let snapshot: Snapshot = read(&repository.file("3.snapshot.json"));
    let bytes = write(&repository, "7.snapshot.json", &snapshot, "snapshot");
    point_at(&repository, 7, &bytes, "timestamp");
    repository.refused("it has version 3, not 7");
}

#[test]
fn freeze_past_the_expiry() {
    let repository = seen();
    let later = |days: u64| Clock::At(time::now() + days * 86_400);
    for (days, role) in [(3, "timestamp"), (400, "root")] {
        let error = Catalog::open(&repository.depot, &repository.reader, later(days)).unwrap_err();
        assert_eq!(error.class(), Class::Trust);
        assert!(error.to_string().contains(&format!("{role} metadata expired at")), "{error}");
    }
    // A new timestamp alone does not hide that nobody has looked at the targets for a year.
    let mut timestamp: Timestamp = read(&repository.file("timestamp.json"));
    timestamp.version += 1;
    timestamp.expires = Time(time::now() + 1_000 * 86_400);
    write(&repository, "timestamp.json", &timestamp, "timestamp");
    let error = Catalog::open(&repository.depot, &repository.reader, later(10)).unwrap_err();
    assert!(error.to_string().contains("snapshot metadata expired at"), "{error}");
}

#[test]
fn a_clock_that_never_was_right_is_not_called_an_attack() {
    let repository = seen();
    let error = Catalog::open(&repository.depot, &repository.reader, Clock::At(1_000)).unwrap_err();
    assert_eq!(error.class(), Class::Host);
    assert!(error.to_string().contains("1970-01-01"), "{error}");
}

#[test]
fn a_key_that_is_nobodys() {
    for (i, role) in Role::ALL.into_iter().skip(1).enumerate() {
        let repository = seen();
        let mut keys = HONEST;
        keys[i] = "spare";
        publish_targets(&repository, &targets(&repository), keys);
        let error = repository.refused("valid signatures");
        assert!(error.to_string().contains(role.name()), "{error}");
    }
}

#[test]
fn another_roles_key() {
    let repository = seen();
    publish_targets(&repository, &targets(&repository), ["timestamp", "snapshot", "timestamp"]);
    repository.refused("valid signatures");
}

#[test]
fn too_few_signatures_and_one_given_twice() {
    let repository = Repository::with(&|owners| {
        owners.roles.get_mut(&Role::Targets).unwrap().1 = 1;
    });
    let spare = repository.key("spare");
    let two = |p: &imgtool::publish::Publisher<'_>| {
        p.rotate(Role::Targets, None, Some(spare.public()), Some(2))
    };
    repository.publish_by(two).unwrap();
    repository.publish("a", "1");
    assert_eq!(repository.read().unwrap().entries.len(), 1);

    let catalog = repository.read().unwrap();
    let mut next = catalog.trusted.targets.clone();
    next.version += 1;
    let one = repository.key("targets");
    let mut envelope = sign(&next, &[&one]).unwrap();
    let lone = envelope.to_bytes();
    envelope.signatures.push(envelope.signatures[0].clone());
    let twice = envelope.to_bytes();
    for (bytes, words) in [(lone, "it needs 2 valid signatures"), (twice, "signed it twice")] {
        fs::write(repository.file(&Role::Targets.file(next.version)), &bytes).unwrap();
        let mut snapshot = catalog.trusted.snapshot.clone();
        snapshot.version += 1;
        let file = MetaFile::of(next.version, &bytes);
        snapshot.meta.insert("targets.json".to_string(), file);
        let name = Role::Snapshot.file(snapshot.version);
        let bytes = write(&repository, &name, &snapshot, "snapshot");
        point_at(&repository, snapshot.version, &bytes, "timestamp");
        repository.refused(words);
    }
}

/// One key under two names is one key.
#[test]
fn one_key_under_two_names() {
    let repository = seen();
    let mut root: Root = read(&repository.file("1.root.json"));
    let key = repository.key("targets").public().clone();
    root.version = 2;
    root.keys.insert("alias".to_string(), key);
    let targets_keys = root.roles.get_mut(&Role::Targets).unwrap();
    targets_keys.keyids.push("alias".to_string());
    targets_keys.threshold = 2;
    write(&repository, "2.root.json", &root, "root");
    let next = targets(&repository);
    let mut envelope = sign(&next, &[&repository.key("targets")]).unwrap();
    let mut alias = envelope.signatures[0].clone();
    alias.keyid = "alias".to_string();
    envelope.signatures.push(alias);
    publish_targets(&repository, &next, HONEST);
    let bytes = envelope.to_bytes();
    fs::write(repository.file("4.targets.json"), &bytes).unwrap();
    let mut snapshot: Snapshot = read(&repository.file("4.snapshot.json"));
    snapshot.meta.insert("targets.json".to_string(), MetaFile::of(4, &bytes));
    let bytes = write(&repository, "4.snapshot.json", &snapshot, "snapshot");
    point_at(&repository, 4, &bytes, "timestamp");
    repository.refused("it needs 2 valid signatures of its role's keys, it has 1");
}

#[test]
fn a_key_that_was_rotated_out() {
    let repository = seen();
    let (old, new) = (repository.key("targets"), repository.key("spare"));
    let rotate = |p: &imgtool::publish::Publisher<'_>| {
        p.rotate(Role::Targets, Some(old.public()), Some(new.public()), None)
    };
    assert_eq!(repository.publish_by(rotate).unwrap(), 2);
    repository.publish("a", "3");
    let catalog = repository.read().unwrap();
    assert_eq!(catalog.entries.len(), 3);
    let mut next = catalog.trusted.targets;
    next.version += 1;
    let bytes = write(&repository, &Role::Targets.file(next.version), &next, "targets");
    let mut snapshot = catalog.trusted.snapshot;
    snapshot.version += 1;
    snapshot.meta.insert("targets.json".to_string(), MetaFile::of(next.version, &bytes));
    let name = Role::Snapshot.file(snapshot.version);
    let bytes = write(&repository, &name, &snapshot, "snapshot");
    point_at(&repository, snapshot.version, &bytes, "timestamp");
    repository.refused("valid signatures");
}

#[test]
fn a_root_that_its_owners_did_not_sign() {
    let repository = seen();
    let mut root: Root = read(&repository.file("1.root.json"));
    let thief = repository.key("spare").public().clone();
    root.version = 2;
    root.keys.insert(thief.id(), thief.clone());
    root.roles.get_mut(&Role::Root).unwrap().keyids = vec![thief.id()];
    write(&repository, "2.root.json", &root, "spare");
    repository.refused("2.root.json: it needs 1 valid signatures");
    // Signed by its owner, but with a number left out.
    root.version = 3;
    root.roles.get_mut(&Role::Root).unwrap().keyids = vec![repository.key("root").id()];
    write(&repository, "2.root.json", &root, "root");
    repository.refused("it has version 3 instead of 2");
}

#[test]
fn root_keys_change_only_with_their_threshold() {
    let repository = Repository::with(&|_| {});
    let (two, three) = (repository.key("root-2"), repository.key("root-3"));
    repository.publish_by(|p| p.rotate(Role::Root, None, Some(two.public()), None)).unwrap();
    repository.publish_by(|p| p.rotate(Role::Root, None, Some(three.public()), Some(2))).unwrap();
    let root = repository.read().unwrap().trusted.root;
    assert_eq!(
        (root.version, root.threshold(Role::Root), root.keys_of(Role::Root).len()),
        (3, 2, 3)
    );
    let mut next = root;
    next.version = 4;
    write(&repository, "4.root.json", &next, "root-2");
    repository.refused("4.root.json: it needs 2 valid signatures");
}

#[test]
fn endless_data() {
    let repository = seen();
    let many = "x".repeat(64 << 10);
    for name in ["timestamp.json", "2.root.json"] {
        let saved = repository.save();
        fs::write(repository.file(name), many.repeat(if name == "2.root.json" { 16 } else { 1 }))
            .unwrap();
        repository.refused("more than");
        repository.restore(&saved);
    }
    repository.publish("a", "3");
    // Not one byte is read beyond the size that was signed, not even of a valid beginning.
    let saved = repository.save();
    for name in ["4.snapshot.json", "4.targets.json"] {
        let text = fs::read_to_string(repository.file(name)).unwrap();
        fs::write(repository.file(name), text + &" ".repeat(1 << 20)).unwrap();
        repository.refused("more than");
        repository.restore(&saved);
    }
}

/// Roots without an end, each signed as it must be, hold nobody up for ever; and a reader who has
/// not looked for a thousand changes is told so, and goes on from there.
#[test]
fn roots_without_an_end() {
    let repository = seen();
    let mut root: Root = read(&repository.file("1.root.json"));
    for version in 2..=1_100 {
        root.version = version;
        write(&repository, &Role::Root.file(version), &root, "root");
    }
    let error = repository.read().unwrap_err();
    assert_eq!(error.class(), Class::Trust);
    assert!(error.to_string().contains("1026.root.json: too many roots"), "{error}");
    assert_eq!(repository.read().unwrap().trusted.root.version, 1_100);
}

#[test]
fn another_names_bundle_under_this_name() {
    let repository = seen();
    repository.publish("evil", "1");
    let catalog = repository.read().unwrap();
    // The publisher's key is stolen: the list itself is signed.
    let mut next = catalog.trusted.targets.clone();
    next.version += 1;
    let evil = catalog.entries.iter().find(|e| e.name.as_str() == "evil").unwrap();
    let mut lie = evil.clone();
    (lie.name, lie.version) = ("a".parse().unwrap(), "3".parse().unwrap());
    next.targets.insert(lie.path(), lie.to_target());
    assert!(entries(&next).unwrap().contains(&lie));
    let manifest = |name: &str, version: &str| {
        let mut file = fs::File::open(repository.world.kernel(name, version)).unwrap();
        bundle::Manifest::of_packed(&mut file).unwrap()
    };
    let error = lie.check(&manifest("evil", "1")).unwrap_err();
    assert!(
        error.to_string().contains("lists a:3 x86_64, but the bundle there is evil-1"),
        "{error}"
    );
    lie.check(&manifest("a", "3")).unwrap();
    // Nor does a name fit under another's path.
    next.targets.insert("a-4-x86_64.tar.zst".to_string(), evil.to_target());
    assert!(entries(&next).is_err());
}

#[test]
fn a_version_never_changes() {
    let repository = seen();
    let file = repository.world.kernel("a", "2");
    let mut draft = Draft::read(&file).unwrap();
    draft.entry.digest = bundle::Digest::of(b"other bytes");
    let options = imgtool::publish::Options { untested: true, chunked: false };
    let error = repository.publish_by(|p| p.plan(vec![draft], options)).unwrap_err();
    assert!(error.to_string().contains("is published already, with other bytes"), "{error}");
}

/// A stolen timestamp key can sign the last number there is; the owner must be able to go on.
#[test]
fn fast_forward_and_recovery() {
    let repository = seen();
    let honest = repository.save();
    let mut timestamp: Timestamp = read(&repository.file("timestamp.json"));
    timestamp.version = u64::from(u32::MAX);
    write(&repository, "timestamp.json", &timestamp, "timestamp");
    repository.read().unwrap();
    repository.restore(&honest);
    repository.refused("older than what this host has seen");
    let (old, new) = (repository.key("timestamp"), repository.key("spare"));
    let rotate = |p: &imgtool::publish::Publisher<'_>| {
        p.rotate(Role::Timestamp, Some(old.public()), Some(new.public()), None)
    };
    repository.publish_by(rotate).unwrap();
    assert_eq!(repository.read().unwrap().entries.len(), 2);
}

/// A publisher that was overtaken writes `timestamp.json` last and is killed: the newer one is still
/// there under its number, and nobody calls that an attack.
#[test]
fn an_overtaken_timestamp_is_no_attack() {
    let repository = seen();
    let older = fs::read(repository.file("2.timestamp.json")).unwrap();
    fs::write(repository.file("timestamp.json"), older).unwrap();
    assert_eq!(repository.read().unwrap().entries.len(), 2);
    repository.publish_by(|p| p.refresh()).unwrap();
    let timestamp: Timestamp = read(&repository.file("timestamp.json"));
    assert_eq!(timestamp.version, 4);
}

#[test]
fn a_reader_without_a_root_or_with_anothers_believes_nothing() {
    let (repository, other) = (seen(), seen());
    let memory = Memory::open(repository.world.path("new")).unwrap();
    let error = Catalog::open(&repository.depot, &memory, Clock::now()).unwrap_err();
    assert!(error.to_string().contains("no root of trust"), "{error}");
    let root = fs::read(other.file("1.root.json")).unwrap();
    memory.begin("store", &root, "root.json").unwrap();
    let error = Catalog::open(&repository.depot, &memory, Clock::now()).unwrap_err();
    assert_eq!(error.class(), Class::Trust);
    let error = repository.reader.begin("store", &root, "root.json").unwrap_err();
    assert!(error.to_string().contains("another owner"), "{error}");
}
