//! Images judged by e2fsprogs: `e2fsck -fn` must find nothing, debugfs must see what was put in.

use std::io::Write;
use std::process::{Command, Output};

use ext4::{Data, Kind, Meta, Node, NodeId, Options, Result, Time, Tree, Writer, Xattr};
use tempfile::NamedTempFile;

/// An image under construction in a file of its own.
struct Image {
    writer: Writer<std::fs::File>,
    tree: Tree,
    file: NamedTempFile,
}

impl Image {
    fn new(options: Options) -> Self {
        let file = NamedTempFile::new().unwrap();
        let writer = Writer::new(file.reopen().unwrap(), options).unwrap();
        Image { writer, tree: Tree::new(Meta::with_mode(0o755)), file }
    }

    fn data(&mut self, bytes: &[u8]) -> Data {
        let mut file = self.writer.file();
        file.write_all(bytes).unwrap();
        file.finish().unwrap()
    }

    fn put(&mut self, parent: NodeId, name: impl AsRef<[u8]>, meta: Meta, kind: Kind) -> NodeId {
        let node = self.tree.add(Node { meta, kind });
        self.tree.link(parent, name.as_ref(), node).unwrap();
        node
    }

    fn put_file(&mut self, name: impl AsRef<[u8]>, bytes: &[u8]) -> NodeId {
        let data = self.data(bytes);
        self.put(Tree::ROOT, name, Meta::with_mode(0o644), Kind::File(data))
    }

    /// Finishes, and fails unless `e2fsck -fn` is content.
    fn check(self) -> NamedTempFile {
        let (_, summary) = self.writer.finish(&self.tree).unwrap();
        assert_eq!(self.file.as_file().metadata().unwrap().len(), summary.bytes);
        fsck(&self.file);
        self.file
    }
}

fn run(program: &str, args: &[&str], image: &NamedTempFile) -> Output {
    let output = Command::new(program)
        .args(args)
        .arg(image.path())
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()))
        .output();
    output.unwrap_or_else(|e| panic!("{program}: {e} (Debian package e2fsprogs)"))
}

fn fsck(image: &NamedTempFile) {
    let output = run("e2fsck", &["-fn"], image);
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("Fix") && !text.contains("should be"), "{text}");
}

/// What debugfs prints for `request`; its exit code says nothing.
fn debugfs(request: &str, image: &NamedTempFile) -> String {
    let output = run("debugfs", &["-R", request], image);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8 | 1
    })
    .take(bytes)
    .collect()
}

#[test]
fn an_empty_tree() {
    let image = Image::new(Options { label: "empty".into(), ..Options::default() }).check();
    assert!(debugfs("show_super_stats -h", &image).contains("Filesystem volume name:   empty"));
}

#[test]
fn every_kind_of_inode() {
    let mut image = Image::new(Options { uuid: [7; 16], ..Options::default() });
    image.put_file("empty", b"");
    let shared = image.put_file("one", b"x");
    image.tree.link(Tree::ROOT, b"two", shared).unwrap();
    let bytes = noise(10_000_001);
    image.put_file("noise", &bytes);
    let meta = || Meta { mode: 0o4751, uid: 70_000, gid: 100_000, ..Meta::default() };
    let directory = image.put(Tree::ROOT, "dir", meta(), Kind::directory());
    image.put(directory, "short", meta(), Kind::Symlink(Box::from(&b"../one"[..])));
    for (name, bytes) in [("edge", 59), ("slow", 60), ("long", 4095)] {
        let target = vec![b'a'; bytes].into_boxed_slice();
        image.put(directory, name, Meta::with_mode(0o777), Kind::Symlink(target));
    }
    image.put(directory, "null", meta(), Kind::CharDevice { major: 1, minor: 3 });
    image.put(directory, "disk", meta(), Kind::BlockDevice { major: 259, minor: 70_000 });
    image.put(directory, "pipe", meta(), Kind::Fifo);
    image.put(directory, "sock", meta(), Kind::Socket);
    let image = image.check();
    let stat = debugfs("stat /dir/null", &image);
    assert!(stat.contains("character special") && stat.contains("Mode:  04751"), "{stat}");
    assert!(stat.contains("User: 70000   Group: 100000"), "{stat}");
    assert!(
        stat.contains("(New-style) 01:03") || stat.contains("Device major/minor number: 01:03")
    );
    let stat = debugfs("stat /dir/disk", &image);
    assert!(stat.contains("259:70000"), "{stat}");
    let stat = debugfs("stat /dir/short", &image);
    assert!(stat.contains("Fast link dest: \"../one\""), "{stat}");
    assert!(debugfs("stat /one", &image).contains("Links: 2"));
    let out = tempfile::NamedTempFile::new().unwrap();
    debugfs(&format!("dump /noise {}", out.path().display()), &image);
    assert!(std::fs::read(out.path()).unwrap() == bytes);
}

