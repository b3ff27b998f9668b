//! `imgtool inspect ls`.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use ext4::read::{self, Inode, Kind, Reader, Walk};
use imgrun::{Result, interrupt};
use imgtool::date;
use imgtool::inspect::{device_text, escaped, failed, mode_text, open};
use serde_json::Value;

use super::out::Out;
use super::stat;

/// List a directory's names, sorted.
///
/// With --json each file is an object on a line of its own.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Show types, permissions, links, owners, sizes and times, too.
    #[arg(short, long)]
    long: bool,
    /// Go through directories below; whole paths are listed.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// A file with an ext4 file system.
    image: PathBuf,
    /// The directory, or a file, in it; symbolic links are followed.
    #[arg(default_value = "/")]
    path: OsString,
}

impl Args {
    pub(super) fn run(self, json: bool) -> Result<()> {
        let failed = failed(&self.image);
        let start = super::absolute(self.path.as_bytes());
        let mut reader = open(&self.image)?;
        let inode = reader.find(&start, true).map_err(&failed)?;
        let mut out = Out::new();
        if inode.kind != Kind::Directory {
            self.show(&mut reader, &start, &start, &inode, json, &mut out)?;
        } else if self.recursive {
            let mut walk = Walk::new(inode);
            while !out.is_closed()
                && let Some(found) = walk.next(&mut reader).map_err(&failed)?
            {
                interrupt::check()?;
                let path = below(&start, &found.path);
                self.show(&mut reader, &path, &path, &found.inode, json, &mut out)?;
            }
        } else {
            for entry in reader.entries(&inode).map_err(&failed)? {
                if out.is_closed() {
                    break;
                }
                interrupt::check()?;
                let path = below(&start, &entry.name);
                let inode = reader.inode(entry.inode).map_err(&failed)?;
                self.show(&mut reader, &path, &entry.name, &inode, json, &mut out)?;
            }
        }
        out.finish()
    }

    fn show(
        &self,
        reader: &mut Reader<File>,
        path: &[u8],
        name: &[u8],
        inode: &Inode,
        json: bool,
        out: &mut Out,
    ) -> Result<()> {
        let failed = failed(&self.image);
        if json {
            return out.line(Value::Object(stat::object(reader, path, inode).map_err(failed)?));
        }
        if self.long {
            return out.line(long(reader, name, inode).map_err(failed)?);
        }
        out.line(escaped(name))
    }
}

/// `path` below the directory `start`.
fn below(start: &[u8], path: &[u8]) -> Vec<u8> {
    let start = start.strip_suffix(b"/").unwrap_or(start);
    match path {
        b"" if start.is_empty() => b"/".to_vec(),
        b"" => start.to_vec(),
        path => [start, b"/", path].concat(),
    }
}

/// `-rwsr-xr-x   1     0     0      72000 2026-11-20 22:41:07 su`, and where a link points.
fn long(reader: &mut Reader<File>, name: &[u8], inode: &Inode) -> read::Result<String> {
    let mode = mode_text(inode.kind, inode.mode);
    let size = device_text(inode.kind).unwrap_or_else(|| inode.size.to_string());
    let time = date::instant(inode.mtime);
    let time = time.split('.').next().unwrap_or_default();
    let Inode { links, uid, gid, .. } = inode;
    let name = escaped(name);
    let mut line = format!("{mode} {links:>3} {uid:>5} {gid:>5} {size:>10} {time} {name}");
    if inode.kind == Kind::Symlink {
        line.push_str(" -> ");
        line.push_str(&escaped(&reader.target(inode)?));
    }
    Ok(line)
}
