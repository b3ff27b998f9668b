//! An initramfs: "newc" cpio (the kernel's `Documentation/driver-api/early-userspace/
//! buffer-format.rst`). It holds no extended attributes.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use ext4::read::Kind;

use super::tree::{self, Item};
use crate::{Error, Result};

const MAGIC: &str = "070701";
/// Sizes are eight hex digits.
const FILE_BYTES_MAX: u64 = u32::MAX as u64;
/// The archive is padded to this.
const BLOCK_BYTES: u64 = 512;
/// Where the kernel looks for process 1 in an initramfs.
const INIT: &str = "init";

/// Writes the tree of `image`. The agent is made the `/init` of images that have none.
pub(super) fn write(image: File, out: &mut File) -> Result<()> {
    let mut archive = Archive { out: BufWriter::new(out), at: 0 };
    let mut has_init = false;
    tree::walk(image, |item, reader| {
        has_init |= item.path == INIT.as_bytes();
        let inode = &item.inode;
        match inode.kind {
            // The content of a file with several names stands with the last.
            Kind::File if item.more => archive.head(item, 0, 0, 0),
            Kind::File => {
                if inode.size > FILE_BYTES_MAX {
                    return Err(Error::input("a file of 4 GiB and more does not fit into cpio"));
                }
                archive.head(item, inode.size, 0, 0)?;
                let mut content = reader.content(inode).map_err(tree::damaged)?;
                archive.body(&mut content)
            }
            Kind::Symlink => {
                let target = reader.target(inode).map_err(tree::damaged)?;
                archive.head(item, target.len() as u64, 0, 0)?;
                archive.body(&mut &target[..])
            }
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                archive.head(item, 0, major, minor)
            }
            Kind::Directory | Kind::Fifo | Kind::Socket => archive.head(item, 0, 0, 0),
        }
    })?;
    if !has_init {
        let target = format!("/{}", crate::inject::AGENT_PATH);
        archive
            .header(INIT.as_bytes(), &[0, 0o120777, 0, 0, 1, 0, target.len() as u64, 0, 0, 0, 0])?;
        archive.body(&mut target.as_bytes())?;
    }
    archive.header(b"TRAILER!!!", &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let over = archive.at % BLOCK_BYTES;
    archive.bytes(&vec![0; ((BLOCK_BYTES - over) % BLOCK_BYTES) as usize])?;
    archive.out.flush().map_err(failed)
}

struct Archive<'o> {
    out: BufWriter<&'o mut File>,
    at: u64,
}

impl Archive<'_> {
    fn head(&mut self, item: &Item, size: u64, major: u32, minor: u32) -> Result<()> {
        let inode = &item.inode;
        let name: &[u8] = if item.path.is_empty() { b"." } else { &item.path };
        let mode = u64::from(inode.kind.mode_bits() | inode.mode);
        let time = u64::try_from(inode.mtime.seconds).unwrap_or(0).min(u32::MAX.into());
        let fields = [
            inode.number.into(),
            mode,
            inode.uid.into(),
            inode.gid.into(),
            inode.links.into(),
            time,
            size,
            0,
            0,
            major.into(),
            minor.into(),
        ];
        self.header(name, &fields)
    }

    /// Fields: inode, mode, uid, gid, links, mtime, size, device of the file system (2), device (2).
    fn header(&mut self, name: &[u8], fields: &[u64; 11]) -> Result<()> {
        let mut text = MAGIC.to_string();
        for field in fields {
            text.push_str(&format!("{field:08x}"));
        }
        text.push_str(&format!("{:08x}{:08x}", name.len() + 1, 0));
        self.bytes(text.as_bytes())?;
        self.bytes(name)?;
        self.bytes(&[0])?;
        self.align()
    }

    fn body(&mut self, content: &mut impl io::Read) -> Result<()> {
        self.at += io::copy(content, &mut self.out).map_err(failed)?;
        self.align()
    }

    fn align(&mut self) -> Result<()> {
        let over = (self.at % 4) as usize;
        self.bytes(&[0; 4][..(4 - over) % 4])
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes).map_err(failed)
    }
}

fn failed(e: io::Error) -> Error {
    Error::io("the archive", e)
}
