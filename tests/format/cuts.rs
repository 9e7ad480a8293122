//! `[CUT-5]`, `[CUT-6]`: what is a stream, and what is none.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::XattrFlags;
use vault::backend::LocalFolder;
use vault::backup::{BackupOptions, backup};
use vault::chunk::Chunker;
use vault::event::{Observer, Silent};
use vault::id::ChunkKind;
use vault::repository::Repository;
use vault::snapshot::list::Pieces;
use vault::snapshot::tree::Entries;
use vault::snapshot::{Content, Entry, Kind, Piece};

use crate::support::repository;
use crate::support::scratch::Scratch;
use crate::support::torture::Random;

/// The entries of a snapshot of the folder `source`, and the repository.
fn saved(at: &Scratch) -> (Repository, Vec<Entry>) {
    let backend: Arc<dyn vault::backend::Backend> = Arc::new(LocalFolder::new(at.join("repository")));
    repository::init(&*backend).unwrap();
    let repository = repository::open(backend).unwrap();
    let mut options = BackupOptions::new(vec![at.join("source")]);
    options.as_path = Some(b"s".to_vec());
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    let id = backup(&repository, options, &observer, &AtomicBool::new(false)).unwrap().snapshot.unwrap();
    let reader = repository.reader().unwrap();
    let root = repository.snapshot(&id).unwrap().root.kind.directory().unwrap();
    let top = Entries::new(&reader, root).next().unwrap().unwrap().kind.directory().unwrap();
    let entries = Entries::new(&reader, top).map(Result::unwrap).collect();
    (repository, entries)
}

#[test]
fn cut_5_each_extent_between_holes_is_cut_on_its_own() {
    let at = Scratch::new();
    let extents = [(0, 3 << 20), (16 << 20, (2 << 20) + 4096), (40 << 20, 4096)];
    let file = File::create(at.dir("source").join("file")).unwrap();
    for (number, (start, len)) in (0..).zip(extents) {
        file.write_all_at(&Random(number).bytes(len), start).unwrap();
    }
    let size = 64 << 20;
    file.set_len(size).unwrap();
    let (repository, entries) = saved(&at);
    let Kind::File(found, content) = &entries[0].kind else { panic!("{entries:?}") };
    assert_eq!(*found, size);
    let chunker =
        Chunker::new(repository.config().chunker, repository.keys().gear().map(|gear| &**gear)).unwrap();
    let (mut wanted, mut end) = (Vec::new(), 0);
    for (number, (start, len)) in (0..).zip(extents) {
        wanted.extend((start > end).then(|| Piece::Hole(start - end)));
        end = start + len as u64;
        let bytes = Random(number).bytes(len);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(chunker.cut(rest));
            let id = repository.keys().ids().chunk_id(ChunkKind::Data, chunk);
            wanted.push(Piece::Data(id, u32::try_from(chunk.len()).unwrap()));
            rest = behind;
        }
    }
    wanted.push(Piece::Hole(size - end));
    let reader = repository.reader().unwrap();
    let pieces: Vec<Piece> = Pieces::new(&reader, content, size).map(Result::unwrap).collect();
    assert_eq!(pieces, wanted);
}

#[test]
fn cut_6_short_contents_and_values_stand_in_the_entry() {
    let at = Scratch::new();
    let source = at.dir("source");
    let lengths = [("a", 0, 1), ("b", 1023, 4095), ("c", 1024, 4096), ("d", 1025, 4097)];
    for (name, len, value_len) in lengths {
        fs::write(source.join(name), Random(1).bytes(len)).unwrap();
        let value = Random(2).bytes(value_len);
        // ext4 keeps attributes in one block: where the value is too long for it, there is none to look at.
        let _ = rustix::fs::setxattr(source.join(name), "user.value", &value, XattrFlags::empty());
    }
    let (_, entries) = saved(&at);
    assert_eq!(entries.len(), lengths.len());
    for (entry, (name, len, value_len)) in entries.iter().zip(lengths) {
        let Kind::File(size, content) = &entry.kind else { panic!("{entry:?}") };
        assert_eq!(*size, len as u64);
        assert_eq!(matches!(content, Content::Inline(_)), len <= 1024, "{name}");
        for xattr in &entry.meta.xattrs {
            assert_eq!(matches!(&xattr.value, Content::Inline(_)), value_len <= 4096, "the value of {name}");
        }
    }
    assert!(!entries[0].meta.xattrs.is_empty());
}
