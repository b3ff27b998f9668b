//! From layers to a bundle, and from the bundle into a store: nothing changes on the way, and the
//! manifest says what is inside.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bundle::{Arch, Digest, Frame, Init, Outline, ROOTFS, Reference, SBOM};
use imgrun::{Cancel, Progress, Store};
use imgtool::compare::{Opened, compare, compare_files};
use imgtool::image::Image;
use imgtool::inject::Agent;
use imgtool::pack::{Packed, pack};
use imgtool::plan::Plan;
use imgtool::source;
use serde_json::Value;

const STATUS: &str = "\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10

Package: vim
Status: deinstall ok config-files
Architecture: amd64
Version: 2:9.0
";
const INSTALLED: &str = "C:Q1=\nP:musl\nV:1.2.5-r0\nA:x86_64\n\n";

struct World {
    directory: tempfile::TempDir,
}

impl World {
    /// A tree with two package databases and some content.
    fn new() -> World {
        let world = World { directory: tempfile::tempdir().unwrap() };
        world.write("etc/os-release", "NAME=x\nID=debian\n");
        world.write("var/lib/dpkg/status", STATUS);
        world.write("var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 2024a-0\n");
        world.write("var/lib/dpkg/status.d/tzdata.md5sums", "Package: not\nVersion: one\n");
        world.write("lib/apk/db/installed", INSTALLED);
        for number in 0..40 {
            let line = |i: u32| format!("{:x}\n", (i * 7919 + number).wrapping_mul(2_654_435_761));
            let content: String = (0..20_000).map(line).collect();
            world.write(&format!("usr/share/files/{number:02}"), &content);
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path("tree").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Packs the tree as it is now.
    fn pack(&self, version: &str) -> Packed {
        let tar = self.path("root.tar");
        let mut command = Command::new("tar");
        command.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-cf"]).arg(&tar);
        assert!(command.arg("-C").arg(self.path("tree")).arg(".").status().unwrap().success());
        let quiet = Progress::silent();
        let source = source::tarball(&tar, &quiet).unwrap();
        let plan = Plan {
            name: "t".parse().unwrap(),
            version: version.parse().unwrap(),
            arch: Arch::host(),
            init: Init::Agent,
            epoch: Some(1_700_000_000),
            size_bytes: None,
            reserve_bytes: 64 << 20,
            label: "t".into(),
            layers: source.layers,
            source: bundle::Source { name: source.name, digest: source.digest },
            recipe: Digest::of("recipe"),
            lock: None,
            tests: Vec::new(),
            kernel: Reference {
                name: "k".parse().unwrap(),
                version: "6.1".parse().unwrap(),
                digest: Digest::of("kernel"),
            },
            agent: Agent::embedded(Arch::host()).unwrap(),
        };
        let layout = plan.layout().unwrap();
        let image = Image::flatten(&layout, self.directory.path(), &quiet).unwrap();
        pack(&plan, image, self.directory.path(), &quiet).unwrap()
    }

    /// What `zstd -dc FILE | tar xO NAME` gives.
    fn member(&self, packed: &Path, name: &str) -> Vec<u8> {
        let script = "zstd -dcq \"$0\" | tar xO \"$1\"";
        let mut command = Command::new("sh");
        let output = command.args(["-c", script]).arg(packed).arg(name).stderr(Stdio::inherit());
        output.output().unwrap().stdout
    }
}

fn outline(packed: &Packed) -> Outline {
    Outline::open(&mut fs::File::open(&packed.path).unwrap()).unwrap()
}

#[test]
fn the_manifest_says_what_is_inside() {
    let world = World::new();
    let packed = world.pack("1");
    let manifest: Value =
        serde_json::from_slice(&world.member(&packed.path, "manifest.json")).unwrap();
    assert_eq!(manifest, serde_json::to_value(&packed.manifest).unwrap());
    let titles: Vec<String> = packed
        .manifest
        .packages
        .iter()
        .map(|p| format!("{:?} {} {} {}", p.database, p.name, p.version, p.arch))
        .collect();
    let expected =
        ["Dpkg libc6 2.36-9+deb12u10 amd64", "Dpkg tzdata 2024a-0 ", "Apk musl 1.2.5-r0 x86_64"];
    assert_eq!(titles, expected);

    let sbom = world.member(&packed.path, SBOM);
    let document: Value = serde_json::from_slice(&sbom).unwrap();
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    assert_eq!(document["creationInfo"]["created"], "2023-11-14T22:13:20Z");
    let packages = document["packages"].as_array().unwrap();
    assert_eq!(packages.len(), 1 + expected.len());
    let purl = &packages[1]["externalRefs"][0]["referenceLocator"];
    assert_eq!(purl, "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64");

    for (file, content) in [(ROOTFS, world.member(&packed.path, ROOTFS)), (SBOM, sbom)] {
        let entry = packed.manifest.file(file).unwrap();
        assert_eq!((entry.size, entry.digest), (content.len() as u64, Digest::of(&content)));
    }
}

#[test]
fn a_store_takes_in_what_was_packed() {
    use std::os::unix::fs::MetadataExt;
    let world = World::new();
    let packed = world.pack("1");
    assert_eq!(Digest::of(fs::read(&packed.path).unwrap()), packed.digest);
    let store = Store::open(world.path("store")).unwrap();
    let imported = store.import(&packed.path, &Progress::silent(), &Cancel::new()).unwrap();
    assert_eq!(imported.bundle.digest, packed.digest);
    assert_eq!(imported.bundle.manifest, packed.manifest);
    let rootfs = imported.bundle.path(ROOTFS);
    assert!(fs::read(&rootfs).unwrap() == world.member(&packed.path, ROOTFS));
    let metadata = rootfs.metadata().unwrap();
    assert!(metadata.len() - metadata.blocks() * 512 > 60 << 20, "the reserve is no hole");
    let fsck = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&rootfs).output().unwrap();
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
    // What a delta needs: the table, as the manifest names it, and the manifest's very bytes.
    let table = fs::read(imported.bundle.path("frames")).unwrap();
    let json = fs::read(imported.bundle.path("manifest.json")).unwrap();
    let again = Outline::new(json, &table).unwrap();
    assert_eq!(again.pieces(), outline(&packed).pieces());
}

#[test]
fn equal_inputs_give_equal_bytes() {
    let world = World::new();
    let first = world.pack("1");
    let bytes = fs::read(&first.path).unwrap();
    let second = world.pack("1");
    assert_eq!(first.digest, second.digest);
    assert!(fs::read(&second.path).unwrap() == bytes);
}

/// One file more, in the middle of the others: what is new to fetch is that, the tables, and little
/// else.
#[test]
fn the_next_version_shares_most_frames() {
    let world = World::new();
    let first = outline(&world.pack("1"));
    world.write("usr/share/files/20-more", &"something new\n".repeat(3000));
    let second = outline(&world.pack("2"));
    let digests = |outline: &Outline| -> HashSet<Digest> {
        let data = outline.pieces().iter().filter_map(|piece| match piece.frame {
            Frame::Data { raw, .. } => Some(raw),
            Frame::Zero { .. } => None,
        });
        data.collect()
    };
    let known = digests(&first);
    let fresh: u64 = second
        .missing(|raw| known.contains(raw))
        .into_iter()
        .map(|index| second.pieces()[index].frame.packed_bytes())
        .sum();
    let share = fresh as f64 / second.packed_bytes() as f64;
    assert!(share < 0.2, "{fresh} of {} bytes are new", second.packed_bytes());
}

#[test]
fn two_versions_are_compared() {
    let world = World::new();
    let first = world.pack("1");
    let status = STATUS.replace("2.36-9+deb12u10", "2.36-9+deb12u11");
    world.write("var/lib/dpkg/status", &format!("{status}\nPackage: jq\nVersion: 1.6\n"));
    fs::remove_file(world.path("tree/lib/apk/db/installed")).unwrap();
    let second = world.pack("2");
    let open = |packed: &Packed| Opened::open(&packed.path).unwrap();
    let (old, new) = (open(&first), open(&second));
    let comparison = compare(&old, &new).unwrap();
    let packages: Vec<String> =
        comparison.packages.iter().map(|p| format!("{} {:?} {:?}", p.name, p.from, p.to)).collect();
    let expected = [
        "jq [] [\"1.6\"]",
        "libc6 [\"2.36-9+deb12u10\"] [\"2.36-9+deb12u11\"]",
        "musl [\"1.2.5-r0\"] []",
    ];
    assert_eq!(packages, expected);
    assert_eq!(comparison.config, None);
    assert!((1..second.bytes / 5).contains(&comparison.update_bytes), "{comparison:#?}");
    let mut paths = Vec::new();
    compare_files(&old, &new, &Progress::silent(), &mut |difference| {
        paths.push(String::from_utf8(difference.path).unwrap());
        Ok(true)
    })
    .unwrap();
    assert!(paths.iter().any(|path| path.ends_with("lib/apk/db/installed")), "{paths:?}");
    assert!(paths.iter().all(|path| !path.contains("share")), "{paths:?}");
}