#[test]
fn times_from_1901_to_2446() {
    let times = [
        ("first", -(1i64 << 31), 0, "1901-12-13"),
        ("before", -1, 999_999_999, "1969-12-31"),
        ("after", 1 << 31, 123_456_789, "2038-01-19"),
        ("last", (1 << 34) - (1 << 31) - 1, 1, "2446-05-10"),
    ];
    let mut image = Image::new(Options::default());
    for (name, seconds, nanoseconds, _) in times {
        let mtime = Time { seconds, nanoseconds };
        let meta = Meta { mtime, ..Meta::with_mode(0o600) };
        image.put(Tree::ROOT, name, meta, Kind::Fifo);
    }
    let image = image.check();
    for (name, _, nanoseconds, day) in times {
        let stat = debugfs(&format!("stat /{name}"), &image);
        let extra = stat.lines().find(|l| l.contains("mtime:")).unwrap();
        // debugfs prints the extra word: nanoseconds above two bits of epoch.
        let word = extra.split([':', ' ']).find(|w| w.len() == 8 && !w.contains('-')).unwrap();
        assert_eq!(u32::from_str_radix(word, 16).unwrap() >> 2, nanoseconds, "{extra} {day}");
    }
    for seconds in [-(1i64 << 31) - 1, (1 << 34) - (1 << 31)] {
        let mut image = Image::new(Options::default());
        let meta = Meta { mtime: Time { seconds, nanoseconds: 0 }, ..Meta::with_mode(0o600) };
        image.put(Tree::ROOT, "x", meta, Kind::Fifo);
        assert!(image.writer.finish(&image.tree).is_err());
    }
}

