//! What our writer wrote.

use std::io::{Cursor, Write};

use ext4::read::{self, Reader};
use ext4::{Kind, Meta, Node, NodeId, Options, Time, Tree, Writer, Xattr};

use crate::{noise, read_all};

pub(crate) struct Image {
    pub(crate) writer: Writer<Cursor<Vec<u8>>>,
    pub(crate) tree: Tree,
}

impl Image {
    pub(crate) fn new(options: Options) -> Self {
        let writer = Writer::new(Cursor::new(Vec::new()), options).unwrap();
        Image { writer, tree: Tree::new(Meta::with_mode(0o755)) }
    }

    pub(crate) fn put(&mut self, parent: NodeId, name: &str, meta: Meta, kind: Kind) -> NodeId {
        let node = self.tree.add(Node { meta, kind });
        self.tree.link(parent, name.as_bytes(), node).unwrap();
        node
    }

    pub(crate) fn file(&mut self, name: &str, bytes: &[u8]) -> NodeId {
        let mut file = self.writer.file();
        file.write_all(bytes).unwrap();
        let data = file.finish().unwrap();
        self.put(Tree::ROOT, name, Meta::with_mode(0o644), Kind::File(data))
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.writer.finish(&self.tree).unwrap().0.into_inner()
    }
}

pub(crate) fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr { name: name.as_bytes().into(), value: value.into() }
}

/// A POSIX ACL as `getxattr(2)` gives it: user::rw-, user:1000:r--, group::r--, mask, other::---
pub(crate) fn acl() -> Vec<u8> {
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (1u16, 6u16, u32::MAX),
        (2, 4, 1000),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    acl
}

#[test]
fn every_kind_and_field() {
    let mut image =
        Image::new(Options { label: "all".into(), uuid: [7; 16], ..Options::default() });
    let bytes = noise(3_000_001);
    let one = image.file("one", &bytes);
    image.tree.link(Tree::ROOT, b"two", one).unwrap();
    image.file("empty", b"");
    let times = [-(1i64 << 31), -1, 0, 1 << 31, (1 << 34) - (1 << 31) - 1];
    for (i, seconds) in times.into_iter().enumerate() {
        let mtime = Time { seconds, nanoseconds: 999_999_999 - i as u32 };
        let meta = Meta { mtime, mode: 0o4755, uid: 70_000, gid: 1 << 30, xattrs: vec![] };
        image.put(Tree::ROOT, &format!("time{i}"), meta, Kind::Fifo);
    }
    let plain = || Meta::with_mode(0o600);
    let directory = image.put(Tree::ROOT, "dir", plain(), Kind::directory());
    for length in [1, 59, 60, 4095] {
        let target = vec![b't'; length].into_boxed_slice();
        image.put(directory, &format!("link{length}"), plain(), Kind::Symlink(target));
    }
    let devices = [(1, 3), (0, 0), (255, 255), (256, 0), (0, 256), (4095, 1_048_575)];
    for (i, (major, minor)) in devices.into_iter().enumerate() {
        image.put(directory, &format!("c{i}"), plain(), Kind::CharDevice { major, minor });
        image.put(directory, &format!("b{i}"), plain(), Kind::BlockDevice { major, minor });
    }
    image.put(directory, "sock", plain(), Kind::Socket);
    let large = noise(3000);
    let sets = [
        vec![xattr("security.capability", b"12345678901234567890")],
        vec![xattr("system.posix_acl_access", &acl())],
        vec![xattr("trusted.t", b""), xattr("user.a", b"b"), xattr("user.large", &large)],
    ];
    for (i, xattrs) in sets.iter().enumerate() {
        let meta = Meta { xattrs: xattrs.clone(), ..plain() };
        image.put(directory, &format!("x{i}"), meta, Kind::Fifo);
    }
    let image = image.finish();

    let tree = read_all(Cursor::new(&image)).unwrap();
    let at = |path: &str| &tree[path.as_bytes()];
    assert_eq!(at("one"), at("two"));
    assert_eq!((at("one").inode.links, &at("one").content), (2, &vec![(0, bytes)]));
    assert_eq!((at("empty").inode.size, at("dir").inode.links, at("").inode.links), (0, 2, 3));
    for (i, seconds) in times.into_iter().enumerate() {
        let inode = &at(&format!("time{i}")).inode;
        let time = Time { seconds, nanoseconds: 999_999_999 - i as u32 };
        assert_eq!([inode.mtime, inode.atime, inode.ctime, inode.crtime.unwrap()], [time; 4]);
        assert_eq!((inode.mode, inode.uid, inode.gid), (0o4755, 70_000, 1 << 30));
    }
    for length in [1, 59, 60, 4095] {
        assert_eq!(at(&format!("dir/link{length}")).target, Some(vec![b't'; length]));
    }
    for (i, (major, minor)) in devices.into_iter().enumerate() {
        let kinds = [format!("dir/c{i}"), format!("dir/b{i}")].map(|path| at(&path).inode.kind);
        let char = read::Kind::CharDevice { major, minor };
        assert_eq!(kinds, [char, read::Kind::BlockDevice { major, minor }]);
    }
    assert_eq!(at("dir/sock").inode.kind, read::Kind::Socket);
    for (i, xattrs) in sets.iter().enumerate() {
        assert_eq!(&at(&format!("dir/x{i}")).xattrs, xattrs);
    }
    let reader = Reader::open(Cursor::new(&image)).unwrap();
    let volume = reader.volume();
    assert_eq!((&volume.label[..], volume.uuid, volume.clean), (&b"all"[..], [7; 16], true));
    assert_eq!(volume.blocks * 4096, image.len() as u64);
    assert!(volume.features.contains(&"metadata_csum") && volume.checksums);
}

