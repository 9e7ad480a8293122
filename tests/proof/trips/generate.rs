//! What is generated: trips, by strategies whose first alternative is the plainest one, so that what fails shrinks to it.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::any;
use proptest::prop_oneof;
use proptest::sample::select;
use proptest::strategy::{Just, Strategy};

use super::edit::{Bytes, Change, Edit, Meta, Piece, Pieces, Thing, Write};
use super::model::CAPABILITY;
use super::trip::{DIRT, Trip};

/// Lengths at which something begins or ends: inline content, blocks, the chunker's least and most.
const LENGTHS: [u32; 13] =
    [0, 1, 1023, 1024, 1025, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1_048_575, 1_048_577];
/// Names that are often met again, of which some sort otherwise than their paths.
const NAMES: [&[u8]; 12] = [
    b"a",
    b"b",
    b"a-",
    b"a.b",
    b"a b",
    b"A",
    b"--help",
    b"new\nline",
    b"\x01",
    b"\xff\xfd",
    b"\xc3\xa9",
    b"~",
];
/// Modification times in seconds: around what counters can hold.
const SECONDS: [i64; 9] = [
    1_600_000_000,
    0,
    -1,
    -2_147_483_000,
    2_147_483_647,
    2_147_483_648,
    4_294_967_295,
    4_294_967_296,
    7_258_118_400,
];
const MODES: [u16; 10] = [0o644, 0o755, 0, 0o200, 0o111, 0o4755, 0o2755, 0o1777, 0o6000, 0o7777];
const OWNERS: [u32; 5] = [0, 1, 1000, 65_534, 4_000_000_000];
const XATTRS: [&[u8]; 5] = [b"user.a", b"user.\xc3\xa9", b"trusted.a", b"user.large", CAPABILITY];

/// Trips of up to so many edits. All of them are in one list, since what fails is made smaller by leaving out of a list before its elements
/// are made plainer.
pub fn trips(most: usize) -> impl Strategy<Value = Trip> {
    let edits = prop_oneof![
        4 => make().prop_map(|edit| (0, edit)),
        5 => (0..=DIRT, edit()),
    ];
    (vec(edits, 0..=most), any::<bool>(), any::<bool>()).prop_map(|(edits, is_gentle, verifies)| Trip {
        edits,
        is_gentle,
        verifies,
    })
}

fn pick() -> impl Strategy<Value = u16> + Clone {
    0..64_u16
}

fn edit() -> impl Strategy<Value = Edit> + Clone {
    prop_oneof![
        10 => change(),
        4 => make(),
        2 => (pick(), pick(), name()).prop_map(|(from, folder, name)| Edit::Rename(from, folder, name)),
        2 => (pick(), pick(), name()).prop_map(|(from, folder, name)| Edit::Link(from, folder, name)),
    ]
}

fn make() -> impl Strategy<Value = Edit> + Clone {
    (pick(), name(), thing(), meta())
        .prop_map(|(folder, name, thing, meta)| Edit::Make(folder, name, thing, meta))
}

fn change() -> impl Strategy<Value = Edit> + Clone {
    let change = prop_oneof![
        3 => Just(Change::Remove),
        4 => (write(), any::<bool>()).prop_map(|(write, keeps_time)| Change::Write(write, keeps_time)),
        1 => mode().prop_map(Change::Mode),
        1 => owner().prop_map(|(uid, gid)| Change::Owner(uid, gid)),
        2 => time().prop_map(|(secs, nanos)| Change::Touch(secs, nanos)),
        2 => (select(&XATTRS[..]), value()).prop_flat_map(|(name, value)| {
            let value = attribute(name, value).1;
            option::of(Just(value)).prop_map(|value| Change::Attribute(Bytes(name.to_vec()), value))
        }),
    ];
    (pick(), change).prop_map(|(at, change)| Edit::Change(at, change))
}

fn name() -> impl Strategy<Value = Bytes> + Clone {
    let any_byte = prop_oneof![b'a'..=b'z', any::<u8>()];
    let name = prop_oneof![
        6 => select(&NAMES[..]).prop_map(<[u8]>::to_vec),
        2 => vec(any_byte, 1..12),
        1 => (any::<u8>(), 200..=255_usize).prop_map(|(byte, len)| vec![byte; len]),
    ];
    name.prop_map(|mut name| {
        for byte in &mut name {
            *byte = match *byte {
                0 => 1,
                b'/' => b'\\',
                byte => byte,
            };
        }
        if name == b"." || name == b".." || name.starts_with(b"\xfe\xfe") {
            name[0] = b'_';
        }
        Bytes(name)
    })
}

