//! Random layers, flattened and read back, by our own reader and by one that is not ours (ext4-view),
//! against a naive model. A failure prints the seed and the layers.
//!
//! `IMGTOOL_TREES=20000 IMGTOOL_SEED=7 cargo test -p imgrun --test trees` for more of them.

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read};
use std::process::Command;

use ext4::read::{Found, Kind, Reader, Walk};
use ext4_view::{Ext4, FileType};
use imgrun::rootfs::{Detours, Flatten};
use model::{Entry, Model, What};

/// Trees in a normal run.
const TREES: u64 = 2000;
/// `e2fsck` sees one image of so many: it counts the links.
const CHECKED_EVERY: u64 = 50;

/// Marsaglia's xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % limit
    }

    fn path(&mut self) -> String {
        let names: Vec<_> =
            (0..=self.below(3)).map(|_| ["a", "b", "c"][self.below(3) as usize]).collect();
        names.join("/")
    }

    fn entry(&mut self, time: &mut i64) -> Entry {
        *time += 1;
        let what = match self.below(20) {
            0..=4 => What::Directory,
            5..=9 => What::File(format!("{time} ").repeat(self.below(3000) as usize).into_bytes()),
            10..=11 => What::Symlink(["", "/"][self.below(2) as usize].to_string() + &self.path()),
            12 => What::Fifo,
            13 => What::Opaque,
            14..=15 => What::Whiteout,
            _ => What::HardLink(self.path()),
        };
        let (mode, uid) = (self.below(0o10000) as u16, self.below(100_000) as u32);
        Entry { path: self.path(), what, mode, uid, mtime: *time }
    }

    /// Layers of entries that the model has an answer for; of every fifth tree, of any entries.
    fn layers(&mut self) -> Vec<Vec<Entry>> {
        let (mut time, mut model, mut layers) = (1, Model::default(), Vec::new());
        let any = self.below(5) == 0;
        for i in 0..=self.below(5) as usize {
            let mut layer = Vec::new();
            for _ in 0..=self.below(9) {
                layer.push(self.entry(&mut time));
                if !any && model.clone().apply(i, &layer).is_none() {
                    layer.pop();
                }
            }
            let _ = model.apply(i, &layer);
            layers.push(layer);
        }
        layers
    }
}

fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(u32::from(entry.mode));
        header.set_uid(u64::from(entry.uid));
        header.set_gid(0);
        header.set_mtime(entry.mtime as u64);
        header.set_size(0);
        let (directory, name) = entry.path.rsplit_once('/').unwrap_or((".", &entry.path));
        let (kind, path, content, link) = match &entry.what {
            What::Directory => (tar::EntryType::Directory, entry.path.clone(), &[][..], ""),
            What::File(content) => (tar::EntryType::Regular, entry.path.clone(), &content[..], ""),
            What::Symlink(to) => (tar::EntryType::Symlink, entry.path.clone(), &[][..], &to[..]),
            What::Fifo => (tar::EntryType::Fifo, entry.path.clone(), &[][..], ""),
            What::HardLink(to) => (tar::EntryType::Link, entry.path.clone(), &[][..], &to[..]),
            What::Whiteout => {
                (tar::EntryType::Regular, format!("{directory}/.wh.{name}"), &[][..], "")
            }
            What::Opaque => {
                (tar::EntryType::Regular, format!("{}/.wh..wh..opq", entry.path), &[][..], "")
            }
        };
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        tar.append_data(&mut header, path, content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn flatten(layers: &[Vec<Entry>]) -> imgrun::Result<(Vec<u8>, u64)> {
    let mut detours = Detours::default();
    loop {
        let mut writer =
            ext4::Writer::new(Cursor::new(Vec::new()), ext4::Options::default()).unwrap();
        let mut flatten = Flatten::new(&mut writer, None, &detours);
        let laid = layers.iter().enumerate().rev().try_for_each(|(i, layer)| {
            let tar = tar_of(layer);
            flatten.layer(&format!("layer {i}"), || Ok(&tar[..]))
        });
        let shadows = flatten.take_shadows();
        let tree = laid.and_then(|()| flatten.finish());
        if detours.learn(shadows)? {
            continue;
        }
        let (image, summary) = writer.finish(&tree?).unwrap();
        return Ok((image.into_inner(), summary.inodes));
    }
}

type Seen = BTreeMap<String, (What, u16, u32, i64)>;

fn expected(model: &Model) -> Seen {
    let of = |(path, &inode): (&String, &usize)| {
        let entry = &model.inodes[inode];
        (path.clone(), (entry.what.clone(), entry.mode, entry.uid, entry.mtime))
    };
    model.names.iter().map(of).collect()
}

fn found(image: &[u8]) -> Seen {
    let image = Ext4::load(Box::new(image.to_vec())).unwrap();
    let mut seen = Seen::new();
    let mut ahead = vec![String::new()];
    while let Some(directory) = ahead.pop() {
        for entry in image.read_dir(format!("/{directory}").as_str()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().as_str().unwrap().to_string();
            if [".", ".."].contains(&&name[..]) || directory.is_empty() && name == "lost+found" {
                continue;
            }
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let full = format!("/{path}");
            let meta = entry.metadata().unwrap();
            let what = match meta.file_type() {
                FileType::Directory => What::Directory,
                FileType::Regular => What::File(image.read(full.as_str()).unwrap()),
                FileType::Symlink => {
                    let target = image.read_link(full.as_str()).unwrap();
                    What::Symlink(target.to_str().unwrap().to_string())
                }
                FileType::Fifo => What::Fifo,
                other => panic!("{path}: {other:?}"),
            };
            if what == What::Directory {
                ahead.push(path.clone());
            }
            let seconds = meta.modified().seconds();
            seen.insert(path, (what, meta.mode() & 0o7777, meta.uid(), seconds));
        }
    }
    seen
}

/// What our own reader finds, and by inode the names of each file.
fn read_back(image: &[u8]) -> (Seen, BTreeSet<BTreeSet<String>>) {
    let mut reader = Reader::open(Cursor::new(image)).unwrap();
    let mut walk = Walk::new(reader.root().unwrap());
    let (mut seen, mut names) = (Seen::new(), BTreeMap::<u32, BTreeSet<String>>::new());
    while let Some(Found { path, inode }) = walk.next(&mut reader).unwrap() {
        if path.is_empty() {
            continue;
        }
        let path = String::from_utf8(path).unwrap();
        let what = match inode.kind {
            Kind::Directory => What::Directory,
            Kind::File => {
                let mut content = Vec::new();
                reader.content(&inode).unwrap().read_to_end(&mut content).unwrap();
                What::File(content)
            }
            Kind::Symlink => {
                What::Symlink(String::from_utf8(reader.target(&inode).unwrap()).unwrap())
            }
            Kind::Fifo => What::Fifo,
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(reader.find(path.as_bytes(), false).unwrap(), inode);
        assert_eq!(reader.xattrs(&inode).unwrap(), []);
        names.entry(inode.number).or_default().insert(path.clone());
        seen.insert(path, (what, inode.mode, inode.uid, inode.mtime.seconds));
    }
    (seen, names.into_values().collect())
}

/// The names of each file of the model.
fn named(model: &Model) -> BTreeSet<BTreeSet<String>> {
    let mut names = BTreeMap::<usize, BTreeSet<String>>::new();
    for (path, inode) in &model.names {
        names.entry(*inode).or_default().insert(path.clone());
    }
    names.into_values().collect()
}

/// Flattens the layers; false where the model has nothing to say.
fn check(layers: &[Vec<Entry>], with_fsck: bool) -> Result<bool, String> {
    let mut model = Model::default();
    let known = layers.iter().enumerate().try_for_each(|(i, layer)| model.apply(i, layer));
    let flattened = flatten(layers);
    if known.is_none() {
        return Ok(false);
    }
    let (image, inodes) = flattened.map_err(|e| format!("is refused: {e}"))?;
    let want = expected(&model);
    let (ours, names) = read_back(&image);
    for (reader, got) in [("ext4-view", found(&image)), ("our reader", ours)] {
        let mut differences: Vec<String> = Vec::new();
        for path in want.keys().chain(got.keys()).collect::<BTreeSet<_>>() {
            if want.get(path) != got.get(path) {
                differences.push(format!(
                    "{path}: the model has {:?}, {reader} {:?}",
                    brief(want.get(path)),
                    brief(got.get(path))
                ));
            }
        }
        if !differences.is_empty() {
            return Err(differences.join("\n"));
        }
    }
    if names != named(&model) {
        return Err("other names are one file".into());
    }
    // Every time is another, so what is equal is one file; and there are no more inodes than files.
    let files = model.names.values().collect::<BTreeSet<_>>().len() as u64;
    let base = flatten(&[]).unwrap().1;
    if inodes != base + files {
        return Err(format!("{files} files are {} inodes", inodes - base));
    }
    if with_fsck {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &image).unwrap();
        let output = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(file.path()).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stdout).into_owned());
        }
    }
    Ok(true)
}

