//! Laying layers under each other, the topmost first.

mod room;

use std::collections::HashMap;
use std::io::{BufRead, Seek, Write};

use ext4::{Kind, Meta, Node};

use super::Rootfs;
use super::detour::{Detours, Met, Shadows, Symlink};
use super::graft::graft;
use super::links::{Links, Target};
use super::merge::{Body, Directory, Inode, InodeId, Level, Merge, Place, ROOT, SlotId};
use super::path::{Marker, Path, Wrong, is_aufs, marker, refuse};
use crate::tar::{Entry, Kind as TarKind, Reader};
use crate::{Error, Result};

/// An image has at most this many entries, hidden ones counted.
const ENTRIES_MAX: u64 = 4_000_000;
/// An image has at most this many names, those of implied directories counted.
const SLOTS_MAX: usize = 4_000_000;

/// A file is at most this long: ext4 counts a file's 4 KiB blocks in 32 bits.
const FILE_BYTES_MAX: u64 = u32::MAX as u64 * 4096;

/// Flattens layers into the image behind a [`ext4::Writer`].
#[derive(Debug)]
pub struct Flatten<'w, W> {
    writer: &'w mut ext4::Writer<W>,
    merge: Merge,
    links: Links,
    detours: &'w Detours,
    shadows: Shadows,
    grafts: Vec<Option<Graft>>,
    /// Where in `grafts` the current layer's are.
    grafted: HashMap<Path, usize>,
    /// Names whited out by the current layer while links of higher ones wait for them.
    deleted: Vec<Path>,
    level: Level,
    /// The current layer's.
    origin: String,
    entries: u64,
    /// No time in the image is later than this.
    epoch: Option<i64>,
}

/// A directory that a symlink of a lower layer has replaced.
#[derive(Debug)]
struct Graft {
    symlink: Symlink,
    moved: SlotId,
}

impl<'w, W: Write + Seek> Flatten<'w, W> {
    /// Begins with an empty tree. Times after `epoch` seconds since 1970 become `epoch`. `detours`
    /// are none at first: see [`Flatten::take_shadows`].
    pub fn new(writer: &'w mut ext4::Writer<W>, epoch: Option<i64>, detours: &'w Detours) -> Self {
        Flatten {
            writer,
            merge: Merge::new(),
            links: Links::default(),
            detours,
            shadows: Shadows::default(),
            grafts: Vec::new(),
            grafted: HashMap::new(),
            deleted: Vec::new(),
            level: Level::MAX - 1,
            origin: String::new(),
            entries: 0,
            epoch,
        }
    }

    /// Lays a layer, called `origin` in errors, under those before. `open` gives its tar stream; it is called a second time
    /// where a hard link turned out to need a file that had passed.
    ///
    /// # Errors
    /// On an entry that is refused, by name; where the image can not be written.
    pub fn layer<R: BufRead>(
        &mut self,
        origin: &str,
        open: impl FnMut() -> Result<R>,
    ) -> Result<()> {
        self.origin = origin.to_string();
        let laid = self.lay(open);
        laid.map_err(|e| if e.to_string().contains(origin) { e } else { e.within(origin) })
    }

