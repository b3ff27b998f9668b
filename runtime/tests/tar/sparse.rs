//! Sparse files, right and wrong ones.

use crate::block::{Block, padded, pax};
use crate::corpus::{Case, Expect, bare, hidden, read, refused};

const FULL: [(u64, u64); 4] = [(512, 512), (2048, 512), (4096, 512), (6144, 512)];

pub(crate) fn corpus() -> Vec<Case> {
    [extended(), old_maps(), inline_maps(), lines_of_maps()].into_iter().flatten().collect()
}

/// A header of the old form.
fn old(pieces: &[(u64, u64)], size: u64) -> Block {
    let mut block = Block::new("s", b'S').gnu().at(483, format!("{size:011o}\0"));
    for (i, (offset, bytes)) in pieces.iter().enumerate() {
        block = block.at(386 + 24 * i, format!("{offset:011o}\0{bytes:011o}\0"));
    }
    block
}

fn data(blocks: usize) -> Vec<u8> {
    vec![b'x'; 512 * blocks]
}

fn extended() -> Vec<Case> {
    let extension = |more: u8| {
        let mut block = vec![0; 512];
        block[..24].copy_from_slice(b"00000020000\x0000000001000\0");
        block[504] = more;
        block
    };
    vec![
        read("sparse, old", &[old(&[(512, 512), (4096, 0)], 4096).with(data(1)), hidden()]),
        read(
            "sparse, old, last piece broken",
            &[
                old(&[(512, 512), (2048, 5)], 2053).with([data(1), b"12345".to_vec()].concat()),
                hidden(),
            ],
        ),
        read(
            "sparse, old, extended",
            &[old(&FULL, 10240).at(482, [1]).size(2560).done(), extension(0), data(5), hidden()],
        ),
        refused(
            "sparse, old, extended past the end",
            "after its end",
            &[old(&FULL, 10240).at(482, [1]).size(2560).done(), extension(1), data(5), hidden()],
        ),
        refused(
            "sparse, old, extended too early",
            "after its end",
            &[
                old(&FULL[..2], 10240).at(482, [1]).size(1536).done(),
                extension(0),
                data(3),
                hidden(),
            ],
        ),
        bare(
            "sparse, old, cut in its map",
            Expect::Refused("cut in its sparse map"),
            &[old(&FULL, 10240).at(482, [1]).size(2560).done()],
        ),
    ]
}

fn old_maps() -> Vec<Case> {
    vec![
        refused(
            "sparse, old, entries after the end",
            "after its end",
            &[
                old(&FULL[..1], 4096).at(386 + 48, "00000004000\x0000000001000\0").with(data(2)),
                hidden(),
            ],
        ),
        refused(
            "sparse, old, overlapping",
            "not in order",
            &[old(&[(0, 1024), (512, 512)], 4096).with(data(3)), hidden()],
        ),
        refused(
            "sparse, old, beyond the size",
            "beyond its size",
            &[old(&[(4096, 512)], 4096).with(data(1)), hidden()],
        ),
        refused(
            "sparse, old, fewer bytes stored",
            "another number of bytes",
            &[old(&[(0, 1024)], 4096).with(data(1)), hidden()],
        ),
        refused(
            "sparse, old, more bytes stored",
            "another number of bytes",
            &[old(&[(0, 512)], 4096).with(data(2)), hidden()],
        ),
        refused(
            "sparse, old, broken pieces",
            "whole number of blocks",
            &[old(&[(0, 1), (512, 1)], 4096).with("xy"), hidden()],
        ),
        refused(
            "sparse, old, ustar magic",
            "not GNU's",
            &[old(&[(0, 512)], 4096).at(257, "ustar\x0000").with(data(1)), hidden()],
        ),
        refused(
            "sparse, old, 1 EiB of nothing",
            "longer than 16 TiB",
            &[old(&[], 0).at(483, [0x80, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0]).done(), hidden()],
        ),
        refused(
            "sparse, old, size overflows",
            "overflows",
            &[old(&[], 0).at(483, [0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]).done(), hidden()],
        ),
    ]
}

fn inline(pairs: &[(&str, &str)]) -> Vec<u8> {
    [pax(pairs), Block::new("s", b'0').with([b'x'; 512])].concat()
}

fn inline_maps() -> Vec<Case> {
    let map = |map: &str, blocks: &str| {
        inline(&[
            ("GNU.sparse.size", "4096"),
            ("GNU.sparse.numblocks", blocks),
            ("GNU.sparse.name", "r"),
            ("GNU.sparse.map", map),
        ])
    };
    vec![
        read(
            "sparse, 0.0",
            &[inline(&[
                ("GNU.sparse.size", "4096"),
                ("GNU.sparse.numblocks", "2"),
                ("GNU.sparse.offset", "1024"),
                ("GNU.sparse.numbytes", "512"),
                ("GNU.sparse.offset", "4096"),
                ("GNU.sparse.numbytes", "0"),
            ])],
        ),
        refused(
            "sparse, 0.0, offsets alone",
            "out of order",
            &[inline(&[
                ("GNU.sparse.size", "4096"),
                ("GNU.sparse.numblocks", "1"),
                ("GNU.sparse.offset", "0"),
                ("GNU.sparse.offset", "1"),
            ])],
        ),
        read("sparse, 0.1", &[map("1024,512,4096,0", "2")]),
        refused("sparse, 0.1, half a piece", "half a piece", &[map("1024,512,4096", "2")]),
        refused("sparse, 0.1, other count", "numblocks", &[map("1024,512,4096,0", "3")]),
        refused("sparse, 0.1, negative", "not decimal", &[map("-1,512", "1")]),
        refused("sparse, 0.1, overflow", "beyond its size", &[map("9223372036854775807,512", "1")]),
        refused(
            "sparse, 0.1, on a directory",
            "no plain file",
            &[pax(&[("GNU.sparse.name", "r")]), Block::new("d", b'5').done()],
        ),
        refused("sparse, a name alone", "no known form", &[inline(&[("GNU.sparse.name", "r")])]),
        refused(
            "sparse, a size alone",
            "no known form",
            &[inline(&[("GNU.sparse.realsize", "4096")])],
        ),
    ]
}

fn lines_of_maps() -> Vec<Case> {
    let lines = |size: &str, text: &str| {
        let records = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "s"),
            ("GNU.sparse.realsize", size),
        ];
        let content = [padded(text.as_bytes()), vec![b'x'; 512]].concat();
        [pax(&records), Block::new("GNUSparseFile.1/s", b'0').with(content)].concat()
    };
    vec![
        read("sparse, 1.0", &[lines("4096", "2\n1024\n512\n4096\n0\n"), hidden()]),
        refused(
            "sparse, 1.0, not in order",
            "not in order",
            &[lines("4096", "2\n1024\n512\n0\n0\n"), hidden()],
        ),
        refused(
            "sparse, 1.0, 10,001 pieces",
            "more than 10,000",
            &[lines("4096", "10001\n0\n0\n"), hidden()],
        ),
        refused(
            "sparse, 1.0, map without end",
            "too long",
            &[lines("4096", "9\n0\n512\n"), hidden()],
        ),
        refused(
            "sparse, 1.0, long number",
            "too long",
            &[lines("4096", &"0".repeat(60)), hidden()],
        ),
        refused(
            "sparse, of version 2",
            "no known form",
            &[inline(&[
                ("GNU.sparse.major", "2"),
                ("GNU.sparse.minor", "0"),
                ("GNU.sparse.realsize", "9"),
            ])],
        ),
    ]
}