#[test]
fn attributes_in_inodes_and_in_shared_blocks() {
    let xattr =
        |name: &str, value: &[u8]| Xattr { name: name.as_bytes().into(), value: value.into() };
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // user::rw-, user:1000:r--, group::r--, mask::r--, other::---
    let acl: Vec<u8> = [2u32.to_le_bytes().to_vec()]
        .into_iter()
        .chain([(1, 6, 0), (2, 4, 1000), (4, 4, 0), (16, 4, 0), (32, 0, 0u32)].map(
            |(tag, perm, id): (u16, u16, u32)| {
                [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
            },
        ))
        .flatten()
        .collect();
    let large = noise(3000);
    let mut image = Image::new(Options { uuid: *b"0123456789abcdef", ..Options::default() });
    let with = |xattrs: Vec<Xattr>| Meta { xattrs, ..Meta::with_mode(0o644) };
    let root = Tree::ROOT;
    image.put(root, "cap", with(vec![xattr("security.capability", &capability)]), Kind::Fifo);
    image.put(root, "acl", with(vec![xattr("system.posix_acl_access", &acl)]), Kind::Fifo);
    for name in ["big1", "big2"] {
        let meta =
            with(vec![xattr("user.large", &large), xattr("trusted.t", b""), xattr("user.a", b"b")]);
        image.put(root, name, meta, Kind::Fifo);
    }
    let image = image.check();
    assert!(debugfs("ea_list /cap", &image).contains("security.capability (20)"));
    let got = debugfs("ea_get -x /acl system.posix_acl_access", &image);
    let hex: String = acl.iter().map(|b| format!("{b:02x} ")).collect();
    assert!(got.contains(hex.trim()), "{got}");
    assert!(debugfs("ea_list /big2", &image).contains("user.large (3000)"));
    let block = |name| {
        let stat = debugfs(&format!("stat /{name}"), &image);
        stat.split("File ACL: ").nth(1).unwrap().split_whitespace().next().unwrap().to_string()
    };
    assert_eq!(block("big1"), block("big2"));
    assert_ne!(block("big1"), "0");

    for wrong in ["nonsense.x", "user.", "system.posix_acl_access"] {
        let mut image = Image::new(Options::default());
        image.put(root, "x", with(vec![xattr(wrong, b"?")]), Kind::Fifo);
        assert!(image.writer.finish(&image.tree).is_err(), "{wrong}");
    }
    let mut image = Image::new(Options::default());
    image.put(root, "x", with(vec![xattr("user.x", &noise(4096))]), Kind::Fifo);
    assert!(image.writer.finish(&image.tree).is_err());
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
    assert_eq!((data.runs().len(), data.size()), (3, 1200 << 30));
    image.put(Tree::ROOT, "1200G", Meta::with_mode(0o644), Kind::File(data));
    // Each block of data between holes is an extent: depth 0, 1 and 2.
    for extents in [4u32, 5, 400, 130_000] {
        let mut file = image.writer.file();
        for i in 0..extents {
            file.write_all(&(i + 1).to_le_bytes()).unwrap();
            file.hole(8192 - 4).unwrap();
        }
        let data = file.finish().unwrap();
        let name = format!("extents-{extents}");
        image.put(Tree::ROOT, name, Meta::with_mode(0o644), Kind::File(data));
    }
    image.put_file("zeros", &vec![0; 1 << 20]);
    let image = image.check();
    assert!(debugfs("stat /zeros", &image).contains("Blockcount: 0"));
    let out = tempfile::NamedTempFile::new().unwrap();
    debugfs(&format!("dump /extents-400 {}", out.path().display()), &image);
    let bytes = std::fs::read(out.path()).unwrap();
    for i in 0..400usize {
        assert_eq!(bytes[i * 8192..i * 8192 + 4], (i as u32 + 1).to_le_bytes());
    }
}

#[test]
fn directories_of_every_depth() {
    for (count, name_bytes, indexed) in [
        (1, 255, false),
        (200, 10, false),
        (10_000, 30, true),
        (200_000, 12, true),
        (20_000, 255, true),
    ] {
        let seed = *b"fedcba9876543210";
        let mut image = Image::new(Options { hash_seed: seed, ..Options::default() });
        let data = image.data(b"x");
        let dir = image.put(Tree::ROOT, "d", Meta::with_mode(0o755), Kind::directory());
        let mut node = NodeId::clone(&dir);
        for i in 0..count {
            if i % 60_000 == 0 {
                let kind = Kind::File(data.clone());
                // The content may be shared only by names of one inode; later ones are empty.
                let kind = if i == 0 { kind } else { Kind::Fifo };
                node = image.tree.add(Node { meta: Meta::with_mode(0o644), kind });
            }
            let name = format!("{i:0name_bytes$}");
            image.tree.link(dir, name.as_bytes(), node).unwrap();
        }
        let image = image.check();
        let stat = debugfs("stat /d", &image);
        let flags = stat.split("Flags: 0x").nth(1).unwrap().split_whitespace().next().unwrap();
        let flags = u32::from_str_radix(flags, 16).unwrap();
        assert_eq!(flags & 0x1000 != 0, indexed, "{count} {stat}");
        let listed = debugfs("ls -p /d", &image)
            .lines()
            .filter(|l| l.starts_with('/') && !l.starts_with("/0/"))
            .count();
        assert_eq!(listed, count + 2);
    }
}

#[test]
fn names_that_are_not_text() {
    let names: [&[u8]; 5] = [b"\xff\xfe", b"new\nline", b"\"q\\", b"-dash", b" "];
    let mut image = Image::new(Options::default());
    for name in names {
        image.put(Tree::ROOT, name, Meta::with_mode(0o644), Kind::Fifo);
    }
    image.check();
    let mut tree = Tree::new(Meta::with_mode(0o755));
    for wrong in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'a'; 256]] {
        assert!(tree.link(Tree::ROOT, wrong, Tree::ROOT).is_err());
    }
}

