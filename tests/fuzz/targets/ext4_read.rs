//! Any bytes as an ext4 image, and a good image with any bytes patched: an error or an answer, in
//! bounded time and memory, never a panic.
#![no_main]

use std::io::{Cursor, Read};
use std::sync::LazyLock;

use ext4::read::{Kind, Reader, Result, Walk};
use ext4::{Meta, Node, Options, Tree, Writer, Xattr};

/// Bytes of a file that are looked at.
const CONTENT_BYTES_MAX: u64 = 1 << 20;
const IMAGE_BYTES: u64 = 192 << 10;
/// Where a superblock has its read-only features, and the one that says that there are checksums:
/// without it a patch gets further than to the next checksum.
const RO_COMPAT_AT: usize = 1024 + 0x64;
const RO_COMPAT_CHECKSUMS_HIGH: u8 = 0x04;

static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let options = Options { size_bytes: Some(IMAGE_BYTES), ..Options::default() };
    let mut image = good(options).unwrap_or_default();
    image[RO_COMPAT_AT + 1] &= !RO_COMPAT_CHECKSUMS_HIGH;
    image
});

fn good(options: Options) -> ext4::Result<Vec<u8>> {
    let mut writer = Writer::new(Cursor::new(Vec::new()), options)?;
    let mut file = writer.file();
    for _ in 0..6 {
        file.append(b"data")?;
        file.hole(8192 - 4)?;
    }
    let data = file.finish()?;
    let plain = || Meta::with_mode(0o755);
    let mut tree = Tree::new(plain());
    let xattr = |name: &[u8], value: &[u8]| Xattr { name: name.into(), value: value.into() };
    let large = vec![xattr(b"user.a", &[b'a'; 300]), xattr(b"trusted.b", b"")];
    let directory = tree.add(Node {
        meta: Meta { xattrs: large, ..plain() },
        kind: ext4::Kind::directory(),
    });
    tree.link(Tree::ROOT, b"dir", directory)?;
    let small = vec![xattr(b"user.c", b"d")];
    let file = tree.add(Node { meta: Meta { xattrs: small, ..plain() }, kind: ext4::Kind::File(data) });
    for i in 0..40 {
        tree.link(directory, format!("{i:0110}").as_bytes(), file)?;
    }
    for (name, target) in [(&b"fast"[..], vec![b't'; 9]), (b"slow", vec![b't'; 90])] {
        let link = tree.add(Node { meta: plain(), kind: ext4::Kind::Symlink(target.into()) });
        tree.link(directory, name, link)?;
    }
    Ok(writer.finish(&tree)?.0.into_inner())
}

/// Patches: two bytes of place, one of length, and so many bytes.
fn patched(mut patches: &[u8]) -> Vec<u8> {
    let mut image = GOOD.clone();
    while let [low, high, length, rest @ ..] = patches {
        // Places are counted in units of four bytes: where fields are.
        let at = usize::from(u16::from_le_bytes([*low, *high])) * 4 % image.len();
        let count = usize::from(length % 32).min(rest.len()).min(image.len() - at);
        image[at..at + count].copy_from_slice(&rest[..count]);
        patches = &rest[count..];
    }
    image
}

fn read_all(image: &[u8]) -> Result<()> {
    let mut reader = Reader::open(Cursor::new(image))?;
    let mut walk = Walk::new(reader.root()?);
    let _ = reader.find(b"/dir/slow/../fast", true);
    while let Some(found) = walk.next(&mut reader)? {
        let inode = found.inode;
        let _ = reader.xattrs(&inode);
        let _ = reader.target(&inode);
        if inode.kind != Kind::File {
            continue;
        }
        let Ok(mut content) = reader.content(&inode) else { continue };
        let mut looked_at = 0;
        while looked_at < CONTENT_BYTES_MAX && content.position() < content.size() {
            match content.skip_hole(u64::MAX) {
                Ok(0) => {}
                Ok(_) => continue,
                Err(_) => break,
            }
            let mut piece = [0; 4096];
            match content.read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(count) => looked_at += count as u64,
            }
        }
    }
    Ok(())
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = read_all(bytes);
    let _ = read_all(&patched(bytes));
});
