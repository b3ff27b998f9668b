//! The directory hash: "half MD4" over unsigned bytes, seeded per file system.

/// `s_def_hash_version` of half MD4; the superblock's flag says that bytes are unsigned.
pub(crate) const HASH_VERSION: u8 = 1;

const INITIAL: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
const K2: u32 = 0x5a82_7999;
const K3: u32 = 0x6ed9_eba1;
/// The largest hash has a meaning of its own: the end of a directory.
const END: u32 = 0xffff_fffe;

/// The hash of `name` (its lowest bit clear) and the minor hash that orders equal ones.
pub(crate) fn hash(name: &[u8], seed: &[u8; 16]) -> (u32, u32) {
    let mut state = INITIAL;
    if seed.iter().any(|&b| b != 0) {
        for (word, bytes) in state.iter_mut().zip(seed.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
    }
    for start in (0..name.len()).step_by(32) {
        transform(&mut state, &words(&name[start..]));
    }
    let hash = state[1] & !1;
    (if hash == END { END - 2 } else { hash }, state[2])
}

/// Up to 32 bytes as eight words, filled up with a pattern made of the length.
fn words(rest: &[u8]) -> [u32; 8] {
    let length = rest.len() as u32;
    let mut pad = length | length << 8;
    pad |= pad << 16;
    let mut words = [pad; 8];
    for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
        *word = bytes.iter().fold(pad, |word, &b| u32::from(b).wrapping_add(word << 8));
    }
    words
}

fn transform(state: &mut [u32; 4], x: &[u32; 8]) {
    let choose = |b: u32, c: u32, d: u32| d ^ (b & (c ^ d));
    let majority = |b: u32, c: u32, d: u32| (b & c).wrapping_add((b ^ c) & d);
    let parity = |b: u32, c: u32, d: u32| b ^ c ^ d;

    let mut s = *state;
    round(&mut s, choose, 0, x, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]);
    round(&mut s, majority, K2, x, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]);
    round(&mut s, parity, K3, x, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]);
    for (word, more) in state.iter_mut().zip(s) {
        *word = word.wrapping_add(more);
    }
}

fn round(
    s: &mut [u32; 4],
    f: impl Fn(u32, u32, u32) -> u32,
    k: u32,
    x: &[u32; 8],
    order: [usize; 8],
    shifts: [u32; 4],
) {
    for (i, &at) in order.iter().enumerate() {
        // The roles of a, b, c, d move on by one word each step: a, d, c, b.
        let [a, b, c, d] = [0, 1, 2, 3].map(|role| (role + 4 - i % 4) % 4);
        let sum = s[a].wrapping_add(f(s[b], s[c], s[d])).wrapping_add(x[at]).wrapping_add(k);
        s[a] = sum.rotate_left(shifts[i % 4]);
    }
}

#[cfg(test)]
mod tests {
    use super::hash;

    /// From `debugfs -R "dx_hash -h half_md4 -s 00010203-0405-0607-0809-0a0b0c0d0e0f NAME"`
    /// (e2fsprogs 1.47.0). For ASCII names, signed and unsigned bytes hash alike.
    #[test]
    fn matches_debugfs() {
        let seed = std::array::from_fn(|i| i as u8);
        let long = "a-rather-long-name-that-spans-two-md4-blocks-of-input";
        assert_eq!(hash(b"hello.txt", &seed), (0x182e_16b6, 0x25be_ca03));
        assert_eq!(hash(long.as_bytes(), &seed), (0x3538_6e6a, 0xb539_6e23));
        assert_eq!(hash(b"a", &seed), (0x0a2f_a3a0, 0x6b8e_d956));
    }
}
