//! File steps: edits of the image so far.

use bundle::Digest;

use crate::recipe::{Action, Content, Put};
use crate::{Error, Result};

use super::account;
use super::firstboot;
use super::host::{HostKind, HostTree};
use super::unit;
use super::view::{Body, Bytes, Node, Place, View, shown};

impl View {
    /// Does what `action` says, which is none that runs programs. `copied` has the digest of what
    /// each `copy` is to find, as the step's key has it.
    ///
    /// # Errors
    /// Where the image so far has not what the step needs, or has something in its way.
    pub(super) fn apply(
        &mut self,
        action: &Action,
        copied: &mut std::slice::Iter<'_, Digest>,
    ) -> Result<()> {
        match action {
            Action::Run(_) | Action::Packages(_) => Err(Error::bug("a command among file steps")),
            Action::Copy { from, to, put } => {
                let tree = HostTree::read(from)?;
                // Its layer is kept under a key that says what was there when the build began.
                if copied.next() != Some(&tree.digest()) {
                    let why = "it changed while the image was built";
                    return Err(Error::input(format!("{}: {why}", from.display())));
                }
                self.copy(&tree, from.file_name(), to, put)
            }
            Action::Write { path, content, put } => {
                let place = self.place(path, false)?;
                let bytes = content.text.clone().into_bytes();
                self.put_file(place, Bytes::Given(bytes), 0o644, put)
            }
            Action::Append { path, content } => self.append(path, content),
            Action::Mkdir { path, put } => self.mkdir(path, put),
            Action::Symlink { path, target } => self.symlink(path, target),
            Action::Remove { paths } => paths.iter().try_for_each(|path| self.remove_all(path)),
            Action::Truncate { paths } => paths.iter().try_for_each(|path| self.truncate(path)),
            Action::Set { paths, put } => paths.iter().try_for_each(|path| self.set(path, put)),
            Action::User(account) => account::add(self, account),
            Action::Service { unit, state } => unit::set(self, unit, *state),
            Action::FirstBoot { packages } => firstboot::set(self, packages),
        }
    }