fn brief(seen: Option<&(What, u16, u32, i64)>) -> Option<String> {
    seen.map(|(what, mode, uid, time)| {
        let what = match what {
            What::File(content) => format!("a file of {}", content.len()),
            other => format!("{other:?}"),
        };
        format!("{what}, {mode:o}, {uid}, dated {time}")
    })
}

/// Leaves out entries and layers while the failure stays.
fn shrink(mut layers: Vec<Vec<Entry>>) -> Vec<Vec<Entry>> {
    loop {
        let smaller = (0..layers.len()).flat_map(|l| (0..layers[l].len()).map(move |e| (l, e)));
        let found = smaller.collect::<Vec<_>>().into_iter().find_map(|(l, e)| {
            let mut fewer = layers.clone();
            fewer[l].remove(e);
            check(&fewer, false).is_err().then_some(fewer)
        });
        match found {
            Some(fewer) => layers = fewer,
            None => return layers,
        }
    }
}

fn told(layers: &[Vec<Entry>]) -> String {
    let line = |(i, e): (usize, &Entry)| match &e.what {
        What::File(_) => format!("  layer {i}: {} File dated {}\n", e.path, e.mtime),
        what => format!("  layer {i}: {} {what:?} dated {}\n", e.path, e.mtime),
    };
    layers.iter().enumerate().flat_map(|(i, l)| l.iter().map(move |e| (i, e))).map(line).collect()
}

#[test]
fn random_layers_are_what_the_rules_say() {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>().unwrap());
    let trees = number("IMGTOOL_TREES").unwrap_or(TREES);
    let seed = number("IMGTOOL_SEED").unwrap_or(20_261_120);
    let mut known = 0;
    for tree in 0..trees {
        let mut random = Random((seed << 32 | tree).max(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let layers = random.layers();
        match check(&layers, tree % CHECKED_EVERY == 0) {
            Ok(is_known) => known += u64::from(is_known),
            Err(error) => {
                let layers = shrink(layers);
                let last = check(&layers, false).err().unwrap_or_default();
                panic!(
                    "IMGTOOL_SEED={seed}, tree {tree}: {error}\nshrunk:\n{}{last}",
                    told(&layers)
                );
            }
        }
    }
    assert!(known * 3 > trees * 2, "the model knew only {known} of {trees}");
}

/// What random layers found once, smallest first.
#[test]
fn what_was_wrong_before() {
    let link = |to: &str| What::HardLink(to.into());
    let file = |text: &str| What::File(text.into());
    let cases: [&[&[(&str, What)]]; 5] = [
        // A file between two directories hides the lower one's entries, though it is hidden itself.
        &[&[("c/b/c", What::Directory)], &[("c", file("1"))], &[("c/b", What::Directory)]],
        // A directory stays one where all that was in it is hidden.
        &[&[("b/a", What::Directory)], &[("b", What::Opaque)]],
        // Two links, one from above, to a file that a higher directory hides.
        &[&[("c", What::Fifo), ("b", link("c"))], &[("a", link("c"))], &[("c/c", What::Directory)]],
        // Of two entries with one name a link from above is to the last.
        &[&[("a", file("1")), ("a", file("2"))], &[("c", link("a"))]],
        // A symlink that is replaced in its own layer leads nowhere.
        &[&[("a", What::Symlink("c".into())), ("a", file("1"))], &[("a/b", What::Fifo)]],
    ];
    for case in cases {
        let mut mtime = 0;
        let mut entry = |(path, what): &(&str, What)| {
            mtime += 1;
            Entry { path: (*path).into(), what: what.clone(), mode: 0o700, uid: 1, mtime }
        };
        let layers: Vec<Vec<Entry>> =
            case.iter().map(|layer| layer.iter().map(&mut entry).collect()).collect();
        assert_eq!(check(&layers, true), Ok(true), "{}", told(&layers));
    }
}
