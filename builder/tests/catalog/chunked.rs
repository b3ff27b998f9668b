//! `--chunked`: only what is new is uploaded, and readers see whole bundles.

use std::fs;
use std::path::Path;

use imgrun::Class;
use imgrun::depot::{self, Depot};
use imgtool::publish::Draft;

use crate::servers::{LOGIN, Server};
use crate::world::{Outcome, World, finish};

const ROOTFS_BYTES: usize = 6 << 20;

/// Bytes that do not compress, with a hole; equal for equal seeds.
fn rootfs(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(ROOTFS_BYTES);
    while bytes.len() < ROOTFS_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes[2 << 20..3 << 20].fill(0);
    bytes
}

/// Two versions that differ in a few bytes, and their kernel.
fn bundles(world: &World) -> [String; 3] {
    let kernel = world.kernel("linux", "6.1");
    let (old, mut new) = (rootfs(1), rootfs(1));
    new[5 << 20..(5 << 20) + 100].fill(7);
    let text = |path: std::path::PathBuf| path.display().to_string();
    let image =
        |version: &str, rootfs: &[u8]| text(world.image_of("deb", version, &kernel, rootfs));
    [image("1", &old), image("2", &new), text(kernel)]
}

fn publish(world: &World, store: &str, bundles: &[&str], more: &[&str]) -> Outcome {
    let args = [&["publish"], bundles, &["--to", store, "--untested"], more].concat();
    finish(world.command().args(args).envs(LOGIN))
}

/// How many bytes are kept, of which kind.
fn kept(targets: &Path, suffix: &str) -> Vec<u64> {
    let files = fs::read_dir(targets).unwrap().flatten();
    let files = files.filter(|file| file.file_name().to_str().unwrap().ends_with(suffix));
    files.map(|file| file.metadata().unwrap().len()).collect()
}

/// What a reader gets of `bundle`, whole and in a range in the middle, is what was published.
fn reads(depot: &dyn Depot, bundle: &str) {
    let (key, bytes) =
        (Draft::read(bundle.as_ref()).unwrap().entry.key(), fs::read(bundle).unwrap());
    let size = bytes.len() as u64;
    assert_eq!(depot.size(&key).unwrap(), Some(size));
    for range in [0..size, 0..1, 511..70_000, size / 3..size / 2, size - 1..size + 9, size..size] {
        let mut found = Vec::new();
        let n = depot.read(&key, range.clone(), &mut found).unwrap();
        let end = range.end.min(size);
        assert_eq!(n, Some(end - range.start), "{range:?}");
        assert!(found == bytes[range.start as usize..end as usize], "{range:?}");
    }
}

#[test]
fn only_what_is_new_is_uploaded_and_readers_see_whole_bundles() {
    let world = World::new();
    let store = world.store("s");
    world.init(&store);
    let [old, new, kernel] = bundles(&world);
    publish(&world, &store, &[&old, &kernel], &["--chunked"]).ok();
    let targets = world.path("s/targets");
    assert_eq!(kept(&targets, ".tar.zst").len(), 0, "nothing is whole");
    let first: u64 = kept(&targets, ".frames").iter().sum();
    publish(&world, &store, &[&new], &["--chunked"]).ok();
    let second = kept(&targets, ".frames").iter().sum::<u64>() - first;
    assert!(second > 0 && second < first / 4, "{second} of {first} bytes are new");
    let again = publish(&world, &store, &[&old, &new, &kernel], &["--chunked", "--json"]);
    assert!(again.ok().text().matches("\"nothing\"").count() == 3);
    world.imgtool(["catalog", "verify", &store, "--deep"]).ok();

    let server = Server::web(&world.path("s"));
    let web = depot::open(&format!("http://127.0.0.1:{}", server.port)).unwrap();
    let file = depot::open(&store).unwrap();
    for bundle in [&old, &new, &kernel] {
        reads(file.as_ref(), bundle);
        reads(web.as_ref(), bundle);
    }

    // A cut before the index: the same command goes on.
    let index = Draft::read(new.as_ref()).unwrap().entry.key() + ".chunks";
    fs::remove_file(world.path("s").join(&index)).unwrap();
    let verify = ["catalog", "verify", &store];
    world.imgtool(verify).fails(4, "deb-2-x86_64.tar.zst: it is not there");
    publish(&world, &store, &[&new], &["--chunked"]).ok();
    world.imgtool(["catalog", "verify", &store, "--deep"]).ok();

    // The old version goes; what the new one has of it stays.
    std::thread::sleep(std::time::Duration::from_secs(1));
    world.imgtool(["catalog", "prune", &store, "--keep", "1", "--unused-for", "0s"]).ok();
    assert_eq!(kept(&targets, ".chunks").len(), 2, "the new version's and the kernel's");
    world.imgtool(["catalog", "verify", &store, "--deep"]).ok();
    reads(file.as_ref(), &new);
}

