//! Archives made byte by byte, right and wrong ones.

/// A header block under way.
#[derive(Clone, Copy)]
pub(crate) struct Block([u8; 512]);

impl Block {
    /// A ustar header of a file, link, ... owned by 7:8, mode 0644.
    pub(crate) fn new(name: &str, flag: u8) -> Self {
        let mut block = Block([0; 512]);
        block.0[156] = flag;
        block
            .at(0, name)
            .at(100, "0000644")
            .at(108, "0000007")
            .at(116, "0000010")
            .size(0)
            .at(136, "14524770400")
            .at(257, "ustar\x0000")
            .at(329, "0000000")
            .at(337, "0000000")
    }

    pub(crate) fn at(mut self, place: usize, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.0[place..place + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn size(self, size: u64) -> Self {
        self.at(124, format!("{size:011o}"))
    }

    pub(crate) fn link(self, target: &str) -> Self {
        self.at(157, target)
    }

    pub(crate) fn gnu(self) -> Self {
        self.at(257, "ustar  \0")
    }

    pub(crate) fn v7(self) -> Self {
        self.at(257, [0; 255])
    }

    /// The block with its sum.
    pub(crate) fn done(self) -> Vec<u8> {
        let sum: u32 = self.at(148, [b' '; 8]).0.iter().map(|&b| u32::from(b)).sum();
        self.summed(sum)
    }

    /// The block with this sum.
    pub(crate) fn summed(self, sum: u32) -> Vec<u8> {
        self.at(148, format!("{sum:06o}\0 ")).0.to_vec()
    }

    /// The block and its content, the size set.
    pub(crate) fn with(self, content: impl AsRef<[u8]>) -> Vec<u8> {
        let content = content.as_ref();
        [self.size(content.len() as u64).done(), padded(content)].concat()
    }
}

pub(crate) fn padded(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(content.len().next_multiple_of(512), 0);
    bytes
}

pub(crate) fn file(name: &str, content: &str) -> Vec<u8> {
    Block::new(name, b'0').with(content)
}

pub(crate) fn record(keyword: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let rest = keyword.len() + value.len() + 3;
    let digits = if (rest + 1).to_string().len() + rest >= 10 { 2 } else { 1 };
    let digits = if digits + rest >= 100 { 3 } else { digits };
    [format!("{} {keyword}=", digits + rest).as_bytes(), value, b"\n"].concat()
}

/// An extended header of these records.
pub(crate) fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let text: Vec<u8> = records.iter().flat_map(|(k, v)| record(k, v)).collect();
    Block::new("PaxHeaders/x", b'x').with(text)
}

pub(crate) fn global(records: &[(&str, &str)]) -> Vec<u8> {
    let text: Vec<u8> = records.iter().flat_map(|(k, v)| record(k, v)).collect();
    Block::new("pax_global_header", b'g').with(text)
}

/// A GNU long name ('L') or link ('K').
pub(crate) fn long(flag: u8, name: &str) -> Vec<u8> {
    Block::new("././@LongLink", flag).gnu().with(format!("{name}\0"))
}

/// An archive of these parts, with its end.
pub(crate) fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), vec![0; 1024]].concat()
}
