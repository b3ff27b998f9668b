//! Bundles that lie: each gets an error that names the lie, and none gets memory or a byte under a
//! name.

use bundle::{Digest, FRAME_BYTES_MAX, Frame, Outline, ZERO_BYTES_MAX};

use crate::world::{
    ENTRY, Forged, HEADER, member, noise, pack_with, packed, packing, read, stored,
};

#[track_caller]
fn fails(bytes: &[u8], words: &str) {
    let e = read(bytes).map(|_| ()).expect_err(words).to_string();
    assert!(e.contains(words), "not {words:?}: {e}");
}

/// A small bundle and its parts, to be changed.
fn forged() -> (Vec<u8>, Outline, Forged) {
    let (bytes, outline) = pack_with(&noise(600_000, 3), b"sbom", &packing());
    let forged = Forged::new(&outline, &bytes);
    (bytes, outline, forged)
}

/// Replaces the packed bytes of frame `index` and everything that names them, so that only the
/// frame itself is wrong.
fn replace_frame(forged: &mut Forged, outline: &Outline, index: usize, packed: &[u8]) {
    let piece = &outline.pieces()[index];
    let head = outline.pieces()[0].packed_at as usize - stored(&[0; 512]).len();
    let at = piece.packed_at as usize - head;
    let old = piece.frame.packed_bytes() as usize;
    forged.body.splice(at..at + old, packed.iter().copied());
    forged.entry(index)[4..8].copy_from_slice(&(packed.len() as u32).to_le_bytes());
    forged.entry(index)[40..72].copy_from_slice(Digest::of(packed).as_bytes());
    let all = forged.manifest["files"][piece.file]["packed"].as_u64().unwrap();
    forged.manifest["files"][piece.file]["packed"] =
        (all + packed.len() as u64 - old as u64).into();
    // The glue before the first file, and that before its own, where it is of the second.
    forged.seek[1 + index + piece.file].0 = packed.len() as u32;
}

#[test]
fn the_forger_can_be_honest() {
    let (_, outline, mut forged) = forged();
    assert!(read(&forged.clone().bytes()).is_ok());
    let raw = noise(600_000, 3);
    let first = outline.pieces()[0].frame.raw_bytes() as usize;
    replace_frame(&mut forged, &outline, 0, &stored(&raw[..first]));
    assert!(read(&forged.bytes()).unwrap()["rootfs.ext4"] == raw);
}

