//! Damage to files: what a bad disk, a bad hand and a bad tool do to them, drawn from a seed.

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 where that is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub(crate) fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// The place of a change: half of the time near the front, where headers are.
    fn place(&mut self, length: usize) -> usize {
        let reach = if self.below(2) == 0 { length.min(512) } else { length };
        self.below(reach)
    }

    /// A short range of places.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let most = *self.of(&[4, 32, 256, length]);
        let start = self.place(length);
        start..(start + 1 + self.below(most)).min(length)
    }
}

/// Numbers that others are replaced by.
const NUMBERS: [&str; 27] = [
    "0",
    "-1",
    "1",
    "2",
    "7",
    "0.5",
    "1e-3",
    "1e-9",
    "1e-300",
    "1000",
    "65536",
    "1000000",
    "16777216",
    "16777217",
    "100000000",
    "1000000000",
    "2147483647",
    "4294967295",
    "4294967296",
    "1760428258",
    "1760428258123",
    "9007199254740993",
    "9223372036854775807",
    "18446744073709551615",
    "1e18",
    "1e38",
    "1e300",
];

/// Texts that are no numbers, or none in some languages.
const OTHERS: [&str; 16] = [
    "-9223372036854775808",
    "-1e300",
    "1e999",
    "nan",
    "inf",
    "-inf",
    "NaN",
    "null",
    "true",
    "\"\"",
    "\"x\"",
    "[]",
    "{}",
    "[0]",
    "",
    "99999999999999999999999999999999999999999",
];

/// Numbers that counts, lengths and offsets of binary files are replaced by.
const COUNTS: [u64; 18] = [
    0,
    1,
    2,
    3,
    31,
    255,
    1 << 16,
    (1 << 24) + 1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 40,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// `file` with one to three kinds of damage; `others` are what it may be mixed with.
pub(crate) fn damaged(random: &mut Random, file: &[u8], others: &[&[u8]]) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..1 + random.below(3) {
        let is_text = std::str::from_utf8(&bytes).is_ok_and(|t| !t.contains('\0'));
        let kind =
            if is_text && random.below(4) > 0 { 6 + random.below(7) } else { random.below(6) };
        match kind {
            0 => flip(random, &mut bytes),
            1 => bytes.truncate(random.place(bytes.len())),
            2 => overwrite(random, &mut bytes),
            3 => repeat(random, &mut bytes),
            4 => splice(random, &mut bytes, others),
            5 => count(random, &mut bytes),
            6..=7 => rename(random, &mut bytes),
            8..=9 => lines(random, &mut bytes),
            10 => nest(random, &mut bytes),
            11 => drop(bytes.drain(random.range(bytes.len()))),
            _ => value(random, &mut bytes),
        }
    }
    bytes
}

fn flip(random: &mut Random, bytes: &mut [u8]) {
    for _ in 0..1 + random.below(8) {
        let at = random.place(bytes.len());
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << random.below(8);
        }
    }
}

fn overwrite(random: &mut Random, bytes: &mut [u8]) {
    let (range, with) = (random.range(bytes.len()), *random.of(&[None, Some(0), Some(0xff)]));
    for byte in &mut bytes[range] {
        *byte = with.unwrap_or_else(|| random.below(256) as u8);
    }
}

/// Puts a range in once or many times more.
fn repeat(random: &mut Random, bytes: &mut Vec<u8>) {
    let range = random.range(bytes.len());
    let (at, times) = (range.end, *random.of(&[1, 1, 2, 50, 1000]));
    let part = bytes[range].to_vec();
    let most = (4 << 20) / part.len().max(1);
    bytes.splice(at..at, part.repeat(times.min(most)));
}

/// The beginning of one file and the end of another.
fn splice(random: &mut Random, bytes: &mut Vec<u8>, others: &[&[u8]]) {
    if others.is_empty() {
        return;
    }
    let other = *random.of(others);
    bytes.truncate(random.below(bytes.len()));
    bytes.extend_from_slice(&other[random.below(other.len())..]);
}

/// A little-endian number of four or eight bytes becomes another.
fn count(random: &mut Random, bytes: &mut [u8]) {
    let (at, n) = (random.place(bytes.len()), random.of(&COUNTS).to_le_bytes());
    let width = *random.of(&[4, 8]);
    let room = bytes.len().saturating_sub(at).min(width);
    bytes[at..at + room].copy_from_slice(&n[..room]);
}

/// The places of words of `is`'s kind in `bytes`.
fn words(bytes: &[u8], is: impl Fn(u8) -> bool) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut start = None;
    for (at, byte) in bytes.iter().copied().chain([b' ']).enumerate() {
        match (is(byte) && at < bytes.len(), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                found.push(from..at);
                start = None;
            }
            _ => {}
        }
    }
    found
}

/// A number, or any value, becomes an extreme one or one of another type.
fn value(random: &mut Random, bytes: &mut Vec<u8>) {
    let number = |b: u8| b.is_ascii_digit() || b".-+_eE".contains(&b);
    let has_digit = |r: &std::ops::Range<usize>| bytes[r.clone()].iter().any(u8::is_ascii_digit);
    let mut found = words(bytes, number);
    found.retain(has_digit);
    if found.is_empty() {
        return;
    }
    let range = random.of(&found).clone();
    let word: Vec<u8> = match random.below(12) {
        // A neighbour of the file: numbers that are right elsewhere.
        0 => bytes[random.of(&found).clone()].to_vec(),
        1 => "9".repeat(1 + random.below(400)).into_bytes(),
        2 => [&bytes[range.clone()], b"0000"].concat(),
        3..=4 => random.of(&OTHERS).as_bytes().to_vec(),
        _ => random.of(&NUMBERS).as_bytes().to_vec(),
    };
    bytes.splice(range, word);
}

/// A name becomes another of the file, or is misspelt.
fn rename(random: &mut Random, bytes: &mut Vec<u8>) {
    let found = words(bytes, |b| b.is_ascii_alphanumeric() || b == b'_');
    if found.is_empty() {
        return;
    }
    let range = random.of(&found).clone();
    let word = if random.below(3) == 0 {
        vec![b'x'; 1 + random.below(3) * 3000]
    } else {
        bytes[random.of(&found).clone()].to_vec()
    };
    bytes.splice(range, word);
}

/// A line is left out, doubled, moved or put in very often.
fn lines(random: &mut Random, bytes: &mut Vec<u8>) {
    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    if lines.is_empty() {
        return;
    }
    let (from, to) = (random.below(lines.len()), random.below(lines.len()));
    match random.below(4) {
        0 => drop(lines.remove(from)),
        1 => lines.insert(to, lines[from]),
        2 => lines.swap(from, to),
        _ => {
            let line = lines[from];
            let most = (1 << 20) / line.len().max(1);
            lines.splice(to..to, std::iter::repeat_n(line, most.min(2000)));
        }
    }
    *bytes = lines.concat();
}

/// Brackets far deeper than in any real file.
fn nest(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len());
    let deep = random.of(&["[", "{\"a\":", "[[", "(", "{a=", "a."]).repeat(50_000);
    bytes.splice(at..at, deep.into_bytes());
}
