//! Prunes beside publications: each is held at the moments that matter until the other has come to its
//! own, on a real directory and a real bucket.

use std::collections::BTreeSet;
use std::io::Write;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use imgrun::Progress;
use imgrun::catalog::Catalog;
use imgrun::depot::{Chunked, Depot};
use imgrun::tuf::{Clock, Memory};
use imgtool::Result;
use imgtool::depot::{self, Body, Bucket, Listed, Login, Put, Writable};
use imgtool::publish::{Draft, Keep, Options, Pruned, Publisher, examine};
use imgtool::sign::Keys;

use crate::servers::{LOGIN, Server};
use crate::world::{NO_PASSPHRASE, World, finish};

/// What is done to a depot: `list targets/`, `delete targets/…`.
type Deed = (&'static str, String);

/// A depot that tells what is about to be done, and waits for a word before some of it.
#[derive(Debug)]
struct Watched<'d> {
    depot: &'d dyn Writable,
    tell: Mutex<Sender<Deed>>,
    /// Before the first of these deeds (by the beginning of the key), a word is waited for.
    hold: Mutex<Option<(Deed, Receiver<()>)>>,
}

impl<'d> Watched<'d> {
    fn new(depot: &'d dyn Writable) -> (Self, Receiver<Deed>) {
        let (tell, told) = channel();
        (Watched { depot, tell: Mutex::new(tell), hold: Mutex::new(None) }, told)
    }

    /// Is held before the first `verb` of a key that begins with `prefix`, until the sender speaks.
    fn held(mut self, verb: &'static str, prefix: &str) -> (Self, Sender<()>) {
        let (speak, word) = channel();
        self.hold = Mutex::new(Some(((verb, prefix.to_string()), word)));
        (self, speak)
    }

    fn about(&self, verb: &'static str, key: &str) {
        let _ = self.tell.lock().unwrap().send((verb, key.to_string()));
        let is_it = |((at, prefix), _): &(Deed, _)| *at == verb && key.starts_with(prefix);
        let held = self.hold.lock().unwrap().take_if(|held| is_it(held));
        if let Some((_, word)) = held {
            word.recv().unwrap();
        }
    }
}

impl Depot for Watched<'_> {
    fn title(&self) -> String {
        self.depot.title()
    }

    fn read(&self, key: &str, range: Range<u64>, out: &mut dyn Write) -> Result<Option<u64>> {
        self.depot.read(key, range, out)
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        self.about("size", key);
        self.depot.size(key)
    }
}

impl Writable for Watched<'_> {
    fn put_new(&self, key: &str, body: Body<'_>) -> Result<Put> {
        self.about("put", key);
        self.depot.put_new(key, body)
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.depot.replace(key, bytes)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.about("list", prefix);
        self.depot.list(prefix)
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.about("delete", key);
        self.depot.delete(key)
    }

    fn exclusive(&self) -> Option<bool> {
        self.depot.exclusive()
    }
}

/// A catalog, and a bundle whose file is there, old and listed nowhere.
struct Scene<'d> {
    world: World,
    depot: &'d dyn Writable,
    keys: Keys,
    draft: Draft,
    chunked: bool,
}

const KEEP: Keep = Keep { newest: None, yanked: true, unused_seconds: 0 };

impl<'d> Scene<'d> {
    fn new(depot: &'d dyn Writable, store: &str, chunked: bool) -> Self {
        let world = World::new();
        let imgtool = |args: &[&str]| finish(world.command().args(args).envs(LOGIN)).ok();
        imgtool(&["key", "new", "me", "--no-passphrase"]);
        imgtool(&["catalog", "init", store, "--key", "me"]);
        let file = world.kernel("linux", "1");
        let file = file.to_str().unwrap();
        let chunked_flag: &[&str] = if chunked { &["--chunked"] } else { &[] };
        let publish = ["publish", file, "--to", store, "--untested"];
        imgtool(&[&publish[..], chunked_flag].concat());
        imgtool(&["catalog", "yank", store, "linux:1", "--reason", "x"]);
        let forever = ["--yanked", "--unused-for", "9d"];
        imgtool(&[&["catalog", "prune", store][..], &forever].concat());
        let keys = Keys::load(&world.path("keys"), None, NO_PASSPHRASE).unwrap();
        let draft = Draft::read(file.as_ref()).unwrap();
        let scene = Scene { world, depot, keys, draft, chunked };
        assert!(Chunked::new(depot).is_whole(&scene.draft.entry.key()).unwrap());
        assert!(scene.catalog().entries.is_empty());
        scene
    }

    fn memory(&self, name: &str) -> Memory {
        let memory = Memory::open(self.world.path(name)).unwrap();
        let root = std::fs::read(self.world.path("root.json")).unwrap();
        memory.begin("store", &root, "root.json").unwrap();
        memory
    }

