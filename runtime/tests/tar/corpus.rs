//! Odd and hostile archives, each with what our reader must make of it.

use crate::block::{Block, archive, file, global, long, padded, pax, record};
use crate::sparse;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) expect: Expect,
}

pub(crate) enum Expect {
    /// All read it alike.
    Read,
    /// All but this one do, for this reason; Go, GNU tar and libarchive are those that count.
    ReadBut(&'static str, &'static str),
    /// Our error has these words.
    Refused(&'static str),
}
use Expect::{Read, ReadBut, Refused};

pub(crate) fn case(name: &'static str, expect: Expect, parts: &[Vec<u8>]) -> Case {
    Case { name, bytes: archive(parts), expect }
}

pub(crate) fn read(name: &'static str, parts: &[Vec<u8>]) -> Case {
    case(name, Read, parts)
}

pub(crate) fn refused(name: &'static str, words: &'static str, parts: &[Vec<u8>]) -> Case {
    case(name, Refused(words), parts)
}

pub(crate) fn bare(name: &'static str, expect: Expect, parts: &[Vec<u8>]) -> Case {
    Case { name, bytes: parts.concat(), expect }
}

pub(crate) fn corpus() -> Vec<Case> {
    let own =
        [headers(), names(), types(), numbers(), links(), metadata(), records(), globals(), ends()];
    own.into_iter().flatten().chain(sparse::corpus()).collect()
}

/// An entry behind another: what is hidden from some readers.
pub(crate) fn hidden() -> Vec<u8> {
    file("hidden", "")
}

fn headers() -> Vec<Case> {
    vec![
        read("plain", &[file("a", "content"), file("./d//b", ""), file("/abs", "x")]),
        read("v7", &[Block::new("a", b'0').v7().with("old"), Block::new("d/", 0).v7().done()]),
        read("v7 link", &[file("a", "1"), Block::new("b", b'1').v7().link("a").done()]),
        refused(
            "v7 and a prefix",
            "old header",
            &[Block::new("a", b'0').v7().at(345, "p").with("x")],
        ),
        read("ustar prefix", &[Block::new("a", b'0').at(345, "some/prefix").with("x")]),
        read("ustar prefix of 155", &[Block::new("a", b'0').at(345, "p".repeat(155)).with("x")]),
        read("a name of 100", &[file(&"n".repeat(100), "x")]),
        read(
            "star",
            &[Block::new("a", b'0')
                .at(345, "p")
                .at(476, "14524770400 14524770400")
                .at(508, "tar\0")
                .with("x")],
        ),
        case(
            "GNU with times where ustar has the prefix",
            ReadBut("python", "it joins the prefix whatever the magic"),
            &[Block::new("a", b'0').gnu().at(345, "14524770400").with("x")],
        ),
        read("NUL type, slash", &[Block::new("d/", 0).done(), file("d/x", "1")]),
        refused(
            "NUL type, slash, size",
            "a size on",
            &[Block::new("d/", 0).size(512).done(), hidden()],
        ),
        refused("file with slash", "ends in a slash", &[file("d/", "x")]),
        refused(
            "pax makes a file end in a slash",
            "ends in a slash",
            &[pax(&[("path", "d/")]), file("d", "x")],
        ),
        read("directory without slash", &[Block::new("d", b'5').done(), file("d/x", "1")]),
        read("directories with slashes", &[Block::new("d//", b'5').done()]),
    ]
}

fn names() -> Vec<Case> {
    let long_name = "n".repeat(200);
    vec![
        read("GNU long name", &[long(b'L', &long_name), file("n", "x")]),
        read(
            "GNU long name without NUL",
            &[Block::new("././@LongLink", b'L').gnu().with(&long_name), file("n", "x")],
        ),
        refused("NUL in a GNU long name", "holds a NUL", &[long(b'L', "a\0b"), file("n", "x")]),
        refused("empty GNU long name", "empty", &[long(b'L', ""), file("n", "x")]),
        refused(
            "two GNU long names",
            "two headers",
            &[long(b'L', "a"), long(b'L', "b"), file("n", "x")],
        ),
        read("GNU long link", &[long(b'K', &long_name), Block::new("l", b'2').link("n").done()]),
        read(
            "both long",
            &[
                long(b'K', &long_name),
                long(b'L', &"m".repeat(150)),
                Block::new("l", b'2').link("n").done(),
            ],
        ),
        refused("empty name", "name is empty", &[file("", "x")]),
        read("NUL in a name field", &[Block::new("a", b'0').at(2, "b").with("x")]),
        read("bytes that are no text", &[Block::new("a", b'0').at(1, [0xff, 0xc3]).with("x")]),
        read("the same name twice", &[file("a", "1"), file("a", "22")]),
        case("signed checksum", ReadBut("bsdtar", "it shows the byte otherwise"), &[signed()]),
        refused("wrong checksum", "checksum", &[Block::new("a", b'0').summed(1), hidden()]),
        refused(
            "wrong checksum later",
            "checksum",
            &[file("a", ""), Block::new("b", b'0').summed(1), hidden()],
        ),
    ]
}

fn types() -> Vec<Case> {
    vec![
        refused("contiguous", "readers disagree", &[Block::new("a", b'7').with("x")]),
        refused(
            "volume label",
            "readers disagree",
            &[Block::new("a", b'V').gnu().done(), hidden()],
        ),
        refused(
            "continued",
            "readers disagree",
            &[Block::new("a", b'M').gnu().with("x"), hidden()],
        ),
        refused(
            "dump of a directory",
            "readers disagree",
            &[Block::new("d", b'D').gnu().with("Yx\0\0"), hidden()],
        ),
        refused(
            "Solaris extended header",
            "readers disagree",
            &[Block::new("a", b'X').with(record("path", "b")), file("a", "x")],
        ),
        refused("unknown type", "readers disagree", &[Block::new("a", b'Q').with("x"), hidden()]),
        refused("socket", "readers disagree", &[Block::new("a", b'8').done(), hidden()]),
    ]
}

fn signed() -> Vec<u8> {
    let block = Block::new("a", b'0').at(1, [0xe9]);
    let sum: i64 = block
        .done()
        .iter()
        .enumerate()
        .map(|(i, &b)| if (148..156).contains(&i) { 32 } else { i64::from(b as i8) })
        .sum();
    Block::new("a", b'0').at(1, [0xe9]).summed(sum as u32)
}

fn numbers() -> Vec<Case> {
    let base = |bytes: [u8; 8]| bytes;
    let one = |block: Block| vec![block.done(), hidden()];
    let file = |place, bytes: &[u8]| Block::new("a", b'0').at(place, bytes);
    vec![
        read("base-256 owners", &one(file(108, &base([0x80, 0, 0, 0, 0, 1, 0, 0])))),
        read("owner of 32 bits", &one(file(108, &base([0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe])))),
        refused(
            "owner over 32 bits",
            "over 32 bits",
            &one(file(108, &base([0x80, 0, 0, 1, 0, 0, 0, 0]))),
        ),
        refused("negative owner", "negative", &one(file(108, &[0xff; 8]))),
        read(
            "base-256 size",
            &[file(124, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]).done(), padded(b"abc"), hidden()],
        ),
        refused("negative size", "negative", &one(file(124, &[0xff; 12]))),
        refused(
            "size over 63 bits",
            "overflows",
            &one(file(124, &[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0])),
        ),
        refused(
            "size over 64 bits",
            "overflows",
            &one(file(124, &[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])),
        ),
        refused(
            "size of 8 EiB - 1",
            "longer than 16 TiB",
            &one(file(124, &[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
        ),
        read("negative time", &one(file(136, &[0xff; 12]))),
        read("blanks before and after", &one(file(100, b"  644 \0 "))),
        read("no blank after", &one(file(100, b"00000644"))),
        read("empty numbers", &one(file(108, &[0; 16]))),
        refused("decimal digit", "not octal", &one(file(108, b"0000008\0"))),
        refused("minus", "not octal", &one(file(108, b"-000001\0"))),
        refused("text after a number", "followed by other text", &one(file(108, b"7 9\0\0\0\0\0"))),
        refused("letters", "not octal", &one(file(100, b"abcdefg\0"))),
        read("setuid, setgid, sticky", &one(file(100, b"0007755\0"))),
        read("type bits in the mode", &one(file(100, b"0100644\0"))),
        read("pax owners", &[pax(&[("uid", "100000"), ("gid", "4294967294")]), hidden()]),
        refused(
            "pax owner over 32 bits",
            "over 32 bits",
            &[pax(&[("uid", "4294967296")]), hidden()],
        ),
        refused("pax owner -1", "not decimal", &[pax(&[("uid", "-1")]), hidden()]),
        read("pax time", &[pax(&[("mtime", "1700000000.123456789")]), hidden()]),
        read("pax time before 1970", &[pax(&[("mtime", "-1.5")]), hidden()]),
        refused("pax time in words", "not decimal", &[pax(&[("mtime", "now")]), hidden()]),
    ]
}

fn links() -> Vec<Case> {
    let mut cases = vec![
        read(
            "links",
            &[
                file("a", "x"),
                Block::new("h", b'1').link("a").done(),
                Block::new("s", b'2').link("../a").done(),
            ],
        ),
        read(
            "devices",
            &[
                Block::new("c", b'3').at(329, "0000001\x000000003").done(),
                Block::new("b", b'4').at(329, "0000454\x000210560").done(),
                Block::new("p", b'6').done(),
            ],
        ),
        read(
            "pax link",
            &[pax(&[("linkpath", "over there")]), Block::new("s", b'2').link("x").done()],
        ),
        refused(
            "hard link without target",
            "without a target",
            &[Block::new("h", b'1').done(), hidden()],
        ),
        refused(
            "symlink without target",
            "without a target",
            &[Block::new("s", b'2').done(), hidden()],
        ),
        refused("negative device", "negative", &[Block::new("c", b'3').at(329, [0xff; 8]).done()]),
        refused(
            "pax device numbers",
            "disagree",
            &[pax(&[("SCHILY.devmajor", "5")]), Block::new("c", b'3').done()],
        ),
        refused(
            "pax and GNU link",
            "a pax name and a GNU name",
            &[long(b'K', "a"), pax(&[("linkpath", "b")]), Block::new("s", b'2').link("c").done()],
        ),
    ];
    let sized = [
        ("size on a hard link", b'1'),
        ("size on a symlink", b'2'),
        ("size on a character device", b'3'),
        ("size on a block device", b'4'),
        ("size on a directory", b'5'),
        ("size on a fifo", b'6'),
    ];
    for (name, flag) in sized {
        let link = if flag < b'3' { "a" } else { "" };
        let block = Block::new("x", flag).link(link).size(512).done();
        cases.push(refused(name, "a size on", &[block, hidden()]));
    }
    let block = Block::new("x", b'2').link("a").done();
    cases.push(refused(
        "pax size on a symlink",
        "a size on",
        &[pax(&[("size", "512")]), block, hidden()],
    ));
    cases
}

fn metadata() -> Vec<Case> {
    vec![
        read("pax path", &[pax(&[("path", "d/e f")]), file("a", "x")]),
        read(
            "pax size",
            &[pax(&[("size", "5")]), Block::new("a", b'0').done(), padded(b"12345"), hidden()],
        ),
        read(
            "pax size less than the header's",
            &[pax(&[("size", "0")]), Block::new("a", b'0').size(512).done(), hidden()],
        ),
        refused("pax size -1", "not decimal", &[pax(&[("size", "-1")]), file("a", "x")]),
        refused("pax size +1", "not decimal", &[pax(&[("size", "+1")]), file("a", "x")]),
        refused(
            "pax size over 63 bits",
            "overflows",
            &[pax(&[("size", "9223372036854775808")]), file("a", "x")],
        ),
        refused(
            "pax size of 64 bits",
            "overflows",
            &[pax(&[("size", "18446744073709551615")]), file("a", "x")],
        ),
        refused(
            "pax size over 64 bits",
            "overflows",
            &[pax(&[("size", "18446744073709551616")]), file("a", "x")],
        ),
        refused("empty pax size", "empty", &[pax(&[("size", "")]), file("a", "x")]),
        refused("pax path twice", "twice", &[pax(&[("path", "b"), ("path", "c")]), file("a", "x")]),
        refused("pax size twice", "twice", &[pax(&[("size", "1"), ("size", "0")]), file("a", "x")]),
        refused(
            "two pax headers",
            "two headers",
            &[pax(&[("path", "b")]), pax(&[("uid", "1")]), file("a", "x")],
        ),
        refused(
            "pax and GNU name",
            "a pax name and a GNU name",
            &[pax(&[("path", "b")]), long(b'L', "c"), file("a", "x")],
        ),
        refused(
            "GNU and pax name",
            "a pax name and a GNU name",
            &[long(b'L', "c"), pax(&[("path", "b")]), file("a", "x")],
        ),
        refused("empty pax path", "name is empty", &[pax(&[("path", "")]), file("a", "x")]),
        refused("NUL in a pax path", "holds a NUL", &[pax(&[("path", "b\0c")]), file("a", "x")]),
    ]
}

fn records() -> Vec<Case> {
    let raw = |text: &str| Block::new("x", b'x').with(text);
    vec![
        refused("pax record without newline", "malformed", &[raw("9 path=bc"), file("a", "x")]),
        refused("pax record too short", "malformed", &[raw("8 path=bc\n"), file("a", "x")]),
        refused("pax record too long", "malformed", &[raw("99 path=b\n"), file("a", "x")]),
        refused("pax record without equals", "malformed", &[raw("8 pathb\n"), file("a", "x")]),
        refused("pax record without length", "malformed", &[raw("path=b\n"), file("a", "x")]),
        refused("pax record of length 0", "malformed", &[raw("0 path=b\n"), file("a", "x")]),
        refused(
            "pax record with a signed length",
            "malformed",
            &[raw("+9 path=b\n"), file("a", "x")],
        ),
        refused("NUL after pax records", "malformed", &[raw("10 path=b\n\0\0\0"), file("a", "x")]),
        read(
            "vendor's keywords",
            &[
                pax(&[("VENDOR.key", "v"), ("atime", "1"), ("uname", "root"), ("comment", "c")]),
                file("a", "x"),
            ],
        ),
        read("hdrcharset", &[pax(&[("hdrcharset", "BINARY"), ("path", "b")]), file("a", "x")]),
        refused(
            "star's real size",
            "disagree",
            &[pax(&[("SCHILY.realsize", "100")]), file("a", "x")],
        ),
        read(
            "attributes",
            &[pax(&[("SCHILY.xattr.user.a", "v"), ("SCHILY.xattr.user.b", "")]), file("a", "x")],
        ),
    ]
}

fn globals() -> Vec<Case> {
    let big = "b".repeat((1 << 20) + 1);
    vec![
        read("global comment", &[global(&[("comment", "0123456789")]), file("a", "x")]),
        refused(
            "global path",
            "global",
            &[global(&[("path", "b")]), file("a", "x"), file("c", "x")],
        ),
        refused("global size", "global", &[global(&[("size", "512")]), file("a", ""), hidden()]),
        refused("global uid", "global", &[global(&[("uid", "9")]), file("a", "")]),
        refused(
            "global header between pax and entry",
            "global header",
            &[pax(&[("path", "b")]), global(&[("comment", "c")]), file("a", "x")],
        ),
        refused("huge pax header", "larger than 1 MiB", &[pax(&[("path", &big)]), file("a", "x")]),
        refused("huge GNU name", "larger than 1 MiB", &[long(b'L', &big), file("a", "x")]),
        refused(
            "pax header of 1 EiB",
            "larger than 1 MiB",
            &[
                Block::new("x", b'x').at(124, [0x80, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0]).done(),
                hidden(),
            ],
        ),
        bare("pax header at the end", Refused("ends after a header"), &[pax(&[("path", "b")])]),
        refused(
            "pax header before the end",
            "ends after a header",
            &[file("a", "x"), pax(&[("path", "b")])],
        ),
        refused(
            "long name before the end",
            "ends after a header",
            &[file("a", "x"), long(b'L', "b")],
        ),
    ]
}

fn ends() -> Vec<Case> {
    let zeros = |blocks: usize| vec![0; 512 * blocks];
    vec![
        bare("no end", Read, &[file("a", "x"), file("b", "y")]),
        bare("one zero block", Read, &[file("a", "x"), zeros(1)]),
        bare("twenty zero blocks", Read, &[file("a", "x"), zeros(20)]),
        bare(
            "one zero block, then a header",
            Refused("follow the end"),
            &[file("a", "x"), zeros(1), hidden(), zeros(2)],
        ),
        bare(
            "two zero blocks, then a header",
            Refused("follow the end"),
            &[file("a", "x"), zeros(2), hidden(), zeros(2)],
        ),
        bare("zero block first", Refused("follow the end"), &[zeros(1), hidden(), zeros(2)]),
        bare(
            "garbage after the end",
            Refused("follow the end"),
            &[file("a", "x"), zeros(2), vec![1; 512]],
        ),
        bare("half a header", Refused("cut"), &[file("a", "x"), hidden()[..300].to_vec()]),
        bare("cut in content", Refused("cut"), &[file("a", &"x".repeat(600))[..1000].to_vec()]),
        bare("cut in padding", Refused("cut"), &[file("a", "x")[..600].to_vec()]),
    ]
}
