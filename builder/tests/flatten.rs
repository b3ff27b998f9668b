//! Images judged from the outside: `e2fsck -fn`, then the kernel mounts them and a program that
//! shares no code with ours compares every inode with the layers.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bundle::{Arch, Digest, Init};
use imgrun::Progress;
use imgtool::image::{Image, Layout};
use imgtool::inject::{AGENT_PATH, Agent};
use imgtool::source::Layer;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// Layers in files, the bottom one first.
struct Layers {
    directory: TempDir,
    files: Vec<PathBuf>,
}

impl Layers {
    fn new() -> Self {
        Layers { directory: TempDir::new().unwrap(), files: Vec::new() }
    }

    /// Adds a layer above the others.
    fn layer(mut self, make: impl FnOnce(&mut Tar)) -> Self {
        let mut tar = Tar(Builder::new(Vec::new()));
        make(&mut tar);
        let path = self.directory.path().join(format!("layer-{}.tar", self.files.len()));
        std::fs::write(&path, tar.0.into_inner().unwrap()).unwrap();
        self.files.push(path);
        self
    }

    /// Adds a layer of the files in `source`, packed by GNU tar.
    fn gnu_tar(mut self, source: &Path, options: &[&str]) -> Self {
        let path = self.directory.path().join(format!("layer-{}.tar", self.files.len()));
        let mut tar = Command::new("tar");
        let status =
            tar.arg("-C").arg(source).arg("-cf").arg(&path).args(options).arg(".").status();
        assert!(status.unwrap().success());
        self.files.push(path);
        self
    }

    fn layout(&self) -> Layout {
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

    fn flatten(&self) -> imgrun::Result<Image> {
        Image::flatten(&self.layout(), self.directory.path(), &Progress::silent())
    }

    /// Flattens, and fails on any difference that the judge sees.
    #[track_caller]
    fn judge(&self) {
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
    fn refused(&self, words: &str) {
        let error = self.flatten().expect_err(words);
        assert_eq!(error.class(), imgrun::Class::Input, "{error}");
        let text = error.to_string();
        assert!(text.contains(words) && text.starts_with("layer-"), "no {words:?} in {text:?}");
        let left = std::fs::read_dir(self.directory.path()).unwrap().count();
        assert_eq!(left, self.files.len());
    }
}

/// An image that the kernel has mounted, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path) -> Self {
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
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn header(kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_700_000_000);
        header
    }

    fn file(&mut self, path: &str, content: &[u8]) {
        let mut header = Self::header(EntryType::Regular, 0o4644, content.len() as u64);
        self.0.append_data(&mut header, path, content).unwrap();
    }

    fn directory(&mut self, path: &str, mode: u32) {
        let mut header = Self::header(EntryType::Directory, mode, 0);
        self.0.append_data(&mut header, path, &[][..]).unwrap();
    }

    fn link(&mut self, kind: EntryType, path: &str, target: &str) {
        self.0.append_link(&mut Self::header(kind, 0o777, 0), path, target).unwrap();
    }

    fn symlink(&mut self, path: &str, target: &str) {
        self.link(EntryType::Symlink, path, target);
    }

    fn hard_link(&mut self, path: &str, target: &str) {
        self.link(EntryType::Link, path, target);
    }

    fn device(&mut self, kind: EntryType, path: &str, major: u32, minor: u32) {
        let mut header = Self::header(kind, 0o660, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.0.append_data(&mut header, path, &[][..]).unwrap();
    }

    /// An entry whose raw name is not checked by anyone.
    fn raw(&mut self, kind: EntryType, path: &[u8], link: &[u8], content: &[u8]) {
        let mut header = Self::header(kind, 0o644, content.len() as u64);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..path.len()].copy_from_slice(path);
        gnu.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
    }

    fn pax(&mut self, records: &[(&str, &[u8])]) {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
    }
}

