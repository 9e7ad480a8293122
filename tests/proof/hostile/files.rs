//! Packs, segments, snapshots, records and notices whose hashes and checksums are right and which say what is not so; and names of the
//! repository that are no files.

use std::fs;
use std::os::unix::fs::symlink as link;

use vault::codec::{self, Bytes};
use vault::field::Field;
use vault::header::Magic;
use vault::id::{ChunkId, ChunkKind, PackId};
use vault::index::Facts;
use vault::pack::{Location, PackKind};
use vault::repository::{RecordBody, RecordOuter, Scope};
use vault::snapshot::{Entry, Kind, Time};

use super::craft::{Case, Craft, Expects, Make, entry, file, pieces};
use crate::format::crafted::{Frame, Pack};

const fn case(name: &'static str, expects: Expects, make: Make) -> Case {
    Case { name, make, expects }
}

/// A snapshot of one file, whose bytes are in a pack that `change` has had a look at.
fn with_pack(craft: &mut Craft, change: impl FnOnce(&mut Pack)) -> PackId {
    let bytes = [8; 5000];
    let chunk = craft.keys.ids().chunk_id(ChunkKind::Data, &bytes);
    craft.root(vec![pieces("file", 5000, vec![vault::snapshot::Piece::Data(chunk, 5000)])]);
    let mut pack = Pack::new(&craft.keys);
    change(&mut pack);
    craft.pack(&pack)
}