#[test]
fn sparse_files_and_deep_extent_trees() {
    let mut image = Image::new(Options::default());
    let mut file = image.writer.file();
    for _ in 0..3 {
        file.write_all(b"here").unwrap();
        file.hole((400 << 30) - 4).unwrap();
    }
    let data = file.finish().unwrap();
    image.put(Tree::ROOT, "1200G", Meta::with_mode(0o644), Kind::File(data));
    for extents in [4u32, 5, 400, 130_000] {
        let mut file = image.writer.file();
        for i in 0..extents {
            file.write_all(&(i + 1).to_le_bytes()).unwrap();
            file.hole(8192 - 4).unwrap();
        }
        let data = file.finish().unwrap();
        let name = format!("extents-{extents}");
        image.put(Tree::ROOT, &name, Meta::with_mode(0o644), Kind::File(data));
    }
    let tree = read_all(Cursor::new(image.finish())).unwrap();
    let large = &tree[&b"1200G"[..]];
    assert_eq!(large.inode.size, 1200 << 30);
    let starts: Vec<u64> = large.content.iter().map(|(at, _)| *at).collect();
    assert_eq!(starts, [0, 400 << 30, 800 << 30]);
    assert!(large.content.iter().all(|(_, bytes)| bytes.len() == 4096 && &bytes[..4] == b"here"));
    for extents in [4u32, 5, 400, 130_000] {
        let content = &tree[format!("extents-{extents}").as_bytes()].content;
        assert_eq!(content.len(), extents as usize);
        for (i, (at, bytes)) in (0u32..).zip(content) {
            assert_eq!((*at, &bytes[..4]), (u64::from(i) * 8192, &(i + 1).to_le_bytes()[..]));
        }
    }
}

#[test]
fn directories_of_every_depth() {
    for (count, name_bytes) in [(1usize, 255usize), (200, 10), (10_000, 30), (20_000, 255)] {
        let mut image = Image::new(Options { hash_seed: [3; 16], ..Options::default() });
        let dir = image.put(Tree::ROOT, "d", Meta::with_mode(0o755), Kind::directory());
        let node = image.file("f", b"x");
        let names: Vec<String> = (0..count).map(|i| format!("{i:0name_bytes$}")).collect();
        for name in &names {
            image.tree.link(dir, name.as_bytes(), node).unwrap();
        }
        let mut reader = Reader::open(Cursor::new(image.finish())).unwrap();
        let dir = reader.find(b"d", false).unwrap();
        let found = reader.entries(&dir).unwrap();
        assert!(
            found.iter().map(|entry| &*entry.name).eq(names.iter().map(|name| name.as_bytes()))
        );
        let last = reader.find(format!("/d/{}", names[count - 1]).as_bytes(), false).unwrap();
        assert_eq!(usize::from(last.links), count + 1);
    }
}

#[test]
fn paths_are_followed_as_the_guest_would() {
    let mut image = Image::new(Options::default());
    let link = |to: &str| Kind::Symlink(to.as_bytes().into());
    let plain = || Meta::with_mode(0o777);
    let usr = image.put(Tree::ROOT, "usr", plain(), Kind::directory());
    let lib = image.put(usr, "lib", plain(), Kind::directory());
    image.put(lib, "f", plain(), Kind::Fifo);
    image.put(lib, "up", plain(), link("../../../../usr/./lib//f"));
    for (name, to) in [("lib", "usr/lib"), ("abs", "/lib"), ("loop", "loop"), ("gone", "nowhere")] {
        image.put(Tree::ROOT, name, plain(), link(to));
    }
    let mut reader = Reader::open(Cursor::new(image.finish())).unwrap();
    let wanted = reader.find(b"usr/lib/f", false).unwrap();
    for path in ["/lib/f", "abs/f", "abs/up", "/../abs/../lib/up", "usr/../lib/./f", "//usr//lib/f"]
    {
        assert_eq!(reader.find(path.as_bytes(), true).unwrap(), wanted, "{path}");
    }
    assert_eq!(reader.find(b"lib", false).unwrap().kind, read::Kind::Symlink);
    assert_eq!(reader.find(b"lib/", false).unwrap().kind, read::Kind::Directory);
    assert_eq!(reader.find(b"/", false).unwrap().number, 2);
    for (path, why) in [
        ("loop", "too many"),
        ("gone", "not there"),
        ("usr/x", "not there"),
        ("lib/f/x", "no directory"),
        ("lib/f/", "no directory"),
        ("lib/f/..", "no directory"),
    ] {
        let error = reader.find(path.as_bytes(), true).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