#[test]
fn volumes_of_many_sizes() {
    let sizes = [(1, true), (130, true), (64, false), (4 << 10, true), (15 << 20, false)];
    for (mebibytes, journal) in sizes {
        let size = mebibytes << 20;
        let options = Options {
            size_bytes: Some(size),
            journal: journal && mebibytes > 100,
            reserved_percent: 5,
            ..Options::default()
        };
        let image = Image::new(options).check();
        assert_eq!(image.as_file().metadata().unwrap().len(), size);
    }
    let size_bytes = Some(20 << 10);
    let image = Image::new(Options { size_bytes, ..Options::default() });
    assert!(matches!(image.writer.finish(&image.tree), Err(ext4::Error::TooSmall { .. })));
}

#[test]
fn a_given_size_is_kept_and_a_reserve_is_free() {
    let mut image = Image::new(Options { reserve_bytes: 50 << 20, ..Options::default() });
    image.put_file("f", &noise(300 << 20));
    let (_, summary) = image.writer.finish(&image.tree).unwrap();
    assert!(summary.free_bytes >= 50 << 20 && summary.free_bytes < 52 << 20);
    fsck(&image.file);

    let options = Options { size_bytes: Some(8 << 20), ..Options::default() };
    let mut image = Image::new(options);
    let error = image.writer.file().write_all(&noise(9 << 20)).unwrap_err();
    assert!(error.to_string().contains("at least"), "{error}");
}

#[test]
fn contents_given_up_are_free() {
    let mut image = Image::new(Options::default());
    for i in 0..200 {
        let data = image.data(&noise(1 << 20));
        if i % 3 == 1 {
            let name = i.to_string();
            image.put(Tree::ROOT, name, Meta::with_mode(0o644), Kind::File(data));
        }
    }
    image.check();

    let mut image = Image::new(Options::default());
    let data = image.data(b"x");
    for name in ["a", "b"] {
        image.put(Tree::ROOT, name, Meta::with_mode(0o644), Kind::File(data.clone()));
    }
    assert!(matches!(image.writer.finish(&image.tree), Err(ext4::Error::Tree(_))));
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let make = |pieces: usize| -> Result<Vec<u8>> {
        let bytes = noise(3_000_000);
        let out = std::io::Cursor::new(Vec::new());
        let mut writer = Writer::new(out, Options::default())?;
        let mut file = writer.file();
        for piece in bytes.chunks(pieces) {
            file.append(piece)?;
        }
        let data = file.finish()?;
        let mut tree = Tree::new(Meta::with_mode(0o755));
        let node = tree.add(Node { meta: Meta::with_mode(0o600), kind: Kind::File(data) });
        tree.link(Tree::ROOT, b"f", node)?;
        Ok(writer.finish(&tree)?.0.into_inner())
    };
    let whole = make(3_000_000).unwrap();
    for pieces in [1000, 4096, 4097, 1 << 20] {
        assert!(make(pieces).unwrap() == whole, "{pieces}");
    }
}