#[test]
fn one_layer_of_everything() {
    Layers::new()
        .layer(|tar| {
            tar.directory("./", 0o711);
            tar.directory("./d/", 0o3755);
            tar.file("./d/file", b"content");
            tar.file("d//empty", b"");
            tar.file("big", &b"0123456789abcdef".repeat(100_000));
            tar.symlink("fast", "d/file");
            tar.symlink("slow", &"x/".repeat(200));
            tar.hard_link("again", "./d/file");
            tar.hard_link("link to a link", "fast");
            tar.device(EntryType::Char, "null", 1, 3);
            tar.device(EntryType::Block, "disk", 300, 70_000);
            tar.device(EntryType::Fifo, "fifo", 0, 0);
            tar.file(&"long name ".repeat(25), b"GNU long name");
            tar.file("nobody/named/this/directory", b"x");
            tar.raw(EntryType::Regular, b"\xff\n\"\\ name", b"", b"bytes");
            tar.pax(&[
                ("mtime", b"-1.25"),
                ("uid", b"100000"),
                ("SCHILY.xattr.user.a", b"\x00\xff"),
                (
                    "SCHILY.xattr.security.capability",
                    &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                ),
            ]);
            tar.file("pax", b"p");
            tar.directory("d", 0o2700);
        })
        .judge();
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    Layers::new()
        .layer(|tar| {
            tar.directory("a", 0o700);
            for name in ["a/gone", "a/kept", "a/again", "b/1", "b/2", "c/x/1", "c/x/2", "e/f/g"] {
                tar.file(name, name.as_bytes());
            }
        })
        .layer(|tar| {
            tar.file("a/again", b"new, before its whiteout");
            tar.file("a/.wh.again", b"");
            tar.file("a/.wh.gone", b"");
            tar.file("a/.wh.never there", b"");
            tar.file("b/before", b"of the marker");
            tar.file("b/.wh..wh..opq", b"");
            tar.file("b/after", b"the marker");
            tar.file("c/.wh.x", b"");
            tar.file("nowhere/.wh.x", b"");
            tar.file(".wh..wh.plnk", b"");
        })
        .layer(|tar| {
            tar.file("c/x/3", b"in a directory that is new again");
            tar.file("e/.wh.f", b"");
            tar.file("e/f", b"a file where a directory was");
        })
        .judge();
}

#[test]
fn types_change_between_layers() {
    Layers::new()
        .layer(|tar| {
            tar.file("file to directory", b"1");
            tar.file("directory to file/below", b"2");
            tar.symlink("symlink to directory", "nowhere");
            tar.file("twice", b"first, longer");
            tar.file("twice", b"last wins");
            tar.directory("mode", 0o700);
            tar.file("mode/x", b"x");
        })
        .layer(|tar| {
            tar.directory("file to directory", 0o750);
            tar.file("file to directory/x", b"x");
            tar.file("directory to file", b"now a file");
            tar.directory("symlink to directory", 0o711);
            tar.file("symlink to directory/y", b"y");
            tar.directory("mode", 0o1777);
        })
        .judge();
}

#[test]
fn hard_links_across_layers() {
    Layers::new()
        .layer(|tar| {
            tar.file("one", b"old one");
            tar.hard_link("two", "one");
            tar.hard_link("three", "two");
            tar.file("low", b"linked from above");
            tar.hard_link("early", "late");
            tar.file("late", b"came after its link");
            tar.file("five", b"old five");
        })
        .layer(|tar| {
            // The content that `two` and `three` still name is below.
            tar.file("one", b"new one");
            tar.hard_link("above", "low");
            tar.hard_link("of five", "five");
        })
        .layer(|tar| tar.file("five", b"new five"))
        .judge();
}

#[test]
fn entries_below_a_symlink_of_a_lower_layer_go_where_it_points() {
    Layers::new()
        .layer(|tar| {
            tar.directory("usr", 0o755);
            tar.directory("usr/lib", 0o755);
            tar.file("usr/lib/old", b"old");
            tar.file("usr/lib/both", b"old");
            tar.file("usr/lib/hidden", b"old");
            tar.symlink("lib", "usr/lib");
            tar.symlink("abs", "/usr/lib/../lib");
        })
        .layer(|tar| {
            tar.file("lib/new", b"new");
            tar.file("lib/both", b"new");
            tar.file("lib/.wh.hidden", b"");
            tar.file("abs/deep/er", b"new");
        })
        .judge();
}

