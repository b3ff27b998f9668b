//! What an image is, in a few lines.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use ext4::read::{Kind, Reader, Volume, Walk};
use imgrun::{Result, Unit, interrupt};
use imgtool::inspect::{escaped, failed, hex, open};
use serde_json::json;

use super::out::Out;

/// What a walk over the tree counted.
#[derive(Debug, Default)]
struct Counts {
    directories: u64,
    files: u64,
    symlinks: u64,
    others: u64,
    /// Names beyond a file's first.
    links: u64,
    content_bytes: u64,
}

pub(super) fn print(image: &Path, json: bool) -> Result<()> {
    let mut reader = open(image)?;
    let counts = count(image, &mut reader)?;
    let mut out = Out::new();
    if json {
        out.line(object(image, reader.volume(), &counts))?;
    } else {
        for (key, value) in lines(reader.volume(), &counts) {
            out.line(format_args!("{key:<12}{value}"))?;
        }
    }
    out.finish()
}

fn count(image: &Path, reader: &mut Reader<File>) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut linked = HashSet::new();
    let mut walk = Walk::new(reader.root().map_err(failed(image))?);
    while let Some(found) = walk.next(reader).map_err(failed(image))? {
        interrupt::check()?;
        let inode = found.inode;
        if inode.kind != Kind::Directory && inode.links > 1 && !linked.insert(inode.number) {
            counts.links += 1;
            continue;
        }
        match inode.kind {
            Kind::Directory => counts.directories += 1,
            Kind::File => {
                counts.files += 1;
                counts.content_bytes = counts.content_bytes.saturating_add(inode.size);
            }
            Kind::Symlink => counts.symlinks += 1,
            _ => counts.others += 1,
        }
    }
    Ok(counts)
}

fn uuid(volume: &Volume) -> String {
    let hex = hex(&volume.uuid);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn lines(volume: &Volume, counts: &Counts) -> Vec<(&'static str, String)> {
    let bytes = |blocks: u64| {
        let bytes = blocks.saturating_mul(volume.block_bytes);
        format!("{} ({bytes} bytes)", Unit::Bytes.amount(bytes))
    };
    let Counts { directories, files, symlinks, others, links, content_bytes } = counts;
    let used = volume.inodes.saturating_sub(volume.free_inodes);
    let content = Unit::Bytes.amount(*content_bytes);
    let clean = if volume.clean { "clean" } else { "not unmounted cleanly, or with errors" };
    vec![
        ("label", escaped(&volume.label)),
        ("uuid", uuid(volume)),
        ("size", bytes(volume.blocks)),
        ("free", bytes(volume.free_blocks)),
        ("reserved", bytes(volume.reserved_blocks)),
        ("blocks", format!("{} of {} bytes", volume.blocks, volume.block_bytes)),
        ("groups", volume.groups.to_string()),
        ("inodes", format!("{used} of {} in use", volume.inodes)),
        (
            "tree",
            format!(
                "{directories} directories, {files} files, {symlinks} symlinks, {others} others, \
                 {links} further hard links"
            ),
        ),
        ("content", format!("{content} ({content_bytes} bytes, holes included)")),
        ("features", volume.features.join(" ")),
        ("state", clean.into()),
    ]
}

fn object(image: &Path, volume: &Volume, counts: &Counts) -> serde_json::Value {
    json!({
        "path": image, "label": String::from_utf8_lossy(&volume.label), "uuid": uuid(volume),
        "block_bytes": volume.block_bytes, "blocks": volume.blocks,
        "free_blocks": volume.free_blocks, "reserved_blocks": volume.reserved_blocks,
        "groups": volume.groups, "inodes": volume.inodes, "free_inodes": volume.free_inodes,
        "directories": counts.directories, "files": counts.files, "symlinks": counts.symlinks,
        "others": counts.others, "further_links": counts.links,
        "content_bytes": counts.content_bytes, "features": volume.features,
        "clean": volume.clean, "checksums": volume.checksums,
    })
}
