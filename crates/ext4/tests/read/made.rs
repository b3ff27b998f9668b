//! What `mke2fs -d` made of a directory of this machine, with the features of many ages.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use ext4::read::{Kind, Reader};
use tempfile::TempDir;

use crate::{Tree, noise, read_all};

/// A directory with something of everything that needs no root.
fn source() -> TempDir {
    let source = TempDir::new().unwrap();
    let at = |name: &str| source.path().join(name);
    fs::write(at("empty"), "").unwrap();
    fs::write(at("tiny"), "tiny\n").unwrap();
    // Inline data fits partly into the inode's place for a map and partly behind its fields.
    fs::write(at("small"), "s".repeat(100)).unwrap();
    fs::write(at("noise"), noise(1_234_567)).unwrap();
    fs::hard_link(at("noise"), at("again")).unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"middle", 5 << 20).unwrap();
    // A hole at the end is not for mke2fs 1.47.0, which cuts it off where data may be inline.
    std::os::unix::fs::FileExt::write_at(&sparse, b"end", 10 << 20).unwrap();
    for length in [5, 59, 60, 300] {
        symlink("t".repeat(length), at(&format!("link{length}"))).unwrap();
    }
    fs::create_dir_all(at("a/b/c")).unwrap();
    fs::write(at("a/b/c/f"), "f").unwrap();
    fs::set_permissions(at("a/b"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::create_dir(at("few")).unwrap();
    fs::create_dir(at("many")).unwrap();
    for i in 0..1500 {
        if i < 5 {
            fs::write(at(&format!("few/{i}")), "").unwrap();
        }
        fs::write(at(&format!("many/file number {i}")), i.to_string()).unwrap();
    }
    let long = "x".repeat(700);
    for (name, value) in [("user.short", "s"), ("user.long", &long)] {
        set_xattr(&at("tiny"), name, value);
    }
    source
}

fn set_xattr(path: &Path, name: &str, value: &str) {
    let script = "import os, sys; os.setxattr(sys.argv[1], sys.argv[2], sys.argv[3].encode())";
    let status = Command::new("python3")
        .args(["-c", script])
        .args([path.as_os_str(), name.as_ref(), value.as_ref()])
        .status();
    assert!(status.unwrap().success(), "{name} (is the temporary directory on a tmpfs of old?)");
}

fn mke2fs(options: &[&str], source: &Path) -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(256 << 20).unwrap();
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "made"])
        .args(options)
        .arg("-d")
        .arg(source)
        .arg(image.path())
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()))
        .output()
        .unwrap_or_else(|e| panic!("mke2fs: {e} (Debian package e2fsprogs)"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("error"), "{options:?}: {said}");
    image
}

/// Fails unless the tree is that of `directory`.
fn compare(tree: &Tree, directory: &Path, what: &[&str]) {
    let mut paths = vec![Vec::new()];
    let mut names = 0;
    while let Some(path) = paths.pop() {
        names += 1;
        let here = directory.join(str::from_utf8(&path).unwrap());
        let seen = tree.get(&path).unwrap_or_else(|| panic!("{what:?}: no {here:?}"));
        let meta = fs::symlink_metadata(&here).unwrap();
        let inode = &seen.inode;
        assert_eq!(u32::from(inode.mode), meta.mode() & 0o7777, "{what:?}: {here:?}");
        assert_eq!((inode.uid, inode.gid), (meta.uid(), meta.gid()), "{what:?}: {here:?}");
        // The root's time is that of lost+found's making.
        assert!(path.is_empty() || inode.mtime.seconds == meta.mtime(), "{what:?}: {here:?}");
        if meta.is_dir() {
            for entry in fs::read_dir(&here).unwrap() {
                let name = entry.unwrap().file_name().into_encoded_bytes();
                let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                paths.push([&path, slash, &name].concat());
            }
        } else if meta.is_symlink() {
            let target = fs::read_link(&here).unwrap().into_os_string().into_encoded_bytes();
            assert_eq!(seen.target, Some(target), "{what:?}");
        } else {
            let mut bytes = vec![0; inode.size as usize];
            for (at, piece) in &seen.content {
                bytes[*at as usize..*at as usize + piece.len()].copy_from_slice(piece);
            }
            assert_eq!(u64::from(inode.links), meta.nlink(), "{what:?}: {here:?}");
            assert!(bytes == fs::read(&here).unwrap(), "{what:?}: {here:?} has another content");
        }
    }
    let is_extra = |path: &[u8]| path.starts_with(b"lost+found");
    assert_eq!(names, tree.keys().filter(|path| !is_extra(path)).count(), "{what:?}");
}

