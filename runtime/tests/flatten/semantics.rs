//! What layers mean, and that the image says the same.

use bundle::Digest;
use imgrun::Progress;
use imgrun::image::{Image, Layout};
use imgrun::inject::MOUNT_POINTS;
use tar::EntryType;

use crate::world::{Layers, Mounted};

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
fn a_file_between_directories_hides_what_lies_below_it() {
    for with_symlink in [false, true] {
        Layers::new()
            .layer(|tar| {
                tar.directory("a", 0o700);
                tar.file("a/y", b"y");
                tar.file("b/y", b"y");
                tar.file("c/y", b"y");
            })
            .layer(|tar| {
                if with_symlink {
                    tar.symlink("a", "b")
                } else {
                    tar.file("a", b"a file")
                }
                tar.file("b", b"a file, and then a directory again");
                tar.directory("b", 0o711);
                tar.file("c", b"a file that nothing names any more");
            })
            .layer(|tar| {
                tar.directory("a", 0o755);
                tar.file("a/x", b"x");
                tar.directory("c", 0o755);
            })
            .judge();
    }
}

#[test]
fn hard_links_to_what_arrived_hidden() {
    Layers::new()
        .layer(|tar| tar.file("f", b"oldest"))
        .layer(|tar| {
            tar.file("f", b"right");
            tar.hard_link("z", "f");
            tar.hard_link("l", "z");
        })
        .layer(|tar| tar.hard_link("y", "f"))
        .layer(|tar| {
            tar.file("f", b"newest");
            tar.file("z", b"newest");
        })
        .judge();
}

#[test]
fn whiteouts_of_higher_layers_count_below_symlinks() {
    Layers::new()
        .layer(|tar| {
            tar.directory("usr/lib", 0o755);
            tar.symlink("lib", "usr/lib");
        })
        .layer(|tar| {
            tar.file("lib/new", b"new");
            tar.file("lib/kept", b"kept");
        })
        .layer(|tar| tar.file("usr/lib/.wh.new", b""))
        .judge();
}

#[test]
fn mount_points_are_there_whatever_was_deleted() {
    let layers = Layers::new()
        .layer(|tar| {
            tar.directory("run", 0o700);
            tar.directory("sys", 0o700);
            tar.symlink("tmp", "run");
        })
        .layer(|tar| {
            tar.file(".wh.run", b"");
            tar.file(".wh.proc", b"");
        });
    let layout = Layout { mount_points: &MOUNT_POINTS, ..layers.layout() };
    let image = Image::flatten(&layout, layers.directory.path(), &Progress::silent()).unwrap();
    let mounted = Mounted::new(image.path());
    use std::os::unix::fs::PermissionsExt;
    let mode = |name: &str| {
        mounted.0.join(name).symlink_metadata().unwrap().permissions().mode() & 0o170_777
    };
    for name in ["dev", "run"] {
        assert_eq!(mode(name), 0o040_755, "{name}");
    }
    assert_eq!((mode("proc"), mode("sys"), mode("tmp")), (0o040_555, 0o040_700, 0o120_777));
}

#[test]
fn aufs_bookkeeping_is_not_in_the_image() {
    Layers::new()
        .layer(|tar| {
            tar.file(".wh..wh.plnk/1.2", b"linked");
            tar.hard_link("file", ".wh..wh.plnk/1.2");
        })
        .flatten()
        .map(|image| {
            let mounted = Mounted::new(image.path());
            assert_eq!(std::fs::read(mounted.0.join("file")).unwrap(), b"linked");
            assert!(!mounted.0.join(".wh..wh.plnk").exists());
        })
        .unwrap();
    Layers::new().layer(|tar| tar.file(".wh.a/b", b"")).refused("below a whiteout");
}

/// Small inputs that would cost much.
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
fn entries_below_a_symlink_go_where_it_pointed_when_their_layer_was_made() {
    let below = || {
        Layers::new()
            .layer(|tar| {
                tar.directory("usr", 0o755);
                tar.directory("usr/lib", 0o700);
                tar.file("usr/lib/old", b"old");
                tar.symlink("lib", "usr/lib");
                tar.symlink("chain", "lib");
            })
            .layer(|tar| {
                tar.file("lib/file", b"new");
                tar.file("chain/deep/er", b"new");
                tar.file("lib/.wh.old", b"");
            })
    };
    // Removed, replaced by a file, by a directory, by another symlink; and what is below it again.
    below().layer(|tar| tar.file(".wh.lib", b"")).judge();
    below().layer(|tar| tar.file(".wh.chain", b"")).layer(|tar| tar.file("lib", b"file")).judge();
    below().layer(|tar| tar.directory("lib", 0o750)).judge();
    below().layer(|tar| tar.symlink("chain", "elsewhere")).judge();
    below()
        .layer(|tar| {
            tar.directory("lib", 0o750);
            tar.file("lib/file", b"newest");
        })
        .layer(|tar| tar.file(".wh..wh..opq", b""))
        .layer(|tar| tar.file("lib/file", b"last"))
        .judge();
    // A layer that names the directory has made one of the symlink.
    below()
        .layer(|tar| {
            tar.directory("lib", 0o750);
            tar.file("lib/in the directory", b"x");
        })
        .layer(|tar| tar.file(".wh.lib", b""))
        .judge();
    let down_and_up = Layers::new()
        .layer(|tar| tar.symlink("lib", "a/../usr"))
        .layer(|tar| tar.file("lib/file", b"new"))
        .layer(|tar| tar.file(".wh.lib", b""));
    down_and_up.refused("its target goes down and up again");
}

#[test]
fn entries_below_a_hard_link_to_a_symlink() {
    Layers::new()
        .layer(|tar| {
            tar.directory("usr", 0o755);
            tar.symlink("lib", "usr");
            tar.hard_link("link", "lib");
        })
        .layer(|tar| tar.file("link/file", b"new"))
        .judge();
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