#[test]
fn every_cut_and_every_flip_is_noticed() {
    let content = noise(9000, 1);
    let (good, outline) = pack_with(&content, b"s", &packing());
    let manifest = 10 + 3 + 512..10 + 3 + 512 + outline.json().len();
    for cut in 0..good.len() {
        assert!(read(&good[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        // Another manifest can be a manifest: it is of another bundle, with the same files.
        match read(&bad) {
            Ok(files) => assert!(manifest.contains(&at) && files["rootfs.ext4"] == content),
            Err(_) => continue,
        }
    }
}

#[test]
fn nothing_may_follow_or_come_before() {
    let (good, ..) = forged();
    let mut skippable = 0x184d_2a50_u32.to_le_bytes().to_vec();
    skippable.extend([4, 0, 0, 0, 1, 2, 3, 4]);
    let empty = stored(b"");
    for more in [b"more".to_vec(), vec![0; 1], skippable.clone(), empty.clone(), good.clone()] {
        fails(&[&good[..], &more].concat(), "bytes follow its end");
    }
    for first in [skippable, empty] {
        fails(&[&first[..], &good].concat(), "does not begin with manifest.json");
    }
    fails(&good[..good.len() - 1], "cut short");
    fails(&[], "ends in the middle of its manifest");
    fails(b"\x28\xb5\x2f\xfd", "ends in the middle of its manifest");
}

#[test]
fn a_frame_hidden_between_others_is_found() {
    let (_, _, honest) = forged();
    // Skippable, in place of nothing: the lengths do not add up any more.
    let mut forged = honest.clone();
    let mut skippable = 0x184d_2a5b_u32.to_le_bytes().to_vec();
    skippable.extend([0; 4]);
    forged.body.splice(0..0, skippable.clone());
    fails(&forged.clone().bytes(), "bytes follow its end");
    // The manifest counts it as the file's.
    let more = forged.manifest["files"][0]["packed"].as_u64().unwrap() + 8;
    forged.manifest["files"][0]["packed"] = more.into();
    fails(&forged.bytes(), "another packed length");
}

#[test]
fn glue_is_as_the_manifest_says() {
    let (_, outline, honest) = forged();
    let header = |name: &str, size: usize| member(name, &vec![0; size])[..512].to_vec();
    let size = outline.manifest().files[0].size as usize;
    let glue = stored(&header("rootfs.ext4", size)).len();
    for bad in [header("etc/cron.d/x", size), header("rootfs.ext4", size - 1), vec![0; 512]] {
        let mut forged = honest.clone();
        forged.body.splice(..glue, stored(&bad));
        fails(&forged.bytes(), "is not what it must be");
    }
    // The archive's end with something in it, and compressed as we would not.
    let mut forged = honest.clone();
    let end = forged.body.len() - 1;
    forged.body[end] = 1;
    fails(&forged.bytes(), "is not what it must be");
    // A seek table that tells another reader something else.
    let mut forged = honest;
    forged.seek[2].1 += 1;
    fails(&forged.bytes(), "is not what it must be");
}

#[test]
fn a_frame_table_tiles_the_files_exactly() {
    let (_, outline, honest) = forged();
    let word = |n: u64| (n as u32).to_le_bytes();
    let frame = |i: usize| outline.pieces()[i].frame;
    let last = outline.pieces().len() - 2;

    // Overlapping the next file, and leaving a gap at the end.
    let mut forged = honest.clone();
    forged.entry(last)[..4].copy_from_slice(&word(frame(last).raw_bytes() + 1));
    fails(&forged.bytes(), "a frame reaches over its end");
    let mut forged = honest.clone();
    forged.entry(0)[..4].copy_from_slice(&word(frame(0).raw_bytes() + 1));
    fails(&forged.bytes(), "a frame begins inside a block");
    let mut forged = honest.clone();
    forged.entry(last)[..4].copy_from_slice(&word(frame(last).raw_bytes() - 1));
    assert!(read(&forged.bytes()).is_err());

    // Outside the file, or into its neighbour's bytes.
    let mut forged = honest.clone();
    forged.entry(0)[4..8].copy_from_slice(&word(frame(0).packed_bytes() + 1));
    fails(&forged.bytes(), "another packed length");

    // A frame too few, too many, twice, and in another order.
    let mut forged = honest.clone();
    forged.table.truncate(HEADER + ENTRY * last);
    forged.recount();
    assert!(read(&forged.bytes()).is_err());
    let forged_frames = |frames: &[usize]| {
        let mut forged = honest.clone();
        let entries: Vec<u8> = frames
            .iter()
            .flat_map(|&i| honest.table[HEADER + ENTRY * i..][..ENTRY].to_vec())
            .collect();
        forged.table.truncate(HEADER);
        forged.table.extend(entries);
        forged.recount();
        forged
    };
    let all: Vec<usize> = (0..=last + 1).collect();
    let outline_of = |forged: Forged| {
        let mut manifest = forged.manifest;
        manifest["frames"]["digest"] = Digest::of(&forged.table).to_string().into();
        manifest["frames"]["size"] = forged.table.len().into();
        let e = Outline::new(serde_json::to_vec(&manifest).unwrap(), &forged.table);
        e.map(|_| ()).unwrap_err().to_string()
    };
    let e = outline_of(forged_frames(&all[..last]));
    assert!(e.contains("does not fit"), "{e}");
    let e = outline_of(forged_frames(&all[..all.len() - 1]));
    assert!(e.contains("frames are missing"), "{e}");
    let e = outline_of(forged_frames(&[&all[..], &all[..1]].concat()));
    assert!(e.contains("frames of no file"), "{e}");
    let mut swapped = all.clone();
    swapped.swap(0, 1);
    assert!(read(&forged_frames(&swapped).bytes()).is_err());
}

#[test]
fn sizes_that_add_up_to_too_much_are_refused() {
    let (_, _, honest) = forged();
    for field in ["size", "packed"] {
        let mut forged = honest.clone();
        forged.manifest["files"][0][field] = u64::MAX.into();
        assert!(read(&forged.bytes()).is_err());
    }
    let mut forged = honest.clone();
    forged.manifest["files"][0]["packed"] = u64::MAX.into();
    fails(&forged.bytes(), "longer than a file can be");
    for size in [0, 15, 17, u64::MAX, 16 + 72 * (1 << 20) + 72] {
        let mut forged = honest.clone();
        forged.manifest["frames"]["size"] = size.into();
        fails(&forged.bytes_with_this_manifest(), &format!("no frame table has {size} bytes"));
    }
}

#[test]
fn wrong_digests_are_noticed() {
    let (_, _, honest) = forged();
    // Of the table.
    let mut forged = honest.clone();
    forged.manifest["frames"]["digest"] = Digest::of(b"another").to_string().into();
    fails(&forged.bytes_with_this_manifest(), "the frame table: expected");
    // Of a frame as it is packed, and decompressed.
    for (at, words) in [(40, "the frame at byte"), (8, ", decompressed: expected")] {
        let mut forged = honest.clone();
        forged.entry(1)[at] ^= 1;
        fails(&forged.bytes(), words);
    }
    // Of a whole file.
    for file in [0, 1] {
        let mut forged = honest.clone();
        forged.manifest["files"][file]["digest"] = Digest::of(b"another").to_string().into();
        let name = ["rootfs.ext4", "sbom.spdx.json"][file];
        fails(&forged.bytes(), &format!("{name}: expected"));
    }
    // Of an empty one, which has no frame.
    let (bytes, outline) = pack_with(&noise(5000, 3), b"", &packing());
    let mut forged = Forged::new(&outline, &bytes);
    forged.manifest["files"][1]["digest"] = Digest::of(b"another").to_string().into();
    fails(&forged.bytes(), "it is empty, its digest is not");
}

#[test]
fn bombs_take_no_memory() {
    let (_, outline, honest) = forged();
    // 4 GiB of zeros that call themselves a frame of the right length, and as they are.
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0x80, 0x38];
    bomb.extend((outline.pieces()[0].frame.raw_bytes() as u32).to_le_bytes());
    for i in 0..(32 << 10) {
        let header = (128u32 << 10) << 3 | 1 << 1 | u32::from(i + 1 == 32 << 10);
        bomb.extend(&header.to_le_bytes()[..3]);
        bomb.push(0);
    }
    let mut forged = honest.clone();
    replace_frame(&mut forged, &outline, 0, &bomb);
    let e = read(&forged.bytes()).unwrap_err().to_string();
    assert!(e.contains("does not decompress") || e.contains("packs"), "{e}");
    bomb[6..10].copy_from_slice(&u32::MAX.to_le_bytes());
    bomb.truncate(10 + 4 * 100);
    bomb[10 + 4 * 99] |= 1;
    let mut forged = honest.clone();
    replace_frame(&mut forged, &outline, 0, &bomb);
    fails(&forged.bytes(), "a frame holds 4294967295 bytes");
    // Lengths that only a table claims.
    for (raw, packed) in [(FRAME_BYTES_MAX + 1, 1000u32), (ZERO_BYTES_MAX + 1, 0), (0, 5)] {
        let mut forged = honest.clone();
        forged.entry(0)[..4].copy_from_slice(&raw.to_le_bytes());
        forged.entry(0)[4..8].copy_from_slice(&packed.to_le_bytes());
        fails(&forged.bytes(), "are allowed");
    }
}

#[test]
fn frames_are_frames_of_one_kind() {
    let (_, outline, honest) = forged();
    let Frame::Data { raw_bytes, .. } = outline.pieces()[0].frame else { panic!() };
    let raw = &noise(600_000, 3)[..raw_bytes as usize];
    let good = stored(raw);
    let mut window = good.clone();
    window[5] = 17 << 3;
    let mut dictionary = good.clone();
    dictionary[4] |= 1;
    let mut unsaid = good.clone();
    unsaid[4] = 0;
    let mut skippable = 0x184d_2a50_u32.to_le_bytes().to_vec();
    skippable.extend([0; 4]);
    let (half, rest) = raw.split_at(raw.len() / 2);
    for (packed, words) in [
        (window, "needs a window of 134217728 bytes"),
        (dictionary, "needs a dictionary"),
        (unsaid, "does not say how much it holds"),
        ([&good[..], &skippable].concat(), "bytes follow a frame"),
        ([&skippable[..], &good].concat(), "is not zstd"),
        ([stored(half), stored(rest)].concat(), "a frame holds"),
        (good[..good.len() - 1].to_vec(), "cut short"),
        (b"no zstd at all".to_vec(), "is not zstd"),
    ] {
        let mut forged = honest.clone();
        replace_frame(&mut forged, &outline, 0, &packed);
        fails(&forged.bytes(), words);
    }
}

#[test]
fn holes_hold_nothing() {
    let (bytes, outline) = packed();
    let mut forged = Forged::new(&outline, &bytes);
    let hole = outline.pieces().iter().position(|piece| piece.frame.is_zero()).unwrap();
    assert!(read(&forged.clone().bytes()).is_ok());
    let head = outline.pieces()[0].packed_at as usize - stored(&[0; 512]).len();
    let at = outline.pieces()[hole].packed_at as usize - head;
    // The repeated byte: a plain reader would see ones.
    forged.body[at + 10 + 3] = 1;
    fails(&forged.bytes(), "is not what it must be");
}

#[test]
fn other_manifests_are_refused() {
    let (_, _, honest) = forged();
    for (field, value, words) in [
        ("schema", 1.into(), "build the bundle again"),
        ("schema", 3.into(), "update it"),
        ("schema", u64::MAX.into(), "manifest.json"),
        ("kind", "disk".into(), "manifest.json"),
        ("kind", "kernel".into(), "lists the files"),
        ("name", "../x".into(), "is not valid"),
        ("boot", serde_json::Value::Null, "needs boot"),
        ("files", serde_json::json!([]), "lists the files"),
    ] {
        let mut forged = honest.clone();
        forged.manifest[field] = value;
        fails(&forged.bytes(), words);
    }
    let mut long = stored(&member("manifest.json", b""));
    let mut header = member("manifest.json", b"")[..512].to_vec();
    header[124..136].copy_from_slice(b"77777777777\0");
    let at = long.len() - 512;
    long[at..].copy_from_slice(&header);
    long.extend([0; 100]);
    fails(&long, "are allowed");
}
