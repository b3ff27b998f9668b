//! Images with wrong bytes: an error or the right answer, never a panic, never without end.

use std::io::Cursor;

use ext4::{BLOCK_BYTES, Kind, Meta, Options, Tree as Nodes};

use crate::written::{Image, acl, xattr};
use crate::{Tree, noise, read_all};

/// A small image with every structure: extent tree blocks, a hash tree, attributes in a block.
fn image() -> Vec<u8> {
    let mut image = Image::new(Options { size_bytes: Some(3 << 20), ..Options::default() });
    let mut file = image.writer.file();
    for i in 0..6u32 {
        file.append(&(i + 1).to_le_bytes()).unwrap();
        file.hole(8192 - 4).unwrap();
    }
    let data = file.finish().unwrap();
    image.put(Nodes::ROOT, "tree", Meta::with_mode(0o644), Kind::File(data));
    let large = noise(1000);
    let xattrs = vec![xattr("user.large", &large), xattr("system.posix_acl_access", &acl())];
    let directory =
        image.put(Nodes::ROOT, "dir", Meta { xattrs, ..Meta::with_mode(0o755) }, Kind::directory());
    let small = image.file("small", b"small");
    for i in 0..60 {
        image.tree.link(directory, format!("{i:0120}").as_bytes(), small).unwrap();
    }
    image.put(Nodes::ROOT, "link", Meta::with_mode(0o777), Kind::Symlink((*b"small").into()));
    image.finish()
}

/// What does not lie in blocks of content.
fn metadata(mut tree: Tree) -> Tree {
    tree.values_mut().for_each(|seen| seen.content.iter_mut().for_each(|(_, bytes)| bytes.fill(0)));
    tree
}

#[test]
fn every_flipped_byte_is_seen_or_does_not_matter() {
    let mut image = image();
    let whole = metadata(read_all(Cursor::new(&image)).unwrap());
    let (mut seen, mut unseen) = (0, 0);
    for block in 0..image.len() / BLOCK_BYTES {
        let range = block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES;
        // Holes, and behind the first of them there is nothing new.
        if block > 0 && image[range.clone()].iter().all(|&b| b == 0) {
            continue;
        }
        for at in range {
            let flip = [1 << (at / 2 % 8), 0xff][at % 2];
            image[at] ^= flip;
            match read_all(Cursor::new(&image)) {
                Ok(tree) => {
                    assert!(metadata(tree) == whole, "byte {at} ^ {flip:#x}");
                    unseen += 1;
                }
                Err(_) => seen += 1,
            }
            image[at] ^= flip;
        }
    }
    // Superblock, descriptor, tables, nodes, directories: at least eight blocks with checksums.
    assert!(seen > 10_000 && unseen > 1024, "{seen} were seen, {unseen} were not");
}

/// Without checksums everything is believed that can be: nothing may break.
#[test]
fn flipped_bytes_without_checksums() {
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::write(directory.path().join("f"), noise(20_000)).unwrap();
    for i in 0..20 {
        std::fs::create_dir(directory.path().join(i.to_string())).unwrap();
    }
    std::os::unix::fs::symlink("f", directory.path().join("l")).unwrap();
    for features in ["inline_data", "^extents,^64bit"] {
        let mut image = made_without_checksums(directory.path(), features);
        read_all(Cursor::new(&image)).unwrap();
        for at in 0..image.len() {
            if image[at / 1024 * 1024..][..1024].iter().all(|&b| b == 0) {
                continue;
            }
            for flip in [1 << (at % 8), 0xff] {
                image[at] ^= flip;
                let _ = read_all(Cursor::new(&image));
                image[at] ^= flip;
            }
        }
    }
}

fn made_without_checksums(directory: &std::path::Path, features: &str) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(256 << 10).unwrap();
    let features = format!("^metadata_csum,^has_journal,^resize_inode,{features}");
    let status = std::process::Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "1024", "-N", "48", "-O", &features, "-d"])
        .args([directory, file.path()])
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()))
        .status();
    assert!(status.unwrap().success());
    std::fs::read(file.path()).unwrap()
}

#[test]
fn cut_images_are_refused() {
    let image = image();
    for length in (0..image.len()).step_by(509) {
        let error = read_all(Cursor::new(&image[..length])).unwrap_err().to_string();
        let wanted = if length < 2048 { "no ext4" } else { "it is cut" };
        assert!(error.contains(wanted), "{length}: {error}");
    }
}