#[test]
fn what_would_lead_outside_is_refused() {
    let one = |make: fn(&mut Tar)| Layers::new().layer(make);
    one(|t| t.raw(EntryType::Regular, b"../x", b"", b"")).refused("leads out of the tree");
    one(|t| t.raw(EntryType::Regular, b"a/../../x", b"", b"")).refused("leads out of the tree");
    one(|t| t.raw(EntryType::Regular, b"/etc/x", b"", b"")).refused("absolute");
    one(|t| t.raw(EntryType::Link, b"l", b"../etc/shadow", b"")).refused("leads out of the tree");
    one(|t| t.raw(EntryType::Link, b"l", b"/etc/shadow", b"")).refused("absolute");
    one(|t| t.hard_link("l", "nothing")).refused("its target is not in the image");
    one(|t| t.hard_link("l", "l")).refused("to itself");
    one(|t| {
        t.directory("d", 0o755);
        t.hard_link("l", "d");
    })
    .refused("to a directory");
    one(|t| {
        t.symlink("l", "/etc");
        t.file("l/passwd", b"root::0:0::/:");
    })
    .refused("below a symlink");
    one(|t| {
        t.file("f", b"");
        t.file("f/x", b"");
    })
    .refused("below a symlink or file");
    one(|t| t.raw(EntryType::Symlink, b"s", b"", b"")).refused("without a target");
    one(|t| t.raw(EntryType::Directory, b"d", b"", b"hidden entry")).refused("a size on");
    one(|t| t.raw(EntryType::new(b'V'), b"v", b"", b"")).refused("readers disagree");
    one(|t| t.pax(&[("path", b"a")])).refused("ends after a header");
}

#[test]
fn damaged_layers_are_refused() {
    let whole = || Layers::new().layer(|tar| tar.file("f", &[7; 5000]));
    let layers = whole();
    let bytes = std::fs::read(&layers.files[0]).unwrap();
    for cut in [100, 600, 3000, 5500] {
        std::fs::write(&layers.files[0], &bytes[..cut]).unwrap();
        layers.refused(if cut < 512 { "neither a tar" } else { "cut" });
    }
    let mut late = bytes.clone();
    late.splice(5632 + 512..5632 + 512, bytes[..512].iter().copied());
    std::fs::write(&layers.files[0], &late).unwrap();
    layers.refused("bytes follow the end");
    let mut sum = bytes.clone();
    sum[0] ^= 1;
    std::fs::write(&layers.files[0], &sum).unwrap();
    layers.refused("neither a tar");

    // The digest is the plan's: another file in its place is not what was asked for.
    let layout = whole().layout();
    let other = Layers::new().layer(|tar| tar.file("g", &[7; 5000]));
    let mut swapped = layout.clone();
    swapped.layers[0].file = other.files[0].clone();
    let error = Image::flatten(&swapped, other.directory.path(), &Progress::silent()).unwrap_err();
    assert_eq!(error.class(), imgrun::Class::Trust, "{error}");
}

#[test]
fn the_same_layers_give_the_same_image() {
    let make = || {
        Layers::new()
            .layer(|tar| {
                (0..500).for_each(|i| tar.file(&format!("d{}/f{i}", i % 7), &[i as u8; 9000]))
            })
            .layer(|tar| {
                (0..500).step_by(3).for_each(|i| tar.file(&format!("d{}/f{i}", i % 7), b"x"))
            })
    };
    let digest =
        |layers: &Layers| Digest::of(std::fs::read(layers.flatten().unwrap().path()).unwrap());
    assert_eq!(digest(&make()), digest(&make()));
}

#[test]
fn sparse_files_of_every_form() {
    const BLOCK: u64 = 4096;
    let source = TempDir::new().unwrap();
    let sparse = |name: &str, size: u64, data: &[u64]| {
        let file = File::create(source.path().join(name)).unwrap();
        file.set_len(size).unwrap();
        for block in data {
            file.write_all_at(&[*block as u8 | 1; BLOCK as usize], block * BLOCK).unwrap();
        }
    };
    sparse("a TiB", 1 << 40, &[0, 1 << 20, (1 << 28) - 1]);
    sparse("begins with a hole", 9 * BLOCK, &[7, 8]);
    sparse("ends with a hole", 9 * BLOCK + 5, &[0, 1]);
    sparse("nothing but a hole", 1 << 30, &[]);
    sparse("more than the header holds", 100 * BLOCK, &[0, 10, 20, 30, 40, 50]);
    let many: Vec<u64> = (0..300).map(|i| i * 16).collect();
    sparse("many extension blocks", 4801 * BLOCK, &many);
    sparse(&"a long name ".repeat(15), 50 * BLOCK, &[40]);
    std::fs::write(source.path().join("plain"), "plain").unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        Layers::new().gnu_tar(source.path(), &[format, &["--sparse"]].concat()).judge();
    }
    // Python takes the stand-in's name for a long name in form 0.1; so that is refused.
    let form = ["--format=posix", "--sparse-version=0.1", "--sparse"];
    Layers::new().gnu_tar(source.path(), &form).refused("a pax name and a GNU name");
    std::fs::remove_file(source.path().join("a long name ".repeat(15))).unwrap();
    Layers::new().gnu_tar(source.path(), &form).judge();
}
