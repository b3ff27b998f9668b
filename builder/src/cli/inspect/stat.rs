//! `imgtool inspect stat`, and how one file is described.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use ext4::Time;
use ext4::read::{self, Inode, Kind, Reader};
use imgrun::Result;
use imgtool::date;
use imgtool::inspect::{device_text, escaped, failed, hex, kind_text, mode_text, open, xattr_text};
use serde_json::{Map, Value, json};

use super::out::{Out, put_name};

/// Show all that an image says about one file.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// A file with an ext4 file system.
    image: PathBuf,
    /// The file in it. A symbolic link at the end is shown itself.
    path: OsString,
}

impl Args {
    pub(super) fn run(self, json: bool) -> Result<()> {
        let failed = failed(&self.image);
        let path = super::absolute(self.path.as_bytes());
        let mut reader = open(&self.image)?;
        let inode = reader.find(&path, false).map_err(&failed)?;
        let mut out = Out::new();
        if json {
            let mut object = object(&mut reader, &path, &inode).map_err(&failed)?;
            let xattrs = reader.xattrs(&inode).map_err(&failed)?;
            let xattrs = xattrs.iter().map(|xattr| {
                let mut object = Map::new();
                put_name(&mut object, "name", &xattr.name);
                object.insert("value_hex".into(), hex(&xattr.value).into());
                Value::Object(object)
            });
            object.insert("xattrs".into(), xattrs.collect());
            out.line(Value::Object(object))?;
        } else {
            for (key, value) in lines(&mut reader, &path, &inode).map_err(&failed)? {
                out.line(format_args!("{key:<10}{value}"))?;
            }
        }
        out.finish()
    }
}

fn lines(
    reader: &mut Reader<File>,
    path: &[u8],
    inode: &Inode,
) -> read::Result<Vec<(&'static str, String)>> {
    let mut lines = vec![("path", escaped(path)), ("type", kind_text(inode.kind).into())];
    if inode.kind == Kind::Symlink {
        lines.push(("target", escaped(&reader.target(inode)?)));
    }
    if let Some(device) = device_text(inode.kind) {
        lines.push(("device", device));
    }
    lines.extend([
        ("mode", format!("{:04o} {}", inode.mode, mode_text(inode.kind, inode.mode))),
        ("owner", format!("{}:{}", inode.uid, inode.gid)),
        ("size", format!("{} bytes, {} on disk", inode.size, inode.sectors.saturating_mul(512))),
        ("inode", format!("{}, {} links", inode.number, inode.links)),
        ("modified", date::instant(inode.mtime)),
        ("changed", date::instant(inode.ctime)),
        ("accessed", date::instant(inode.atime)),
    ]);
    if let Some(made) = inode.crtime {
        lines.push(("made", date::instant(made)));
    }
    lines.extend(reader.xattrs(inode)?.iter().map(|xattr| ("xattr", xattr_text(xattr))));
    Ok(lines)
}

/// All about a file but its attributes.
pub(super) fn object(
    reader: &mut Reader<File>,
    path: &[u8],
    inode: &Inode,
) -> read::Result<Map<String, Value>> {
    let time = |time: Time| json!({ "seconds": time.seconds, "nanoseconds": time.nanoseconds });
    let mut object = Map::new();
    put_name(&mut object, "path", path);
    let fields = [
        ("type", kind_text(inode.kind).into()),
        ("mode", inode.mode.into()),
        ("uid", inode.uid.into()),
        ("gid", inode.gid.into()),
        ("size", inode.size.into()),
        ("disk_bytes", inode.sectors.saturating_mul(512).into()),
        ("inode", inode.number.into()),
        ("links", inode.links.into()),
        ("mtime", time(inode.mtime)),
        ("ctime", time(inode.ctime)),
        ("atime", time(inode.atime)),
        ("crtime", inode.crtime.map_or(Value::Null, time)),
    ];
    object.extend(fields.map(|(key, value)| (key.to_string(), value)));
    match inode.kind {
        Kind::Symlink => put_name(&mut object, "target", &reader.target(inode)?),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            object.insert("device".into(), json!([major, minor]));
        }
        _ => {}
    }
    Ok(object)
}
