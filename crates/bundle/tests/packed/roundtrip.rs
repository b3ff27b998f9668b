//! Honest bundles, read by us and by others.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use bundle::{Content, Digest, Form, Frame, Outline, Packing, ROOTFS, SBOM};

use crate::world::{MIB, assemble, disk, manifest, noise, pack_with, packed, packing, read};

#[test]
fn what_was_packed_is_read_whatever_the_threads() {
    let (one, _) = pack_with(&disk(), b"sbom", &Packing { threads: 1, ..packing() });
    let (five, _) = pack_with(&disk(), b"sbom", &Packing { threads: 5, ..packing() });
    assert!(one == five);
    let files = read(&one).unwrap();
    assert!(files["rootfs.ext4"] == disk());
    assert_eq!(files["sbom.spdx.json"], b"sbom");
}

#[test]
fn files_of_every_length_are_read() {
    for bytes in [0, 1, 511, 512, 4095, 4096, 4097, 100_000, 5 * MIB + 1] {
        let disk = noise(bytes, 5);
        let (packed, outline) = pack_with(&disk, &disk[..bytes.min(700)], &packing());
        assert!(read(&packed).unwrap()["rootfs.ext4"] == disk, "{bytes}");
        let files = &outline.manifest().files;
        assert_eq!((files[0].size, files[0].digest), (bytes as u64, Digest::of(&disk)));
    }
}

#[test]
fn one_file_is_read_by_itself() {
    let (packed, outline) = packed();
    let mut packed = std::io::Cursor::new(packed);
    let opened = Outline::open(&mut packed).unwrap();
    assert_eq!(opened.json(), outline.json());
    assert_eq!(opened.content(SBOM, &mut packed).unwrap().unwrap(), b"{\"sbom\": true}\n");
    assert!(opened.content(ROOTFS, &mut packed).unwrap().unwrap() == disk());
    assert_eq!(opened.content("vmlinux", &mut packed).unwrap(), None);
}

#[test]
fn holes_cost_next_to_nothing() {
    let mut disk = noise(4096, 1);
    disk.resize(200 * MIB, 0);
    let (packed, outline) = pack_with(&disk, b"", &packing());
    assert!(packed.len() < 24 << 10, "{} bytes", packed.len());
    let holes = outline.pieces().iter().filter(|piece| piece.frame.is_zero());
    assert_eq!(holes.map(|p| p.frame.raw_bytes()).sum::<u64>(), (200 * MIB - 4096) as u64);
    assert!(read(&packed).unwrap()["rootfs.ext4"] == disk);
}

#[test]
fn frames_begin_where_they_are_told_to() {
    let disk = noise(2 * MIB, 9);
    let seams = vec![0, 8192, 1 << 20];
    let sbom = Content::new(SBOM, &b"s"[..], 1);
    let rootfs = Content { seams, ..Content::new(ROOTFS, &disk[..], disk.len() as u64) };
    let contents = vec![rootfs, sbom];
    let out = std::io::Cursor::new(Vec::new());
    let (_, outline) = bundle::pack(manifest(), contents, out, &packing(), |_| {}).unwrap();
    let starts: Vec<u64> = outline.pieces().iter().map(|piece| piece.raw_at).collect();
    assert!([0, 8192, 1 << 20].iter().all(|at| starts.contains(at)), "{starts:?}");
}

#[test]
fn contents_of_another_length_are_refused() {
    for (bytes, said) in [(9000, 8999), (9000, 9001)] {
        let disk = noise(bytes, 4);
        let sbom = Content::new(SBOM, &b"s"[..], 1);
        let contents = vec![Content::new(ROOTFS, &disk[..], said), sbom];
        let out = std::io::Cursor::new(Vec::new());
        assert!(bundle::pack(manifest(), contents, out, &packing(), |_| {}).is_err());
    }
}