    fn copy(
        &mut self,
        tree: &HostTree,
        name: Option<&std::ffi::OsStr>,
        to: &str,
        put: &Put,
    ) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let mut target = to.trim_end_matches('/').as_bytes().to_vec();
        if to.ends_with('/') {
            let name = name.ok_or_else(|| Error::input(format!("copy to {to}: of what name?")))?;
            target = [&target, &b"/"[..], name.as_bytes()].concat();
        }
        for entry in &tree.entries {
            let slash: &[u8] = if entry.path.is_empty() { b"" } else { b"/" };
            let path = [&target, slash, &entry.path].concat();
            match &entry.kind {
                HostKind::Directory => self.mkdir_of(&path, put.owner_only())?,
                HostKind::Symlink(target) => {
                    let place = self.place_of(&path, false)?;
                    self.not_directory(&place)?;
                    let meta = self.owned(self.meta(0o777), put)?;
                    let body = Body::Symlink(target.clone());
                    self.put(&place.path, Node { meta, body })?;
                }
                HostKind::File { file, size, digest, executable } => {
                    let place = self.place_of(&path, false)?;
                    let mode = if *executable { 0o755 } else { 0o644 };
                    let bytes = Bytes::Host { file: file.clone(), size: *size, digest: *digest };
                    self.put_file(place, bytes, mode, put)?;
                }
            }
        }
        Ok(())
    }

    /// A file at a place, in place of a file or link.
    pub(super) fn put_file(
        &mut self,
        place: Place,
        bytes: Bytes,
        mode: u16,
        put: &Put,
    ) -> Result<()> {
        self.not_directory(&place)?;
        let meta = self.owned(self.meta(mode), put)?;
        self.put(&place.path, Node { meta, body: Body::File(bytes) })
    }

    fn not_directory(&self, place: &Place) -> Result<()> {
        match &place.node {
            Some(Node { body: Body::Directory, .. }) => {
                Err(Error::input(format!("{}: a directory is there", shown(&place.path)))
                    .hint("a / at the end of `to` copies into it; `remove` takes it away"))
            }
            _ => Ok(()),
        }
    }

    fn append(&mut self, path: &str, content: &Content) -> Result<()> {
        let place = self.place(path, true)?;
        let Some(node) = place.node else {
            let bytes = Bytes::Given(content.text.clone().into_bytes());
            return self.put_file(place, bytes, 0o644, &Put::default());
        };
        let Body::File(bytes) = node.body else { return Err(no_file(path)) };
        let mut text = self.content(path, &bytes)?;
        text.extend_from_slice(content.text.as_bytes());
        self.replace(&place.path, node.meta, text)
    }

    /// New content under old metadata.
    pub(super) fn replace(&mut self, path: &[u8], meta: ext4::Meta, text: Vec<u8>) -> Result<()> {
        let meta = ext4::Meta { mtime: self.now(), ..meta };
        self.put(path, Node { meta, body: Body::File(Bytes::Given(text)) })
    }

    fn mkdir(&mut self, path: &str, put: &Put) -> Result<()> {
        self.mkdir_of(path.as_bytes(), put.clone())
    }

    pub(super) fn mkdir_of(&mut self, path: &[u8], put: Put) -> Result<()> {
        let place = self.place_of(path, true)?;
        let meta = match place.node {
            None => self.meta(0o755),
            Some(Node { body: Body::Directory, .. }) if put == Put::default() => return Ok(()),
            Some(Node { body: Body::Directory, meta }) => meta,
            Some(_) => {
                let why = format!("{}: something that is no directory is there", shown(path));
                return Err(Error::input(why));
            }
        };
        let meta = self.owned(meta, &put)?;
        self.put(&place.path, Node { meta, body: Body::Directory })
    }

    pub(super) fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        let place = self.place(path, false)?;
        self.not_directory(&place)?;
        let meta = self.meta(0o777);
        self.put(&place.path, Node { meta, body: Body::Symlink(target.as_bytes().to_vec()) })
    }

    fn remove_all(&mut self, path: &str) -> Result<()> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if parent.contains('*') {
            let why = format!("{path}: `*` may only stand in the last name");
            return Err(Error::input(why));
        }
        if !name.contains('*') {
            let place = self.place(path, false)?;
            return match place.node {
                Some(_) => self.remove(&place.path),
                None => Err(missing(path)),
            };
        }
        // What a pattern names may be nothing at all.
        let parent = self.place(parent, true)?;
        for child in self.children(&parent.path)? {
            if matches(name.as_bytes(), &child) {
                let slash: &[u8] = if parent.path.is_empty() { b"" } else { b"/" };
                self.remove(&[&parent.path, slash, &child].concat())?;
            }
        }
        Ok(())
    }

    fn truncate(&mut self, path: &str) -> Result<()> {
        let place = self.place(path, true)?;
        match place.node {
            Some(Node { meta, body: Body::File(_) }) => self.replace(&place.path, meta, Vec::new()),
            Some(_) => Err(no_file(path)),
            None => Err(missing(path)),
        }
    }

    fn set(&mut self, path: &str, put: &Put) -> Result<()> {
        let place = self.place(path, true)?;
        let Some(Node { meta, body }) = place.node else { return Err(missing(path)) };
        let meta = self.owned(meta, put)?;
        self.put(&place.path, Node { meta, body })
    }

    /// `meta` with what `put` says.
    pub(super) fn owned(&mut self, mut meta: ext4::Meta, put: &Put) -> Result<ext4::Meta> {
        if let Some(mode) = put.mode {
            meta.mode = mode;
        }
        if let Some(owner) = &put.owner {
            (meta.uid, meta.gid) = account::ids(self, owner)?;
        }
        Ok(meta)
    }
}

impl Put {
    /// Directories of a copied tree have the tree's owner, but not its files' mode.
    fn owner_only(&self) -> Put {
        Put { mode: None, owner: self.owner.clone() }
    }
}

fn missing(path: &str) -> Error {
    Error::input(format!("{path}: it is not in the image"))
}

fn no_file(path: &str) -> Error {
    Error::input(format!("{path}: it is no file"))
}

/// Whether `name` is as `pattern` says, where `*` stands for any bytes.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'*', rest @ ..] => (0..=name.len()).any(|at| matches(rest, &name[at..])),
        [first, rest @ ..] => name.first() == Some(first) && matches(rest, &name[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_stand_for_any_letters() {
        assert!(matches(b"ssh_host_*", b"ssh_host_rsa_key.pub"));
        assert!(matches(b"*", b"") && matches(b"a*b*c", b"a--b--c") && matches(b"a", b"a"));
        assert!(!matches(b"a*b", b"a-c") && !matches(b"a", b"ab"));
    }
}
