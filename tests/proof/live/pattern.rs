//! Contents that tell by themselves which version of which file they are, block by block, so that a mixture of two of them shows.

use crate::support::torture::Random;

/// Every block names its file, its version, its place and how many there are, and ends with a hash of all that.
pub const BLOCK: usize = 512;
/// So many versions there are of what is copied into memory maps, from 1 on, in turn.
pub const VERSIONS: u32 = 16;
const HEAD: usize = 24;
const HASH: usize = 16;

/// What a content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No bytes at all.
    Empty,
    /// All of one version.
    Whole(u32),
    /// Of two versions in a row, the newer one up to some place and the older one behind it: a copy that was under way.
    UnderWay,
    /// No version there ever was.
    Torn,
}

/// So many blocks of a version of a file.
pub fn content(file: u32, version: u32, blocks: usize) -> Vec<u8> {
    (0..blocks).flat_map(|number| block(file, version, (number, blocks))).collect()
}

fn block(file: u32, version: u32, (number, blocks): (usize, usize)) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK);
    let place = [number, blocks].map(|value| u32::try_from(value).unwrap());
    for value in [file, version, place[0], place[1]] {
        block.extend_from_slice(&value.to_le_bytes());
    }
    block.extend_from_slice(b"of vault");
    assert_eq!(block.len(), HEAD);
    let seed = u64::from(file) << 32 | u64::from(version);
    block.extend(Random(seed ^ u64::from(place[0]) << 20).bytes(BLOCK - HEAD - HASH));
    let hash = blake3::hash(&block);
    block.extend_from_slice(&hash.as_bytes()[..HASH]);
    block
}

/// What the content of a file is.
pub fn state(file: u32, bytes: &[u8]) -> State {
    let count = bytes.len().div_ceil(BLOCK);
    let blocks: Vec<_> = bytes
        .chunks(BLOCK)
        .enumerate()
        .map(|(number, block)| version(file, block, (number, count)))
        .collect();
    match blocks.first() {
        None => State::Empty,
        Some(Some(first)) if blocks.iter().all(|block| *block == Some(*first)) => State::Whole(*first),
        Some(first) if is_under_way(*first, &blocks) => State::UnderWay,
        Some(_) => State::Torn,
    }
}

/// The version of a block that is right in itself and in its place.
fn version(file: u32, block: &[u8], (number, count): (usize, usize)) -> Option<u32> {
    let (head, hash) = block.split_at_checked(BLOCK - HASH)?;
    let field = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
    let is_right = blake3::hash(head).as_bytes()[..HASH] == *hash
        && field(0) == file
        && usize::try_from(field(8)) == Ok(number)
        && usize::try_from(field(12)) == Ok(count);
    is_right.then(|| field(4))
}

fn is_under_way(newer: Option<u32>, blocks: &[Option<u32>]) -> bool {
    let done = blocks.iter().take_while(|block| block.is_some() && **block == newer).count();
    // One block may be half of either.
    let half = usize::from(blocks.get(done).is_some_and(Option::is_none));
    let rest = &blocks[done + half..];
    let Some(older) = rest.first() else { return true };
    older.is_some_and(|older| {
        rest.iter().all(|block| *block == Some(older)) && newer.is_none_or(|newer| newer == next(older))
    })
}

/// The version that follows on one, where there is a round of them.
pub fn next(version: u32) -> u32 {
    version % VERSIONS + 1
}

#[test]
fn a_mixture_of_versions_is_told_from_each_of_them() {
    let of = |version| content(7, version, 8);
    assert_eq!(state(7, &[]), State::Empty);
    assert_eq!(state(7, &of(3)), State::Whole(3));
    assert_eq!(state(8, &of(3)), State::Torn, "of another file");
    assert_eq!(state(7, &of(3)[..7 * BLOCK]), State::Torn, "cut off");
    assert_eq!(state(7, &[of(3), of(3)].concat()), State::Torn, "too long");
    let mixed = |first, second, at: usize| [&of(first)[..at], &of(second)[at..]].concat();
    assert_eq!(state(7, &mixed(4, 3, 2 * BLOCK)), State::UnderWay);
    assert_eq!(state(7, &mixed(4, 3, 2 * BLOCK + 100)), State::UnderWay);
    assert_eq!(state(7, &mixed(3, 4, 2 * BLOCK)), State::Torn, "the later part is the newer one");
    assert_eq!(state(7, &mixed(5, 3, 2 * BLOCK)), State::Torn, "a version lies between");
    assert_eq!(state(7, &mixed(1, VERSIONS, BLOCK)), State::UnderWay, "a new round");
    let mut twice = mixed(4, 3, 2 * BLOCK);
    twice[6 * BLOCK..7 * BLOCK].copy_from_slice(&of(4)[6 * BLOCK..7 * BLOCK]);
    assert_eq!(state(7, &twice), State::Torn);
    let mut flipped = of(3);
    flipped[3 * BLOCK + 99] ^= 1;
    assert_eq!(state(7, &flipped), State::Torn, "a byte that no version has");
}
