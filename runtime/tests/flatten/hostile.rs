//! Layers that are refused, each by name and with nothing left behind.

use imgrun::Progress;
use imgrun::image::Image;
use tar::EntryType;

use crate::world::{Layers, Tar};

#[test]
fn hard_links_in_a_circle_or_to_what_was_deleted_are_refused() {
    Layers::new()
        .layer(|tar| {
            tar.hard_link("x", "f");
            tar.hard_link("f", "x");
        })
        .refused("in a circle");
    Layers::new()
        .layer(|tar| {
            tar.hard_link("x", "f");
            tar.hard_link("f", "x");
        })
        .layer(|tar| tar.file("f", b"f"))
        .refused("in a circle");
    Layers::new()
        .layer(|tar| tar.file("f", b"f"))
        .layer(|tar| tar.file(".wh.f", b""))
        .layer(|tar| tar.hard_link("x", "f"))
        .refused("its target is not in the image");
}

#[test]
fn hostile_layers_have_bounds() {
    // 4,100 entries of a thousand directories each.
    Layers::new()
        .layer(|tar| {
            for i in 0..4100 {
                let path = format!("{i}/{}x", "a/".repeat(1000));
                tar.file(&path, b"");
            }
        })
        .refused("names");
    // Symlinks that lead deeper and deeper.
    Layers::new()
        .layer(|tar| {
            tar.symlink("s1", &"a/".repeat(2000));
            (2..40).for_each(|i| {
                tar.symlink(&format!("s{i}"), &format!("s{}/{}", i - 1, "a/".repeat(1900)))
            });
        })
        .layer(|tar| {
            (1..39).for_each(|i| tar.file(&format!("s{i}/.wh.x"), b""));
            tar.file("s39/x", b"");
        })
        .refused("deeper than");
    // A long chain of links, each before its target.
    let image = Layers::new().layer(|tar| {
        (0..50_000).for_each(|i| tar.hard_link(&format!("a{i}"), &format!("a{}", i + 1)));
        tar.file("a50000", b"end");
    });
    assert_eq!(image.flatten().unwrap().inodes, 10 + 4 + 1);
    // Links hidden in a chain, and a link from above to its head.
    Layers::new()
        .layer(|tar| {
            tar.file("b0", b"x");
            (1..20_000).for_each(|i| tar.hard_link(&format!("b{i}"), &format!("b{}", i - 1)));
            (0..20_000).for_each(|i| tar.hard_link(&format!("c{i}"), "b19999"));
        })
        .layer(|tar| (0..20_000).for_each(|i| tar.file(&format!("b{i}"), b"")))
        .flatten()
        .unwrap();
}

#[test]
fn what_ext4_can_not_hold_is_refused_by_the_entrys_name() {
    let pax = |records: &'static [(&'static str, &'static [u8])]| {
        Layers::new().layer(|tar| {
            tar.pax(records);
            tar.file("etc/passwd", b"");
        })
    };
    pax(&[("mtime", b"99999999999")]).refused("entry \"etc/passwd\": the time 99999999999");
    pax(&[("SCHILY.xattr.com.apple.provenance", b"x")]).refused("entry \"etc/passwd\": extended");
    pax(&[("SCHILY.xattr.user.x", &[7; 5000])]).refused("entry \"etc/passwd\": extended");
    Layers::new()
        .layer(|tar| tar.symlink("s", &"x".repeat(4096)))
        .refused("entry \"s\": a symlink");
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
