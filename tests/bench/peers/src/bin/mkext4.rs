//! `mkext4 OUT BYTES LAYER...`: layers from the bottom up into an ext4 image by the crate mkext4.
//!
//! It must know every size before the first content, so the glue holds the layers in memory.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

use mkext4::sink::FileSink;
use mkext4::{FsBuilder, InodeHandle, Meta, Options, ROOT, SpecialKind};
use tar::EntryType;

type Failure = Box<dyn std::error::Error>;

#[derive(Clone)]
enum Kind {
    Directory,
    /// Where the content lies: layer, offset, length.
    File(usize, usize, usize),
    Symlink(String),
    Special(SpecialKind),
}

/// An inode; hard links are names of the same one.
#[derive(Clone)]
struct Node {
    inode: usize,
    kind: Kind,
    meta: Meta,
    xattrs: Vec<(String, Vec<u8>)>,
}

type Tree = BTreeMap<String, Node>;

fn clean(name: &[u8]) -> Result<String, Failure> {
    let name = std::str::from_utf8(name)?;
    Ok(name.split('/').filter(|p| !matches!(*p, "" | ".")).collect::<Vec<_>>().join("/"))
}

/// Removes what lies below `path`.
fn empty(tree: &mut Tree, path: &str) {
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    let below = tree.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
    let below: Vec<String> = below.map(|(name, _)| name.clone()).filter(|n| n != "").collect();
    below.iter().for_each(|name| drop(tree.remove(name)));
}

/// An access list as ext4 stores it: entries of eight bytes only where they name someone.
fn stored(acl: &[u8]) -> Vec<u8> {
    let mut out = vec![1, 0, 0, 0];
    for entry in acl.get(4..).unwrap_or(&[]).chunks_exact(8) {
        let names_someone = matches!(entry[0], 0x02 | 0x08);
        out.extend_from_slice(&entry[..if names_someone { 8 } else { 4 }]);
    }
    out
}

fn node(entry: &mut tar::Entry<impl Read>, layer: usize, inode: usize) -> Result<Node, Failure> {
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            if let Some(name) = extension.key()?.strip_prefix("SCHILY.xattr.") {
                let value = extension.value_bytes();
                let acl = name.starts_with("system.posix_acl_");
                xattrs.push((name.to_string(), if acl { stored(value) } else { value.to_vec() }));
            }
        }
    }
    let header = entry.header();
    let device = || -> Result<(u32, u32), Failure> {
        Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
    };
    let kind = match header.entry_type() {
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => {
            let target = entry.link_name_bytes().ok_or("no target")?;
            Kind::Symlink(String::from_utf8(target.into_owned())?)
        }
        EntryType::Char => {
            let (major, minor) = device()?;
            Kind::Special(SpecialKind::Char { major, minor })
        }
        EntryType::Block => {
            let (major, minor) = device()?;
            Kind::Special(SpecialKind::Block { major, minor })
        }
        EntryType::Fifo => Kind::Special(SpecialKind::Fifo),
        _ => Kind::File(layer, entry.raw_file_position() as usize, entry.size() as usize),
    };
    let mode = (header.mode()? & 0o7777) as u16;
    let time = (header.mtime()? as i64, 0);
    let meta = Meta::new(mode, header.uid()? as u32, header.gid()? as u32, time);
    Ok(Node { inode, kind, meta, xattrs })
}

/// Applies a layer to the tree: its whiteouts hide what was there before it.
fn apply(tree: &mut Tree, layers: &[Vec<u8>], next: &mut usize) -> Result<(), Failure> {
    let layer = layers.len() - 1;
    let (mut nodes, mut links) = (Vec::new(), Vec::new());
    for entry in tar::Archive::new(&layers[layer][..]).entries()? {
        let mut entry = entry?;
        let name = clean(&entry.path_bytes())?;
        let (parent, base) = name.rsplit_once('/').unwrap_or(("", &name));
        if base == ".wh..wh..opq" {
            empty(tree, parent);
        } else if let Some(hidden) = base.strip_prefix(".wh.") {
            let hidden = clean(format!("{parent}/{hidden}").as_bytes())?;
            empty(tree, &hidden);
            tree.remove(&hidden);
        } else if entry.header().entry_type() == EntryType::Link {
            links.push((name, clean(&entry.link_name_bytes().ok_or("no target")?)?));
        } else {
            *next += 1;
            nodes.push((name, node(&mut entry, layer, *next)?));
        }
    }
    for (name, node) in nodes {
        if !matches!(node.kind, Kind::Directory) {
            empty(tree, &name);
        }
        tree.insert(name, node);
    }
    for (name, target) in links {
        let node = tree.get(&target).ok_or("a hard link to nothing")?.clone();
        tree.insert(name, node);
    }
    Ok(())
}

/// The handle of a directory, made where no entry names it.
fn directory(
    builder: &mut FsBuilder,
    made: &mut HashMap<String, InodeHandle>,
    path: &str,
) -> Result<InodeHandle, Failure> {
    if let Some(&handle) = made.get(path) {
        return Ok(handle);
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = directory(builder, made, parent)?;
    let handle = builder.mkdir(parent, name, Meta::new(0o755, 0, 0, (0, 0)))?;
    made.insert(path.to_string(), handle);
    Ok(handle)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut layers: Vec<Vec<u8>> = Vec::new();
    let (mut tree, mut next) = (Tree::new(), 0);
    for path in &arguments[2..] {
        let mut bytes = Vec::new();
        peers::Layer::open(path)?.read_to_end(&mut bytes)?;
        layers.push(bytes);
        apply(&mut tree, &layers, &mut next)?;
    }
    let mut builder = FsBuilder::new(Options::new(arguments[1].parse()?, *b"0123456789abcdef", 0))?;
    let mut made = HashMap::from([(String::new(), ROOT)]);
    let (mut inodes, mut contents) = (HashMap::new(), Vec::new());
    for (path, node) in tree {
        if path.is_empty() {
            builder.set_meta(ROOT, node.meta)?;
            continue;
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let parent = directory(&mut builder, &mut made, parent)?;
        if let Some(&there) = inodes.get(&node.inode) {
            builder.hardlink(parent, name, there)?;
            continue;
        }
        let handle = match node.kind {
            Kind::Directory => {
                let handle = builder.mkdir(parent, name, node.meta)?;
                made.insert(path.clone(), handle);
                handle
            }
            Kind::File(layer, at, length) => {
                let handle = builder.file(parent, name, node.meta, length as u64)?;
                if length > 0 {
                    contents.push((handle, layer, at, length));
                }
                handle
            }
            Kind::Symlink(target) => builder.symlink(parent, name, &target, node.meta)?,
            Kind::Special(kind) => builder.mknod(parent, name, node.meta, kind)?,
        };
        for (name, value) in &node.xattrs {
            builder.set_xattr(handle, name, value)?;
        }
        inodes.insert(node.inode, handle);
    }
    let layout = builder.seal()?;
    let mut sink = FileSink::create(Path::new(&arguments[0]), layout.image_len())?;
    let mut writer = layout.writer(&mut sink)?;
    for (handle, layer, at, length) in contents {
        writer.fill(handle, &mut &layers[layer][at..at + length])?;
    }
    writer.finish()?;
    Ok(())
}