    fn lay<R: BufRead>(&mut self, mut open: impl FnMut() -> Result<R>) -> Result<()> {
        self.level -= 1;
        self.links.begin_layer();
        self.grafted.clear();
        let mut reader = Reader::new(open()?);
        while let Some(entry) = reader.next_entry()? {
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(Error::input(format!("it has more than {ENTRIES_MAX} entries")));
            }
            self.entry(&mut reader, entry)?;
            // A single deep path makes many directories.
            if self.merge.len() > SLOTS_MAX {
                return Err(Error::input(format!("it has more than {SLOTS_MAX} names")));
            }
        }
        self.shadows.end_layer(self.level);
        for path in std::mem::take(&mut self.deleted) {
            if let Some(link) = self.links.expire(&path) {
                return Err(Error::input(format!("{link}: its target is not in the image")));
            }
        }
        let wanted = self.links.take_wanted();
        if wanted.is_empty() { Ok(()) } else { self.second_pass(open()?, &wanted) }
    }

    /// Makes sure that the root has a directory, or whatever else the layers have there, at `name`.
    pub fn mount_point(&mut self, name: &str, mode: u16) {
        let there =
            self.merge.directory(ROOT).and_then(|d| d.children.get(name.as_bytes()).copied());
        let slot = there.unwrap_or_else(|| {
            let body = Body::Directory(Directory::default());
            self.merge.insert(ROOT, name.as_bytes(), self.level, body)
        });
        if let Some(Directory { meta: None, .. }) = self.merge.directory(slot) {
            let meta = Meta { mode, ..self.unnamed() };
            self.merge.name(slot, self.level, meta);
        }
    }

    /// The metadata of a directory that no entry names.
    fn unnamed(&self) -> Meta {
        let seconds = self.epoch.unwrap_or(0);
        Meta { mtime: ext4::Time { seconds, nanoseconds: 0 }, ..Meta::with_mode(0o755) }
    }

    /// How many entries there were so far, hidden ones counted.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// To be called when all layers are laid: moves entries to where symlinks point, and gives what
    /// there is to know of symlinks that are hidden or lead through each other. Where
    /// [`Detours::learn`] finds something in it, nothing else that came of this flattening counts,
    /// an error neither: begin anew, with those detours and another writer.
    pub fn take_shadows(&mut self) -> Shadows {
        let symlinks = self.grafts.iter().flatten().map(|graft| &graft.symlink);
        let is_entangled = self.shadows.entangle(symlinks);
        // The highest layers' first: each graft keeps the higher of two entries.
        for Graft { symlink, moved } in std::mem::take(&mut self.grafts).into_iter().flatten() {
            let lowest = self.merge.lowest(moved);
            if is_entangled || graft(&mut self.merge, &symlink, moved).is_err() {
                self.shadows.find(lowest, symlink);
            }
        }
        std::mem::take(&mut self.shadows)
    }

    /// The tree.
    ///
    /// # Errors
    /// Where a hard link's target never came, or entries below a symlink have no place.
    pub fn finish(self) -> Result<Rootfs> {
        if let Some(link) = self.links.unresolved() {
            return Err(Error::input(format!("{link}: its target is not in the image")));
        }
        let unnamed = self.unnamed();
        self.merge
            .into_tree(&unnamed)
            .ok_or_else(|| Error::bug("a hard link's target was lost on the way"))
    }

    fn entry<R: BufRead>(&mut self, reader: &mut Reader<R>, entry: Entry) -> Result<()> {
        let path = self.path(&entry.path).map_err(|why| refuse(&entry, why))?;
        let Some((parents, name)) = path.split() else {
            return match entry.kind {
                TarKind::Directory => self.directory(&path, &entry),
                _ => Err(refuse(&entry, "the root can only be a directory")),
            };
        };
        if is_aufs(parents).map_err(|why| refuse(&entry, why))? {
            // Nobody sees what aufs kept for itself, but hard links into it mean its files.
            if !matches!(entry.kind, TarKind::HardLink(_) | TarKind::Directory) {
                self.links.pass_content(path);
            }
            return Ok(());
        }
        if let Some(marker) = marker(name) {
            let marker = marker.map_err(|why| refuse(&entry, why))?;
            return self.mark(&path, &entry, &marker);
        }
        if self.shadows.looks_for(&path) {
            let met = match (&entry.kind, self.symlink(&path, &entry)) {
                (_, Some(symlink)) => Met::Symlink(symlink),
                (TarKind::Directory, None) => Met::Directory,
                (_, None) => Met::Other,
            };
            self.shadows.meet(path.clone(), met);
        }
        match &entry.kind {
            TarKind::Directory => self.directory(&path, &entry),
            TarKind::HardLink(target) => {
                let target = self.path(target).map_err(|why| {
                    refuse(&entry, format_args!("as a hard link's target, {why}"))
                })?;
                self.hard_link(path, &entry, target)
            }
            _ => self.leaf(path, reader, &entry),
        }
    }

    /// A path of the current layer: where it means the entry to be.
    fn path(&self, path: &[u8]) -> std::result::Result<Path, Wrong> {
        self.detours.follow(self.level, Path::parse(path)?)
    }

    fn mark(&mut self, path: &Path, entry: &Entry, marker: &Marker<'_>) -> Result<()> {
        let level = self.level;
        let Some((parents, name)) = path.split() else { return Ok(()) };
        match marker {
            Marker::Opaque => self.shadows.make_opaque(Path::of(parents)),
            Marker::Whiteout(name) => self.shadows.white_out(Path::join(parents, name)),
            Marker::Ignored => {}
        }
        let parent = match self.merge.place(level, parents, name, true) {
            Place::At { parent, .. } => parent,
            Place::Hidden { parents: hidden } => {
                self.hide(parents, hidden);
                return Ok(());
            }
            Place::Through => return Err(through(entry)),
        };
        let Some(directory) = self.merge.directory(parent) else { return Ok(()) };
        match marker {
            // The highest layer's marker hides most; it came first.
            Marker::Opaque => directory.opaque = directory.opaque.max(level),
            Marker::Whiteout(name) => {
                directory.hidden.entry(Box::from(*name)).or_insert(level);
                let target = Path::join(parents, name);
                if self.links.awaited(&target).is_some() {
                    self.deleted.push(target);
                }
            }
            Marker::Ignored => {}
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path, entry: &Entry) -> Result<()> {
        let level = self.level;
        let slot = match path.split() {
            None => ROOT,
            Some((parents, name)) => match self.merge.place(level, parents, name, false) {
                Place::Hidden { parents: hidden } => {
                    self.shadows.name(path);
                    self.hide(parents, hidden);
                    return Ok(());
                }
                Place::Through => return Err(through(entry)),
                Place::At { parent, there } => {
                    let kept = there.filter(|&slot| {
                        let slot = self.merge.slot(slot);
                        matches!(slot.body, Body::Directory(_)) || slot.level > level
                    });
                    match kept {
                        Some(kept) => kept,
                        None => {
                            if there.is_some() {
                                self.merge.hide(parent, name, level);
                            }
                            let body = Body::Directory(Directory::default());
                            self.merge.insert(parent, name, level, body)
                        }
                    }
                }
            },
        };
        let meta = self.meta(entry);
        ext4::check(&meta, &Kind::directory()).map_err(|why| refuse(entry, why))?;
        // Something else of a higher layer hides it; so does a directory named by one.
        let Some(directory) = self.merge.directory(slot) else {
            self.shadows.name(path);
            return Ok(());
        };
        directory.named = level;
        if directory.meta.as_ref().is_none_or(|(named, _)| *named == level) {
            self.merge.name(slot, level, meta);
        }
        Ok(())
    }

    /// Everything that is neither a directory nor a hard link.
    fn leaf<R: BufRead>(
        &mut self,
        path: Path,
        reader: &mut Reader<R>,
        entry: &Entry,
    ) -> Result<()> {
        let Some(parent) = self.room(&path, entry)? else {
            match self.links.arrive(&path) {
                Some(inode) => {
                    let node = self.node(reader, entry)?;
                    self.merge.set_inode(inode, Inode::Known(node));
                    self.links.pass_inode(path, inode);
                }
                None => self.links.pass_content(path),
            }
            return Ok(());
        };
        let node = self.node(reader, entry)?;
        let inode = self.merge.add_inode(Inode::Known(node));
        self.put(&path, parent, inode, entry)
    }

    fn hard_link(&mut self, path: Path, entry: &Entry, target: Path) -> Result<()> {
        if path == target {
            return Err(refuse(entry, "a hard link to itself"));
        }
        if target.split().is_none() {
            return Err(refuse(entry, "a hard link to a directory"));
        }
        match self.room(&path, entry)? {
            Some(parent) => {
                let inode = self.linked(target, entry)?;
                self.put(&path, parent, inode, entry)?;
            }
            None => match self.links.arrive(&path) {
                // A higher layer links to this link: so it waits for what this one is.
                Some(waiting) => {
                    let inode = self.linked(target, entry)?;
                    self.merge.join(waiting, inode).map_err(|why| refuse(entry, why))?;
                    self.links.pass_inode(path, inode);
                }
                None => self.links.pass_link(path, target),
            },
        }
        Ok(())
    }

    /// The inode at a link's target, as this layer knows it; perhaps one that is still awaited.
    fn linked(&mut self, target: Path, entry: &Entry) -> Result<InodeId> {
        let target = match self.links.target(target) {
            Target::Wanted(_, Some(inode)) => return Ok(inode),
            Target::Wanted(path, None) => {
                let inode = self.merge.add_inode(Inode::Awaited);
                self.links.want(path, inode);
                return Ok(inode);
            }
            Target::Path(path) => path,
        };
        if let Some(slot) = self.merge.find(&target) {
            let slot = self.merge.slot(slot);
            match slot.body {
                Body::Inode(inode) if slot.level == self.level => return Ok(inode),
                Body::Directory(_) if slot.level == self.level => {
                    return Err(refuse(entry, "a hard link to a directory"));
                }
                _ => {}
            }
        }
        if let Some(inode) = self.links.awaited(&target) {
            return Ok(inode);
        }
        let inode = self.merge.add_inode(Inode::Awaited);
        let name = String::from_utf8_lossy(&entry.path);
        let link = format!("{}: hard link {name:?}", self.origin);
        self.links.wait(target, inode, &link);
        Ok(inode)
    }

    /// Gives `inode` its name, and to those links that wait for this name the inode.
    fn put(&mut self, path: &Path, parent: SlotId, inode: InodeId, entry: &Entry) -> Result<()> {
        let Some((_, name)) = path.split() else { return Ok(()) };
        self.merge.insert(parent, name, self.level, Body::Inode(inode));
        self.links.show(path);
        match self.links.arrive(path) {
            Some(waiting) => self.merge.join(waiting, inode).map_err(|why| refuse(entry, why)),
            None => Ok(()),
        }
    }

    /// Reads a layer again for the files that links wanted after they had passed.
    fn second_pass<R: BufRead>(&mut self, input: R, wanted: &HashMap<Path, InodeId>) -> Result<()> {
        let mut reader = Reader::new(input);
        while let Some(entry) = reader.next_entry()? {
            let path = self.path(&entry.path).map_err(|why| refuse(&entry, why))?;
            let is_content = !matches!(entry.kind, TarKind::Directory | TarKind::HardLink(_));
            if let Some(&inode) = wanted.get(&path)
                && is_content
            {
                let node = self.node(&mut reader, &entry)?;
                self.merge.set_inode(inode, Inode::Known(node));
            }
        }
        Ok(())
    }

    /// The entry as an inode, its content written to the image.
    fn node<R: BufRead>(&mut self, reader: &mut Reader<R>, entry: &Entry) -> Result<Node> {
        let kind = match &entry.kind {
            TarKind::File { size } if *size > FILE_BYTES_MAX => {
                return Err(refuse(entry, "it is longer than 16 TiB, which ext4 can not hold"));
            }
            TarKind::File { size } => {
                let mut file = self.writer.file();
                let mut left = *size;
                while left > 0 {
                    let hole = reader.hole();
                    if hole > 0 {
                        file.hole(hole).map_err(image_error)?;
                        left -= hole;
                        continue;
                    }
                    let mut piece = reader.content()?;
                    let bytes = piece.bytes();
                    left -= bytes.len() as u64;
                    file.append(bytes).map_err(image_error)?;
                }
                Kind::File(file.finish().map_err(image_error)?)
            }
            TarKind::Symlink(target) => Kind::Symlink(target.as_slice().into()),
            &TarKind::CharDevice(major, minor) => Kind::CharDevice { major, minor },
            &TarKind::BlockDevice(major, minor) => Kind::BlockDevice { major, minor },
            TarKind::Fifo => Kind::Fifo,
            TarKind::Directory | TarKind::HardLink(_) => {
                return Err(Error::bug("a directory or a link has no content"));
            }
        };
        let meta = self.meta(entry);
        ext4::check(&meta, &kind).map_err(|why| refuse(entry, why))?;
        Ok(Node { meta, kind })
    }

    fn meta(&self, entry: &Entry) -> Meta {
        let mut mtime = entry.mtime;
        if let Some(epoch) = self.epoch
            && mtime.seconds >= epoch
        {
            mtime = ext4::Time { seconds: epoch, nanoseconds: 0 };
        }
        Meta {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime,
            xattrs: entry.xattrs.clone(),
        }
    }
}

fn through(entry: &Entry) -> Error {
    refuse(entry, "it lies below a symlink or file of the same layer")
}

/// An error of the image's writer as one of ours.
pub(crate) fn image_error(error: ext4::Error) -> Error {
    match error {
        ext4::Error::Io(e) => Error::io("write the image", e),
        ext4::Error::TooSmall { .. } => {
            Error::input(error.to_string()).hint("raise `size` in the recipe, or leave it out")
        }
        error => Error::input(error.to_string()),
    }
}
