//! How two images differ, path by path.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use ext4::Xattr;
use ext4::read::{Content, Found, Inode, Kind, Reader, Walk};
use imgrun::interrupt;

use super::failed;
use super::text::{device_text, escaped, kind_text, xattr_text};
use crate::{Result, date};

/// Bytes of a file that are compared at once.
const PIECE_BYTES: usize = 256 << 10;

/// What two files can differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// File, directory, symlink, device…
    Type,
    /// Permission bits.
    Mode,
    /// User and group.
    Owner,
    /// Time of the last change.
    Mtime,
    /// A file's bytes.
    Content,
    /// Where a symlink points.
    Target,
    /// A device's numbers.
    Device,
    /// Extended attributes.
    Xattrs,
    /// Which earlier name is a hard link to the same file.
    Link,
}

impl Aspect {
    /// All of them.
    pub const ALL: [Aspect; 9] = [
        Aspect::Type,
        Aspect::Mode,
        Aspect::Owner,
        Aspect::Mtime,
        Aspect::Content,
        Aspect::Target,
        Aspect::Device,
        Aspect::Xattrs,
        Aspect::Link,
    ];

    /// As one lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Aspect::Type => "type",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Mtime => "mtime",
            Aspect::Content => "content",
            Aspect::Target => "target",
            Aspect::Device => "device",
            Aspect::Xattrs => "xattrs",
            Aspect::Link => "link",
        }
    }
}

/// One aspect of one path, as it is in both images, as text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    /// Which.
    pub aspect: Aspect,
    /// In the first image.
    pub old: String,
    /// In the second.
    pub new: String,
}

/// What became of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the second image has it.
    Added,
    /// Only the first image has it.
    Removed,
    /// Both have it, and it differs in these aspects.
    Changed(Vec<Detail>),
}

/// A path that is not the same in both images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path, without a leading slash; empty for the root.
    pub path: Vec<u8>,
    /// What it is in the image that has it, the second if both have.
    pub kind: Kind,
    /// What became of it.
    pub change: Change,
}

/// One of the two images under comparison.
struct Side<'a> {
    image: &'a Path,
    reader: Reader<File>,
    walk: Walk,
    /// The first name of each file with several.
    names: HashMap<u32, Vec<u8>>,
}

impl<'a> Side<'a> {
    fn open(image: &'a Path) -> Result<Self> {
        let mut reader = super::open(image)?;
        let root = reader.root().map_err(failed(image))?;
        Ok(Side { image, reader, walk: Walk::new(root), names: HashMap::new() })
    }

    fn next(&mut self) -> Result<Option<Found>> {
        let found = self.walk.next(&mut self.reader).map_err(failed(self.image))?;
        if let Some(found) = &found
            && found.inode.links > 1
            && found.inode.kind != Kind::Directory
        {
            self.names.entry(found.inode.number).or_insert_with(|| found.path.clone());
        }
        Ok(found)
    }

    /// The earlier name of the file that `found` is a further name of.
    fn earlier(&self, found: &Found) -> Option<&[u8]> {
        self.names.get(&found.inode.number).map(|name| &name[..]).filter(|name| *name != found.path)
    }

    fn target(&mut self, inode: &Inode) -> Result<Vec<u8>> {
        self.reader.target(inode).map_err(failed(self.image))
    }

    fn xattrs(&mut self, inode: &Inode) -> Result<Vec<Xattr>> {
        self.reader.xattrs(inode).map_err(failed(self.image))
    }

    fn content(&mut self, inode: &Inode) -> Result<Content<'_, File>> {
        self.reader.content(inode).map_err(failed(self.image))
    }
}

/// Compares two images and calls `tell` with every path that is not the same in both, in order,
/// until that says no. Aspects in `ignored` are not looked at.
///
/// # Errors
/// Where an image can not be read or is damaged, naming it.
pub fn diff(
    old: &Path,
    new: &Path,
    ignored: &[Aspect],
    tell: &mut dyn FnMut(Difference) -> Result<bool>,
) -> Result<()> {
    let (mut left, mut right) = (Side::open(old)?, Side::open(new)?);
    let (mut a, mut b) = (left.next()?, right.next()?);
    loop {
        interrupt::check()?;
        let order = match (&a, &b) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => order(&a.path, &b.path),
        };
        let found_a = a.take_if(|_| order.is_le());
        let found_b = b.take_if(|_| order.is_ge());
        let (kind, path, change) = match (found_a, found_b) {
            (Some(a), Some(b)) => {
                let details = compare(&mut left, &a, &mut right, &b, ignored)?;
                (b.inode.kind, b.path, Change::Changed(details))
            }
            (Some(a), None) => (a.inode.kind, a.path, Change::Removed),
            (None, Some(b)) => (b.inode.kind, b.path, Change::Added),
            (None, None) => return Ok(()),
        };
        let is_same = matches!(&change, Change::Changed(details) if details.is_empty());
        if !is_same && !tell(Difference { path, kind, change })? {
            return Ok(());
        }
        if order.is_le() {
            a = left.next()?;
        }
        if order.is_ge() {
            b = right.next()?;
        }
    }
}