#[test]
fn with_the_features_of_many_ages() {
    let source = source();
    for options in [
        &[][..],
        &["-b", "4096"],
        &["-b", "2048", "-O", "^64bit"],
        &["-b", "65536"],
        &["-I", "128", "-O", "^metadata_csum,^64bit"],
        &["-I", "1024", "-O", "inline_data"],
        &["-O", "inline_data"],
        &["-O", "inline_data,^metadata_csum"],
        &["-O", "^metadata_csum,uninit_bg"],
        &["-O", "^metadata_csum,^uninit_bg,^flex_bg,^has_journal,^dir_index,^filetype"],
        &["-O", "metadata_csum_seed,large_dir,sparse_super2,ea_inode"],
        &["-O", "bigalloc", "-C", "65536"],
        &["-O", "encrypt,casefold,verity,project,quota"],
        &["-b", "1024", "-g", "1024", "-G", "4"],
        &["-b", "1024", "-O", "^extents,^64bit"],
        &["-I", "128", "-O", "^extents,^64bit,^metadata_csum,^has_journal,^flex_bg,^extra_isize"],
    ] {
        let image = mke2fs(options, source.path());
        let tree = read_all(image.reopen().unwrap()).unwrap_or_else(|e| panic!("{options:?}: {e}"));
        compare(&tree, source.path(), options);
        let found: Vec<_> =
            tree[&b"tiny"[..]].xattrs.iter().map(|x| (&*x.name, x.value.len())).collect();
        assert_eq!(found, [(&b"user.long"[..], 700), (b"user.short", 1)], "{options:?}");
        let reader = Reader::open(image.reopen().unwrap()).unwrap();
        assert_eq!(reader.volume().label, b"made");
    }
}

#[test]
fn attributes_in_inodes_of_their_own() {
    let source = TempDir::new().unwrap();
    let file = source.path().join("f");
    fs::write(&file, "f").unwrap();
    let value = "v".repeat(3000);
    set_xattr(&file, "user.large", &value);
    let image = mke2fs(&["-b", "1024", "-O", "ea_inode"], source.path());
    let tree = read_all(image.reopen().unwrap()).unwrap();
    assert_eq!(tree[&b"f"[..]].xattrs, [crate::written::xattr("user.large", value.as_bytes())]);
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let source = source();
    let image = mke2fs(&["-O", "meta_bg,^resize_inode"], source.path());
    let error = read_all(image.reopen().unwrap()).unwrap_err().to_string();
    assert!(error.contains("meta_bg"), "{error}");
    let image = mke2fs(&[], source.path());
    let mut reader = Reader::open(image.reopen().unwrap()).unwrap();
    let tiny = reader.find(b"tiny", true).unwrap();
    assert_eq!(tiny.kind, Kind::File);
    assert!(reader.entries(&tiny).is_err() && reader.target(&tiny).is_err());
    let root = reader.root().unwrap();
    assert!(reader.content(&root).is_err());
    assert!(reader.inode(0).is_err() && reader.inode(u32::MAX).is_err());
    let last = reader.volume().inodes;
    assert!(reader.inode(last).unwrap_err().to_string().contains("free"));
    assert!(Reader::open(std::io::Cursor::new(vec![0; 1 << 20])).is_err());
}