/// A version that is whole beside an index whose objects are gone gives nothing to build upon.
#[test]
fn pieces_that_are_gone_are_uploaded_again() {
    let world = World::new();
    let store = world.store("s");
    world.init(&store);
    let [old, new, kernel] = bundles(&world);
    publish(&world, &store, &[&old, &kernel], &["--chunked"]).ok();
    let entry = Draft::read(old.as_ref()).unwrap().entry;
    fs::copy(&old, world.path("s").join(entry.key())).unwrap();
    let files = fs::read_dir(world.path("s/targets")).unwrap().flatten().map(|file| file.path());
    let frames = files.filter(|file| file.extension().is_some_and(|e| e == "frames"));
    fs::remove_file(frames.max_by_key(|file| file.metadata().unwrap().len()).unwrap()).unwrap();
    publish(&world, &store, &[&new], &["--chunked"]).ok();
    world.imgtool(["catalog", "verify", &store, "--deep"]).ok();
}

#[test]
fn what_is_tampered_with_is_refused() {
    let world = World::new();
    let store = world.store("s");
    world.init(&store);
    let [old, _, kernel] = bundles(&world);
    publish(&world, &store, &[&old, &kernel], &["--chunked"]).ok();
    let entry = Draft::read(old.as_ref()).unwrap().entry;
    let files = fs::read_dir(world.path("s/targets")).unwrap().flatten().map(|file| file.path());
    let frames = files.filter(|file| file.extension().is_some_and(|e| e == "frames"));
    let frames = frames.max_by_key(|file| file.metadata().unwrap().len()).unwrap();
    let files = [world.path("s").join(entry.key() + ".chunks"), frames];
    for file in files {
        let whole = fs::read(&file).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 20) {
            let (mut flipped, cut) = (whole.clone(), &whole[..at]);
            flipped[at] ^= 0x80;
            for wrong in [&flipped[..], cut] {
                fs::write(&file, wrong).unwrap();
                let depot = depot::open(&store).unwrap();
                let error = entry.fetch(depot.as_ref(), &mut std::io::sink()).unwrap_err();
                assert_eq!(error.class(), Class::Trust, "{error}");
            }
        }
        fs::write(&file, whole).unwrap();
    }
    world.imgtool(["catalog", "verify", &store, "--deep"]).ok();
}

#[test]
fn a_bucket_takes_pieces_and_a_registry_does_not() {
    let (world, server) = (World::new(), Server::moto());
    server.make_bucket("images");
    let store = server.bucket("images");
    let [old, new, kernel] = bundles(&world);
    world.imgtool(["key", "new", "me", "--no-passphrase"]).ok();
    let imgtool = |args: &[&str]| finish(world.command().args(args).envs(LOGIN));
    imgtool(&["catalog", "init", &store, "--key", "me"]).ok();
    // Whole and in pieces beside each other.
    publish(&world, &store, &[&kernel], &[]).ok();
    publish(&world, &store, &[&old], &["--chunked"]).ok();
    publish(&world, &store, &[&new], &["--chunked"]).ok();
    imgtool(&["catalog", "verify", &store, "--deep"]).ok();
    let registry = "oci://127.0.0.1:1/images";
    publish(&world, registry, &[&old], &["--chunked"]).fails(2, "keeps whole bundles only");
}
