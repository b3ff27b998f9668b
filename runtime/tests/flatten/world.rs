//! Layers made by the `tar` crate, images mounted by the kernel, and the judge.

use std::path::{Path, PathBuf};
use std::process::Command;

use bundle::{Arch, Digest, Init};
use imgrun::Progress;
use imgrun::image::{Image, Layout};
use imgrun::inject::{AGENT_PATH, Agent};
use imgrun::layer::Layer;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// Layers in files, the bottom one first.
pub(crate) struct Layers {
    pub(crate) directory: TempDir,
    pub(crate) files: Vec<PathBuf>,
}

impl Layers {
    pub(crate) fn new() -> Self {
        Layers { directory: TempDir::new().unwrap(), files: Vec::new() }
    }

    /// Adds a layer above the others.
    pub(crate) fn layer(mut self, make: impl FnOnce(&mut Tar)) -> Self {
        let mut tar = Tar(Builder::new(Vec::new()));
        make(&mut tar);
        let path = self.directory.path().join(format!("layer-{}.tar", self.files.len()));
        std::fs::write(&path, tar.0.into_inner().unwrap()).unwrap();
        self.files.push(path);
        self
    }

    /// Adds a layer of the files in `source`, packed by GNU tar.
    pub(crate) fn gnu_tar(mut self, source: &Path, options: &[&str]) -> Self {
        let path = self.directory.path().join(format!("layer-{}.tar", self.files.len()));
        let mut tar = Command::new("tar");
        let status =
            tar.arg("-C").arg(source).arg("-cf").arg(&path).args(options).arg(".").status();
        assert!(status.unwrap().success());
        self.files.push(path);
        self
    }

    pub(crate) fn layout(&self) -> Layout {
        let agent = Agent::embedded(Arch::host()).unwrap();
        let layer = |path: &PathBuf| {
            let bytes = std::fs::read(path).unwrap();
            Layer {
                origin: path.file_name().unwrap().to_string_lossy().into_owned(),
                file: path.clone(),
                offset: 0,
                bytes: bytes.len() as u64,
                digest: Digest::of(&bytes),
                content: None,
            }
        };
        Layout {
            layers: self.files.iter().map(layer).collect(),
            above: agent.layer(Init::Agent, 0).unwrap(),
            ..Layout::default()
        }
    }

    pub(crate) fn flatten(&self) -> imgrun::Result<Image> {
        Image::flatten(&self.layout(), self.directory.path(), &Progress::silent())
    }

    /// Flattens, and fails on any difference that the judge sees.
    #[track_caller]
    pub(crate) fn judge(&self) {
        let image = self.flatten().unwrap();
        let fsck = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(image.path()).output().unwrap();
        assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
        let mounted = Mounted::new(image.path());
        let judge = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/judge/tree.py");
        let mut command = Command::new("python3");
        command.arg(judge).arg(&mounted.0).args(&self.files);
        for added in ["usr", "usr/lib", "usr/lib/imgtool"] {
            command.args(["--ignore", added]);
        }
        let output = command.args(["--ignore", AGENT_PATH]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let more = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}{more}");
    }

    /// Fails unless the layers are refused with `words`, and nothing is left behind.
    #[track_caller]
    pub(crate) fn refused(&self, words: &str) {
        let error = self.flatten().expect_err(words);
        assert_eq!(error.class(), imgrun::Class::Input, "{error}");
        let text = error.to_string();
        assert!(text.contains(words) && text.starts_with("layer-"), "no {words:?} in {text:?}");
        let left = std::fs::read_dir(self.directory.path()).unwrap().count();
        assert_eq!(left, self.files.len());
    }
}

/// An image that the kernel has mounted, until it is dropped.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn new(image: &Path) -> Self {
        let point = image.with_extension("mounted");
        std::fs::create_dir(&point).unwrap();
        let output = Command::new("mount").args(["-o", "ro,loop"]).arg(image).arg(&point).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mounting needs root and a loop device: {text}");
        Mounted(point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Writes tars by the `tar` crate, whose code we do not use to read them.
pub(crate) struct Tar(Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn header(kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_700_000_000);
        header
    }

    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        let mut header = Self::header(EntryType::Regular, 0o4644, content.len() as u64);
        self.0.append_data(&mut header, path, content).unwrap();
    }

    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        let mut header = Self::header(EntryType::Directory, mode, 0);
        self.0.append_data(&mut header, path, &[][..]).unwrap();
    }

    pub(crate) fn link(&mut self, kind: EntryType, path: &str, target: &str) {
        self.0.append_link(&mut Self::header(kind, 0o777, 0), path, target).unwrap();
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.link(EntryType::Symlink, path, target);
    }

    pub(crate) fn hard_link(&mut self, path: &str, target: &str) {
        self.link(EntryType::Link, path, target);
    }

    pub(crate) fn device(&mut self, kind: EntryType, path: &str, major: u32, minor: u32) {
        let mut header = Self::header(kind, 0o660, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.0.append_data(&mut header, path, &[][..]).unwrap();
    }

    /// An entry whose raw name is not checked by anyone.
    pub(crate) fn raw(&mut self, kind: EntryType, path: &[u8], link: &[u8], content: &[u8]) {
        let mut header = Self::header(kind, 0o644, content.len() as u64);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..path.len()].copy_from_slice(path);
        gnu.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
    }

    pub(crate) fn pax(&mut self, records: &[(&str, &[u8])]) {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
    }
}