/// The order in which a walk meets paths: what is below a directory comes before its neighbours.
fn order(a: &[u8], b: &[u8]) -> Ordering {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

fn compare(
    left: &mut Side<'_>,
    a: &Found,
    right: &mut Side<'_>,
    b: &Found,
    ignored: &[Aspect],
) -> Result<Vec<Detail>> {
    let mut details = Vec::new();
    let mut note = |aspect, old: String, new: String| {
        if old != new && !ignored.contains(&aspect) {
            details.push(Detail { aspect, old, new });
        }
    };
    let (earlier_a, earlier_b) = (left.earlier(a), right.earlier(b));
    note(Aspect::Link, link_text(earlier_a), link_text(earlier_b));
    if earlier_a.is_some() && earlier_a == earlier_b {
        // The same two files have been compared at their first name.
        return Ok(details);
    }
    let (x, y) = (&a.inode, &b.inode);
    note(Aspect::Type, kind_text(x.kind).into(), kind_text(y.kind).into());
    note(Aspect::Mode, format!("{:04o}", x.mode), format!("{:04o}", y.mode));
    note(Aspect::Owner, format!("{}:{}", x.uid, x.gid), format!("{}:{}", y.uid, y.gid));
    note(Aspect::Mtime, date::instant(x.mtime), date::instant(y.mtime));
    if let (Some(old), Some(new)) = (device_text(x.kind), device_text(y.kind)) {
        note(Aspect::Device, old, new);
    }
    if x.kind == Kind::Symlink && y.kind == Kind::Symlink {
        note(Aspect::Target, escaped(&left.target(x)?), escaped(&right.target(y)?));
    }
    let both_are_files = x.kind == Kind::File && y.kind == Kind::File;
    if both_are_files && !ignored.contains(&Aspect::Content) {
        if x.size != y.size {
            note(Aspect::Content, format!("{} bytes", x.size), format!("{} bytes", y.size));
        } else if let Some(at) = first_difference(left, x, right, y)? {
            note(Aspect::Content, format!("{} bytes", x.size), format!("others from byte {at} on"));
        }
    }
    if !ignored.contains(&Aspect::Xattrs) {
        let (old, new) = (left.xattrs(x)?, right.xattrs(y)?);
        let only = |ours: &[Xattr], theirs: &[Xattr]| {
            let ours = ours.iter().filter(|xattr| !theirs.contains(xattr));
            let texts: Vec<String> = ours.map(xattr_text).collect();
            if texts.is_empty() { "none".to_string() } else { texts.join(", ") }
        };
        note(Aspect::Xattrs, only(&old, &new), only(&new, &old));
    }
    Ok(details)
}

/// The first byte in which two files of one size differ.
fn first_difference(
    left: &mut Side<'_>,
    x: &Inode,
    right: &mut Side<'_>,
    y: &Inode,
) -> Result<Option<u64>> {
    let (failed_left, failed_right) = (failed(left.image), failed(right.image));
    let (mut a, mut b) = (left.content(x)?, right.content(y)?);
    let (mut piece_a, mut piece_b) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    loop {
        interrupt::check()?;
        let hole = a.hole().map_err(&failed_left)?.min(b.hole().map_err(&failed_right)?);
        a.skip_hole(hole).map_err(&failed_left)?;
        b.skip_hole(hole).map_err(&failed_right)?;
        let at = a.position();
        let count = a.fill(&mut piece_a).map_err(&failed_left)?;
        b.fill(&mut piece_b[..count]).map_err(&failed_right)?;
        if count == 0 {
            return Ok(None);
        }
        if piece_a[..count] != piece_b[..count] {
            let same = piece_a.iter().zip(&piece_b).take_while(|(a, b)| a == b).count();
            return Ok(Some(at + same as u64));
        }
    }
}

fn link_text(earlier: Option<&[u8]>) -> String {
    earlier.map_or("a file of its own".into(), |name| format!("/{}", escaped(name)))
}