#[test]
fn a_delta_takes_what_is_at_hand_and_fetches_the_rest() {
    let old = disk();
    let mut new = old.clone();
    new.splice(2 * MIB..2 * MIB, noise(64 << 10, 77));
    let (_, before) = pack_with(&old, b"old", &packing());
    let (packed, after) = pack_with(&new, b"new", &packing());
    let mut local = HashMap::new();
    for piece in before.pieces().iter().filter(|piece| piece.file == 0) {
        if let Frame::Data { raw, .. } = piece.frame {
            let at = piece.raw_at as usize;
            local.insert(raw, &old[at..at + piece.frame.raw_bytes() as usize]);
        }
    }
    let missing = after.missing(|raw| local.contains_key(raw));
    let bytes: u64 = missing.iter().map(|&i| after.pieces()[i].frame.packed_bytes()).sum();
    assert!(bytes < packed.len() as u64 / 5, "{bytes} of {}", packed.len());

    let fetched = Mutex::new(vec![]);
    let give = |index: usize, buffer: &mut Vec<u8>| {
        let piece = &after.pieces()[index];
        let Frame::Data { raw, .. } = piece.frame else { panic!("a hole was asked for") };
        if let Some(bytes) = local.get(&raw) {
            buffer.extend_from_slice(bytes);
            return Ok(Form::Raw);
        }
        fetched.lock().unwrap().push(index);
        let at = piece.packed_at as usize;
        buffer.extend_from_slice(&packed[at..at + piece.frame.packed_bytes() as usize]);
        Ok(Form::Packed)
    };
    assert!(assemble(&after, give).unwrap()["rootfs.ext4"] == new);
    let mut fetched = fetched.into_inner().unwrap();
    fetched.sort_unstable();
    assert_eq!(fetched, missing);
}

#[test]
fn a_local_frame_that_went_bad_is_fetched_instead() {
    let (packed, outline) = packed();
    let calls = Mutex::new(0);
    let files = Mutex::new(0u64);
    let fetch = |index: usize, form: Form, buffer: &mut Vec<u8>| {
        *calls.lock().unwrap() += 1;
        if form == Form::Raw {
            buffer.extend_from_slice(b"not what it was");
            return Ok(Form::Raw);
        }
        let piece = &outline.pieces()[index];
        let at = piece.packed_at as usize;
        buffer.extend_from_slice(&packed[at..at + piece.frame.packed_bytes() as usize]);
        Ok(Form::Packed)
    };
    let put = |_: &bundle::Piece, raw: &[u8]| {
        *files.lock().unwrap() += raw.len() as u64;
        Ok::<(), bundle::Error>(())
    };
    outline.assemble(2, fetch, put).unwrap();
    let data = outline.pieces().iter().filter(|piece| !piece.frame.is_zero()).count();
    assert_eq!(calls.into_inner().unwrap(), 2 * data);
}

#[test]
fn an_error_of_the_caller_ends_it() {
    let (_, outline) = packed();
    let e = assemble(&outline, |_, _| Err(std::io::Error::other("the line is dead").into()));
    assert!(e.unwrap_err().to_string().contains("the line is dead"));
}

#[test]
fn manifest_and_table_alone_give_the_outline() {
    let (packed, outline) = packed();
    let again = Outline::new(outline.json().to_vec(), &outline.table()).unwrap();
    assert_eq!(again.pieces(), outline.pieces());
    assert_eq!(again.packed_bytes(), packed.len() as u64);
}

/// What `command` makes of `input`.
fn run(command: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn zstd_and_tar_open_it() {
    let (packed, outline) = packed();
    let tar = run(&["zstd", "-dcq"], &packed);
    let listed = run(&["tar", "tf", "-"], &tar);
    assert_eq!(listed, b"manifest.json\nrootfs.ext4\nsbom.spdx.json\n");
    assert!(run(&["tar", "xOf", "-", "rootfs.ext4"], &tar) == disk());
    assert!(run(&["tar", "xOf", "-", "manifest.json"], &tar) == outline.json());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.tar.zst");
    std::fs::write(&file, &packed).unwrap();
    let listed = run(&["zstd", "-lv", file.to_str().unwrap()], b"");
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let frames = 1 + 3 + outline.pieces().len();
    assert!(listed.contains(&format!("# Zstandard Frames: {frames}\n")), "{listed}");
    assert!(listed.contains("# Skippable Frames: 2\n"), "{listed}");
    assert!(listed.contains(&format!("({} B)", tar.len())), "{listed}");
}

/// Python's zstandard, a judge that shares only zstd itself with us: every frame that the seek table
/// lists is found at its place and decompresses by itself to the bytes of the whole.
#[test]
fn the_seek_table_leads_to_every_frame() {
    let (packed, _) = packed();
    let judge = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/judge/seekable.py");
    let whole = run(&["zstd", "-dcq"], &packed);
    let judged = run(&["/usr/bin/python3", judge], &packed);
    assert!(judged == whole);
}