    fn catalog(&self) -> Catalog {
        Catalog::open(self.depot, &self.memory("reader"), Clock::now()).unwrap()
    }

    fn by<T>(
        &self,
        depot: &dyn Writable,
        who: &str,
        work: impl FnOnce(&Publisher<'_>) -> Result<T>,
    ) -> T {
        let (memory, progress) = (self.memory(who), Progress::silent());
        work(&Publisher::new(depot, &memory, &self.keys, NO_PASSPHRASE, &progress)).unwrap()
    }

    fn publish(&self, depot: &dyn Writable) {
        let options = Options { untested: true, chunked: self.chunked };
        self.by(depot, "publisher", |p| p.publish(p.plan(vec![self.draft.clone()], options)?));
    }

    fn prune(&self, depot: &dyn Writable) -> BTreeSet<String> {
        let pruned: Pruned = self.by(depot, "pruner", |p| p.prune(KEEP, false));
        pruned.files.into_iter().map(|file| file.key).collect()
    }

    /// The bundle is listed, and all of it is there.
    fn is_right(&self) {
        let catalog = self.catalog();
        assert_eq!(catalog.entries.len(), 1);
        let depot = Chunked::new(self.depot);
        assert_eq!(examine(&depot, &catalog, true).unwrap(), Vec::<String>::new());
        assert_eq!(examine(&depot, &catalog, false).unwrap(), Vec::<String>::new());
        assert_eq!(self.depot.list("prunes/").unwrap(), [], "no notice is left");
    }
}

/// Waits for a deed on a key that begins with `prefix`.
fn wait_for(told: &Receiver<Deed>, verb: &str, prefix: &str) {
    while let Ok((done, key)) = told.recv() {
        if done == verb && key.starts_with(prefix) {
            return;
        }
    }
    panic!("{verb} {prefix}: it never came to that");
}

/// The prune has found the file unused. Then it is published. Then the prune goes on.
fn published_before_the_notice(scene: &Scene<'_>) {
    let (watched, told) = Watched::new(scene.depot);
    let (watched, go) = watched.held("put", "prunes/");
    std::thread::scope(|threads| {
        let go = go;
        let pruning = threads.spawn(|| scene.prune(&watched));
        wait_for(&told, "put", "prunes/");
        scene.publish(scene.depot);
        go.send(()).unwrap();
        let pruned = pruning.join().unwrap();
        assert!(!pruned.contains(&scene.draft.entry.key()), "{pruned:?}");
    });
    scene.is_right();
}

/// The prune has given notice and not yet looked again when the file is published.
fn published_behind_the_notice(scene: &Scene<'_>) {
    let (watched, told) = Watched::new(scene.depot);
    // Its own notices are what it lists next.
    let (watched, go) = watched.held("list", "prunes/");
    std::thread::scope(|threads| {
        let go = go;
        let pruning = threads.spawn(|| scene.prune(&watched));
        wait_for(&told, "list", "prunes/");
        let (publisher, doing) = Watched::new(scene.depot);
        let publishing = threads.spawn(move || scene.publish(&publisher));
        // It has committed, and looks for notices.
        wait_for(&doing, "list", "prunes/");
        go.send(()).unwrap();
        publishing.join().unwrap();
        let pruned = pruning.join().unwrap();
        assert!(!pruned.contains(&scene.draft.entry.key()), "{pruned:?}");
    });
    scene.is_right();
}

/// The prune is about to remove the file; the publication has found it there, and commits.
fn published_before_the_removal(scene: &Scene<'_>) {
    let (watched, told) = Watched::new(scene.depot);
    let (watched, go) = watched.held("delete", "targets/");
    std::thread::scope(|threads| {
        let go = go;
        let pruning = threads.spawn(|| scene.prune(&watched));
        wait_for(&told, "delete", "targets/");
        let (publisher, doing) = Watched::new(scene.depot);
        let publishing = threads.spawn(move || scene.publish(&publisher));
        wait_for(&doing, "list", "prunes/");
        assert_eq!(scene.catalog().entries.len(), 1, "it is listed");
        assert!(!publishing.is_finished(), "and waits");
        go.send(()).unwrap();
        let pruned = pruning.join().unwrap();
        let suffix = if scene.chunked { ".chunks" } else { "" };
        let key = scene.draft.entry.key() + suffix;
        assert!(pruned.contains(&key), "it was not removed: {pruned:?}");
        publishing.join().unwrap();
    });
    scene.is_right();
}

/// The file goes between the publication's first look and its reading back.
fn removed_under_a_publication(scene: &Scene<'_>) {
    let (watched, doing) = Watched::new(scene.depot);
    let (watched, go) = watched.held("put", "targets/");
    std::thread::scope(|threads| {
        let go = go;
        let publishing = threads.spawn(|| {
            // Only what is uploaded is put, and nothing is until the file is gone.
            scene.publish(&watched);
        });
        wait_for(&doing, "size", "targets/");
        scene.prune(scene.depot);
        // Where it has found the file gone by itself, it is held before it uploads.
        go.send(()).unwrap();
        publishing.join().unwrap();
    });
    scene.is_right();
}

type Play = fn(&Scene<'_>);

fn all(depot: &dyn Fn(&str) -> Box<dyn Writable>, store: &dyn Fn(&str) -> String) {
    let plays: [Play; 4] = [
        published_before_the_notice,
        published_behind_the_notice,
        published_before_the_removal,
        removed_under_a_publication,
    ];
    for (number, play) in plays.iter().enumerate() {
        for chunked in [false, true] {
            let name = format!("play-{number}-{chunked}");
            let depot = depot(&name);
            play(&Scene::new(depot.as_ref(), &store(&name), chunked));
        }
    }
}

#[test]
fn nothing_published_is_pruned_in_a_directory() {
    let world = World::new();
    all(&|name| depot::open(&world.store(name)).unwrap(), &|name| world.store(name));
}

#[test]
fn nothing_published_is_pruned_in_a_bucket() {
    let server = Server::moto();
    let store = |name: &str| {
        let [(_, id), (_, secret)] = LOGIN;
        let login = Login { id: id.to_string(), secret: secret.to_string() };
        (server.bucket(name), login)
    };
    let open = |name: &str| -> Box<dyn Writable> {
        server.make_bucket(name);
        let (address, login) = store(name);
        Box::new(Bucket::new(&address, Some(login)).unwrap())
    };
    all(&open, &|name| store(name).0);
}

/// A prune that is killed between two files leaves its notice. A publication that it names waits until
/// it is clear that nobody renews it, and then completes what is missing.
#[test]
fn a_killed_prune_holds_up_nobody_for_long() {
    let world = World::new();
    let store = world.store("s");
    let depot = depot::open(&store).unwrap();
    let scene = Scene::new(depot.as_ref(), &store, true);
    let calls = "unlink,unlinkat";
    let inject = format!("inject={calls}:signal=KILL:when=1");
    let trace = ["-f", "-o", "/dev/null", "-P"];
    let index = world.path("s").join(scene.draft.entry.key() + ".chunks");
    let more = ["-e", &format!("trace={calls}"), "-e", &inject, env!("CARGO_BIN_EXE_imgtool")];
    let mut command = scene.world.wrapped("strace", &trace);
    command.arg(&index).args(more);
    command.args(["catalog", "prune", &store, "--unused-for", "0s"]);
    let killed = finish(&mut command);
    assert!(!killed.output.status.success(), "{}", killed.text());
    assert_eq!(depot.list("prunes/").unwrap().len(), 1, "{}", killed.errors());
    scene.publish(depot.as_ref());
    let catalog = scene.catalog();
    assert_eq!(catalog.entries.len(), 1);
    assert_eq!(examine(&Chunked::new(depot.as_ref()), &catalog, true).unwrap(), [""; 0]);
    // The next prune's notice does not hold up anybody, and the dead one's is left for a day.
    scene.prune(depot.as_ref());
    assert_eq!(depot.list("prunes/").unwrap().len(), 1);
}

/// What a reader needs and what is not there is told without reading everything.
#[test]
fn missing_pieces_are_seen_by_a_plain_verify() {
    let world = World::new();
    let store = world.store("s");
    let depot = depot::open(&store).unwrap();
    let scene = Scene::new(depot.as_ref(), &store, true);
    scene.publish(depot.as_ref());
    let catalog = scene.catalog();
    let frames = depot.list("targets/").unwrap();
    let frames = frames.iter().find(|file| file.key.ends_with(".frames")).unwrap();
    let path = world.path("s").join(&frames.key);
    let whole = std::fs::read(&path).unwrap();
    for damaged in [Some(&whole[..whole.len() - 1]), None] {
        match damaged {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let wrong = examine(&Chunked::new(depot.as_ref()), &catalog, false).unwrap();
        assert_eq!(wrong, ["linux-1-x86_64.tar.zst: a piece of it is cut short or not there"]);
        // The same command puts it right, as it does all that was cut.
        scene.publish(depot.as_ref());
        assert_eq!(examine(&Chunked::new(depot.as_ref()), &catalog, true).unwrap(), [""; 0]);
        let entry = scene.draft.entry.key();
        depot.delete(&entry).unwrap();
    }
}
