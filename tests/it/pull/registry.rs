//! A catalog in a registry.

use std::os::unix::fs::FileExt;
use std::path::Path;

use imgtool_tests::World;
use imgtool_tests::registry::Registry;

use super::{COMMON_BYTES, Depot, Host, fetched, saved};

/// The bundles of the shared depot, published to a registry of their own.
struct Published {
    world: World,
    registry: Registry,
}

impl Published {
    fn new() -> Self {
        let world = World::new();
        let registry = Registry::start(&world);
        let published = Published { world, registry };
        let address = published.address();
        published.imgtool(&["key", "new", "me", "--no-passphrase"]);
        published.imgtool(&["catalog", "init", &address, "--key", "me", "--single-writer"]);
        let out = Depot::shared().world.path("out");
        let bundles = Depot::shared().world.files("out").into_iter();
        let bundles: Vec<String> =
            bundles.map(|file| out.join(file).display().to_string()).collect();
        let publish = ["publish", "--untested", "--single-writer", "--to", &address].into_iter();
        let args: Vec<&str> = publish.chain(bundles.iter().map(String::as_str)).collect();
        published.imgtool(&args);
        published
    }

    fn imgtool(&self, args: &[&str]) {
        let mut command = self.world.command(imgtool_tests::program("imgtool"));
        command.args(args).env("IMGTOOL_KEYS", self.world.path("keys"));
        command.env("IMGTOOL_STATE", self.world.path("state"));
        imgtool_tests::finish(command).ok();
    }

    fn address(&self) -> String {
        format!("oci://{}", self.registry.name("images"))
    }

    fn host(&self) -> Host {
        let host = Host { world: World::new() };
        host.world.write("config/imgrun/root.json", self.root());
        host.follow(&[&self.address()]);
        host
    }

    fn root(&self) -> Vec<u8> {
        std::fs::read(self.world.path("root.json")).unwrap()
    }

    /// The registry's file that holds what `bundle` holds.
    fn blob(&self, world: &World, bundle: &Path) -> std::path::PathBuf {
        let sum = world.run("sha256sum", [bundle]).ok().text();
        self.registry.blob(world, sum.split(' ').next().unwrap())
    }
}

/// Flips a bit in the middle.
fn damage(file: &Path) {
    let open = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let at = open.metadata().unwrap().len() / 2;
    let mut byte = [0];
    open.read_exact_at(&mut byte, at).unwrap();
    open.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn a_registry_is_pulled_from_and_followed() {
    let (depot, published) = (Depot::shared(), Published::new());
    let host = published.host();
    let first = host.pull("t@1");
    assert!(fetched(&first) > COMMON_BYTES as u64, "{first}");
    host.holds(depot, "1");
    // Frames that are here are not asked for.
    let second = host.pull("t@2");
    assert!(saved(&second) > COMMON_BYTES as u64 / 2, "{second}");
    assert!(fetched(&second) < COMMON_BYTES as u64 / 2, "{second}");
    host.holds(depot, "2");
    host.world.write("config/imgrun/sync.toml", "[[follow]]\nname = \"t\"\n");
    host.imgrun(&["sync"]).ok();
    assert!(host.titles().contains(&"t:3".to_string()), "{:?}", host.titles());
    host.verify();
    host.is_tidy();
    // By hand, with the root.
    let other = Host { world: World::new() };
    other.world.write("root.json", published.root());
    let address = published.address();
    other.imgrun(&["pull", "t@1", "--from", &address, "--root", "root.json"]).ok();
    other.imgrun(&["pull", "t@2", "--from", &address]).ok();
    other.holds(depot, "2");
    let what = other.imgrun(&["pull", "t", "--from", "oci:somewhere"]);
    what.fails(2, "it is no file:, http:, https:, s3: or oci: address");
}

/// A mirror's bytes are taken while they are right.
#[test]
fn a_registrys_mirror_serves_until_its_first_wrong_byte() {
    let (depot, published) = (Depot::shared(), Published::new());
    let mirrored = World::new();
    let (from, to) = (published.world.path("registry"), mirrored.path("registry"));
    mirrored.run("cp", ["-r".as_ref(), from.as_os_str(), to.as_os_str()]).ok();
    let mirror = Registry::start(&mirrored);
    let configure = |host: &Host| {
        let text = format!(
            "[host.\"127.0.0.1:{}\"]\nmirrors = [\"127.0.0.1:{}\"]\n",
            published.registry.port, mirror.port
        );
        host.world.write("config/imgtool/registries.toml", text);
    };
    // The host's own bytes are wrong and nobody minds: the mirror has sent them all.
    damage(&published.blob(&published.world, &depot.bundle("1")));
    let host = published.host();
    configure(&host);
    let outcome = host.imgrun(&["pull", "t@1"]).ok();
    assert!(!outcome.stderr.contains("going on"), "{outcome:#?}");
    host.holds(depot, "1");
    // The mirror's are: the host is asked for the rest.
    damage(&published.blob(&mirrored, &depot.bundle("2")));
    let host = published.host();
    configure(&host);
    let outcome = host.imgrun(&["pull", "t@2"]).ok();
    let next = format!("; going on with {}", published.address());
    assert_eq!(outcome.stderr.matches(&next).count(), 1, "{outcome:#?}");
    host.holds(depot, "2");
    host.verify();
    // Both are: nothing comes of it.
    damage(&published.blob(&mirrored, &depot.bundle("1")));
    let host = published.host();
    configure(&host);
    host.imgrun(&["pull", "t@1"]).fails(4, "are not those that were signed");
    assert!(!host.titles().contains(&"t:1".to_string()));
}