/// What a directory says of a number at this place.
fn directory_says(directory: &mut [u8], at: usize, number: u32) {
    directory[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

pub const PACKS: [Case; 17] = [
    case("a directory that counts 2^32 chunks", Expects::Found(&["PACK-1"]), |craft| {
        with_pack(craft, |pack| pack.directory = |bytes| directory_says(bytes, 4, u32::MAX));
    }),
    case("a directory that counts 2^32 frames", Expects::Found(&["PACK-1"]), |craft| {
        with_pack(craft, |pack| pack.directory = |bytes| directory_says(bytes, 0, u32::MAX));
    }),
    case("a directory without chunks", Expects::Found(&["PACK-1"]), |craft| {
        with_pack(craft, |pack| pack.directory = |bytes| directory_says(bytes, 4, 0));
    }),
    case("frames that overlap", Expects::Found(&["PACK-3"]), |craft| {
        with_pack(craft, |pack| pack.directory = |bytes| directory_says(bytes, 8 + 16, 192));
    }),
    case("a frame beyond the end", Expects::Found(&["PACK-3", "FRAME-3"]), |craft| {
        with_pack(craft, |pack| {
            pack.directory = |bytes| {
                directory_says(bytes, 8 + 4, 20 << 20);
                directory_says(bytes, 8 + 8, 20 << 20);
            }
        });
    }),
    case("a chunk beyond its frame", Expects::Found(&["PACK-1", "PACK-2"]), |craft| {
        with_pack(craft, |pack| {
            pack.directory = |bytes| {
                let at = bytes.len() - 4;
                directory_says(bytes, at, u32::MAX);
            }
        });
    }),
    case("a directory that lies before the pack", Expects::Found(&["PACK-4"]), |craft| {
        with_pack(craft, |pack| {
            pack.tail = Box::new(|tail| tail[..16].copy_from_slice(&[0xff; 16]));
        });
    }),
    case("a directory of the whole pack", Expects::Found(&["PACK-4", "checksum", "PACK-1"]), |craft| {
        with_pack(craft, |pack| {
            pack.tail = Box::new(|tail| {
                let end = u64::from_le_bytes(tail[..8].try_into().unwrap());
                let len = u64::from_le_bytes(tail[8..16].try_into().unwrap());
                tail[..8].copy_from_slice(&0u64.to_le_bytes());
                tail[8..16].copy_from_slice(&(end + len).to_le_bytes());
            });
        });
    }),
    case("a frame of 4 GiB", Expects::Found(&["FRAME-3"]), |craft| {
        with_pack(craft, |pack| pack.frames[1].plain_len = u32::MAX);
    }),
    case("a frame of less than it holds", Expects::Found(&["FRAME-4", "PACK-1"]), |craft| {
        with_pack(craft, |pack| pack.frames[1].plain_len = 4000);
    }),
    case("a frame that decodes to more than it says itself", Expects::Found(&["FRAME-4"]), |craft| {
        let stored = runs(5009, 400);
        with_pack(craft, |pack| {
            pack.frames[1].stored = stored;
            pack.frames[1].plain_len = 5009;
        });
    }),
    case("a frame that looks back 2 TiB", Expects::Found(&["FRAME-4"]), |craft| {
        let mut stored = runs(30 << 20, 200);
        // The window: an exponent of 41.
        stored[5] = 0xf8;
        with_pack(craft, |pack| {
            pack.frames[1].stored = stored;
            pack.frames[1].plain_len = 30 << 20;
        });
    }),
    case("two zstd frames in one", Expects::Found(&["FRAME-4"]), |craft| {
        with_pack(craft, |pack| {
            let again = pack.frames[1].stored.clone();
            pack.frames[1].stored.extend(again);
        });
    }),
    case("a frame of 2^32 chunks", Expects::Found(&["FRAME-5"]), |craft| {
        with_pack(craft, |pack| pack.frames[0].stored[..4].copy_from_slice(&[0xff; 4]));
    }),
    case("a frame whose chunks are longer than it", Expects::Found(&["FRAME-5"]), |craft| {
        with_pack(craft, |pack| pack.frames[0].stored[5..9].copy_from_slice(&[0xff, 0xff, 0xff, 0]));
    }),
    case("a directory of a tree in a pack of data", Expects::Found(&["FRAME-5", "PACK-1"]), |craft| {
        let node = codec::encode(&vault::snapshot::TreeNode::Leaf(vec![file("passwd")]));
        let id = craft.keys.ids().chunk_id(ChunkKind::Tree, &node);
        with_pack(craft, |pack| {
            pack.frames[0] = Frame::raw(&vault::id::IdKeys::plain(), 0, &[(ChunkKind::Tree, &node)]);
            pack.frames[0].chunks[0].1 = *id.as_bytes();
        });
        craft.root(vec![entry("dir", 0o755, Kind::Directory(id))]);
    }),
    case(
        "the id of a directory on the bytes of a file",
        Expects::Found(&["FRAME-6", "PACK-2", "PACK-1"]),
        |craft| {
            let id = ChunkId::from_bytes([5; 32]);
            with_pack(craft, |pack| pack.frames[1].chunks[0].1 = *id.as_bytes());
            craft.root(vec![
                entry("dir", 0o755, Kind::Directory(id)),
                pieces("file", 5000, vec![vault::snapshot::Piece::Data(id, 5000)]),
            ]);
        },
    ),
];

/// A zstd frame that says it has so many bytes, and has so many runs of 128 KiB.
fn runs(says: u32, runs: usize) -> Vec<u8> {
    let mut stored = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1000_0000, 0x50];
    stored.extend(says.to_le_bytes());
    for number in 1..=runs {
        let block = (128 << 10 << 3) | (1 << 1) | u32::from(number == runs);
        stored.extend(&block.to_le_bytes()[..3]);
        stored.push(0);
    }
    stored
}

/// A segment that says something else of each chunk of the repository.
fn lying(craft: &mut Craft, change: impl Fn(&mut Location)) {
    craft.root(vec![file("file")]);
    craft.publish();
    let repository = crate::support::repository::open(std::sync::Arc::new(vault::backend::LocalFolder::new(
        craft.path(""),
    )))
    .unwrap();
    let reader = repository.reader().unwrap();
    let (mut facts, mut all) = (Facts::default(), Vec::new());
    let mut rows = Vec::new();
    for segment in reader.index().segments() {
        segment.for_each(|fact| all.push(fact)).unwrap();
        rows.extend(segment.packs().iter().map(|row| (row.pack, row.stored_len, row.kind)));
    }
    for (pack, len, kind) in rows {
        let of_pack = all.iter().filter(|(_, location)| location.pack == pack).map(|(id, location)| {
            let mut location = *location;
            change(&mut location);
            (*id, location)
        });
        facts.add_pack(pack, len.into(), PackKind::from_number(kind).unwrap(), of_pack);
    }
    fs::remove_dir_all(craft.path("index")).unwrap();
    fs::create_dir(craft.path("index")).unwrap();
    craft.segment(facts);
}

/// A record of some kind about some ids.
fn record(craft: &Craft, kind: u32, must_understand: bool, ids: Vec<[u8; 32]>) {
    let outer = RecordOuter { kind, must_understand, scope: Scope::AllCopies, ids };
    let created = Time { secs: i64::MIN, nanos: 0 };
    let (host, reason) = ("\u{1b}]0;evil\u{7}".to_owned(), "\u{1b}[2J".to_owned());
    let body = RecordBody { created, host, reason, fields: Vec::new() };
    craft.object("records", Magic::Record, &codec::encode(&outer), &codec::encode(&body));
}

const ANY: Expects = Expects::Found(&["index/", "packs/", "missing", "damage"]);

pub const OTHER_FILES: [Case; 17] = [
    case("a segment that says all frames are elsewhere", ANY, |craft| {
        lying(craft, |location| location.frame_offset = u32::MAX - 63);
    }),
    case("a segment that says all frames have 4 GiB", ANY, |craft| {
        lying(craft, |location| location.frame_stored_len = u32::MAX);
    }),
    case("a segment that says all chunks have 4 GiB", ANY, |craft| {
        lying(craft, |location| (location.offset, location.len) = (u32::MAX, u32::MAX));
    }),
    case("a segment that says data is trees and trees are data", ANY, |craft| {
        lying(craft, |location| {
            location.kind = match location.kind {
                ChunkKind::Data => ChunkKind::Tree,
                _ => ChunkKind::Data,
            };
        });
    }),
    case("a segment of a pack of 4 GiB that is not there", Expects::Harmless, |craft| {
        let mut facts = Facts::default();
        let pack = PackId::from_bytes([7; 32]);
        let location = Location {
            pack,
            frame_offset: 192,
            frame_stored_len: 100,
            offset: 9,
            len: 50,
            kind: ChunkKind::Data,
        };
        let facts_of = (0..100_000u32).map(|number| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            (ChunkId::from_bytes(id), location)
        });
        facts.add_pack(pack, u32::MAX.into(), PackKind::Data, facts_of);
        craft.segment(facts);
    }),
    case("a segment that is only a header", Expects::Found(&["index/"]), |craft| {
        craft.object("index", Magic::Segment, &[], &[0xff; 100]);
    }),
    case("a root that is a file", Expects::Refused(&["SNAP-2"]), |craft| craft.snapshot.root = file("")),
    case("a root with a name", Expects::Refused(&["SNAP-2"]), |craft| {
        craft.snapshot.root = Entry { name: b"..".as_slice().into(), ..craft.snapshot.root.clone() };
    }),
    case("a source that is stored above the root", Expects::Refused(&["SNAP-3"]), |craft| {
        craft.root(vec![file("file")]);
        craft.snapshot.sources[0].stored_at = b"../victim".as_slice().into();
    }),
    case("a snapshot that is no structure", Expects::Refused(&["snapshots/"]), |craft| {
        craft.publish_nothing();
        craft.snapshot_of(&[0xff; 1000]);
    }),
    case("a snapshot that is a copy of nothing", Expects::Refused(&["SNAP-4"]), |craft| {
        craft.root(vec![file("file")]);
        craft.snapshot.fields = vec![Field { tag: 2, critical: false, value: Bytes::from(b"x".as_slice()) }];
    }),
    case("records that forget, hold and undo everything", Expects::Harmless, |craft| {
        let ids: Vec<[u8; 32]> = (0..200_000u32)
            .map(|number| {
                let mut id = [0; 32];
                id[..4].copy_from_slice(&number.to_be_bytes());
                id
            })
            .collect();
        for kind in [1, 2, 3, 5, 6] {
            record(craft, kind, true, ids.clone());
        }
    }),
    case("a record that says each pack is damaged", Expects::Harmless, |craft| {
        craft.root(vec![file("file")]);
        craft.publish();
        let mut ids = Vec::new();
        for folder in fs::read_dir(craft.path("packs")).unwrap() {
            for pack in fs::read_dir(folder.unwrap().path()).unwrap() {
                let name = pack.unwrap().file_name().into_string().unwrap();
                ids.push(*PackId::from_hex(&name).unwrap().as_bytes());
            }
        }
        record(craft, 6, true, ids);
    }),
    case("a record that is no structure", Expects::Found(&["records/"]), |craft| {
        craft.object("records", Magic::Record, &[0xff; 50], &[0xff; 50]);
    }),
    case("notices of nobody", Expects::Harmless, |craft| {
        for folder in ["sessions", "marks"] {
            for (name, bytes) in [
                ("00000000-00000000-1-1-00000000-0", &b""[..]),
                ("ffffffff-ffffffff-99999999999999999999-1-ffffffff-18446744073709551616", b"VLTSESSN"),
                ("..", b"x"),
                ("\u{1b}[2J", b"x"),
            ] {
                // Not all of these can be made.
                let _ = fs::write(craft.path(folder).join(name), bytes);
            }
        }
    }),
    case("links and FIFOs in the place of files", Expects::Harmless, |craft| {
        let victim = craft.path("../arena/victim/passwd");
        let id = "0".repeat(64);
        for folder in ["index", "snapshots", "records", "packs/00", "keys"] {
            let _ = fs::create_dir(craft.path(folder));
            link(&victim, craft.path(folder).join(&id)).unwrap();
            let fifo = craft.path(folder).join(format!("00{}", "1".repeat(62)));
            rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        }
        for name in ["tmp", "sessions", "marks"] {
            let left_over = "00000000-00000000-1-1-00000000-0";
            link(&victim, craft.path(name).join(left_over)).unwrap();
            link(craft.path("../arena/victim/folder"), craft.path(name).join(format!("{left_over}1")))
                .unwrap();
        }
        link(&victim, craft.path("reserve-2")).unwrap();
        fs::remove_file(craft.path("reserve")).unwrap();
        link(&victim, craft.path("reserve")).unwrap();
    }),
    case("a config that is a FIFO", Expects::Harmless, |craft| {
        craft.publish();
        fs::remove_file(craft.path("config.2")).unwrap();
        let fifo = craft.path("config.2");
        rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    }),
];