fn thing() -> impl Strategy<Value = Thing> + Clone {
    let target = prop_oneof![
        4 => select(&NAMES[..]).prop_map(<[u8]>::to_vec),
        2 => vec(1..=255_u8, 1..40),
        1 => (1..=255_u8, select(vec![255, 1000, 4095])).prop_map(|(byte, len)| vec![byte; len]),
    ];
    prop_oneof![
        8 => vec(piece(), 0..4).prop_map(|pieces| Thing::File(Pieces(pieces))),
        4 => Just(Thing::Folder),
        2 => target.prop_map(|target| Thing::Symlink(Bytes(target))),
        1 => Just(Thing::Fifo),
        1 => Just(Thing::Socket),
        1 => (0..300_u32, 0..70_000_u32).prop_map(|(major, minor)| Thing::Block(major, minor)),
        1 => (1..300_u32, 0..70_000_u32).prop_map(|(major, minor)| Thing::Char(major, minor)),
    ]
}

fn piece() -> impl Strategy<Value = Piece> + Clone {
    let len = || {
        prop_oneof![
            6 => 0..3000_u32,
            3 => 0..30_000_u32,
            // The longest are rare.
            3 => select(&LENGTHS[..11]),
            1 => select(&LENGTHS[..]),
            1 => 60_000..400_000_u32,
        ]
    };
    prop_oneof![
        4 => (0..4_u8, len()).prop_map(|(seed, len)| Piece::Random(seed, len)),
        2 => (0..4_u8, len()).prop_map(|(seed, len)| Piece::Text(seed, len)),
        1 => len().prop_map(Piece::Zeros),
        3 => prop_oneof![6 => 1..6_u8, 1 => 16..80_u8].prop_map(Piece::Hole),
    ]
}

fn write() -> impl Strategy<Value = Write> + Clone {
    prop_oneof![
        4 => (0..4_u8).prop_map(Write::Same),
        3 => (any::<u32>(), piece()).prop_map(|(at, piece)| Write::At(at, piece)),
        2 => piece().prop_map(Write::Append),
        2 => any::<u32>().prop_map(Write::Truncate),
        2 => (any::<u8>(), 1..8_u8).prop_map(|(first, count)| Write::Punch(first, count)),
    ]
}

fn meta() -> impl Strategy<Value = Meta> + Clone {
    let xattr = (select(&XATTRS[..]), value()).prop_map(|(name, value)| attribute(name, value));
    let odd = (mode(), owner(), option::of(time()), vec(xattr, 0..3));
    prop_oneof![
        Just(Meta { mode: 0o644, ..Meta::default() }),
        odd.prop_map(|(mode, owner, mtime, xattrs)| Meta { mode, owner, mtime, xattrs }),
    ]
}

fn mode() -> impl Strategy<Value = u16> + Clone {
    prop_oneof![3 => select(&MODES[..]), 1 => 0..=0o7777_u16]
}

fn owner() -> impl Strategy<Value = (u32, u32)> + Clone {
    (select(&OWNERS[..]), select(&OWNERS[..]))
}

fn time() -> impl Strategy<Value = (i64, u32)> + Clone {
    (select(&SECONDS[..]), prop_oneof![Just(0), Just(1), Just(999_999_999), 0..1_000_000_000_u32])
}

fn value() -> impl Strategy<Value = Vec<u8>> + Clone {
    vec(any::<u8>(), 0..40)
}

/// An attribute with a value that it can have.
fn attribute(name: &[u8], value: Vec<u8>) -> (Bytes, Bytes) {
    let value = match name {
        // All of one file must find room in a block.
        b"user.large" => vec![value.len().to_le_bytes()[0]; 2000],
        // VFS_CAP_REVISION_2 and effective; one that is permitted.
        CAPABILITY => {
            [0x0200_0001_u32, 1 << (value.len() % 32), 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()).collect()
        }
        _ => value,
    };
    (Bytes(name.to_vec()), Bytes(value))
}
