//! The golden repositories, `spec/vectors/v1/repository.tar` and, encrypted, `encrypted.tar`: written once by the program, read by it and
//! by `reader.py` ever after. `encrypted.txt` has a passphrase and the recovery key of the encrypted one.
//!
//! What is in both stands in `repository.txt`, one line for each entry. The same lines are made from the tree as the
//! program reads it, and from the files as `reader.py` restores them.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use vault::backend::LocalFolder;
use vault::chunk::{Chunker, ChunkerParams, GetChunk, PutChunk};
use vault::event::Silent;
use vault::id::{ChunkId, ChunkKind, IdKeys, hash};
use vault::repository::{InitOptions, Kdf, NewKey, Repository, WriteOptions, Writer};
use vault::snapshot::list::{ListWriter, Pieces};
use vault::snapshot::tree::{Entries, TreeWriter};
use vault::snapshot::{Content, Entry, Kind, Meta, Piece, Snapshot, Source, State, Time, Why, Xattr};

use super::vectors::{bytes, hex, lcg};
use super::{bless, package, reader, text};
use crate::support::needs::needs;
use crate::support::scratch::remove_tree;

const PLAIN: &str = "spec/vectors/v1/repository.tar";
const ENCRYPTED: &str = "spec/vectors/v1/encrypted.tar";
const SECRETS: &str = "spec/vectors/v1/encrypted.txt";
/// With more than one lane, which vault reads and does not write.
const KDF: Kdf = Kdf { memory_kib: 1024, passes: 2, lanes: 2 };
const MANIFEST: &str = "spec/vectors/v1/repository.txt";
const CHUNKER: ChunkerParams =
    ChunkerParams { min_len: 1024, avg_len: 4096, max_len: 16384, normalization: 2 };

fn entry(name: &[u8], kind: Kind) -> Entry {
    let mode = if kind.directory().is_some() { 0o755 } else { 0o640 };
    let mtime = Time { secs: 1_600_000_000, nanos: 987_654_321 };
    Entry { name: bytes(name), kind, meta: Meta { mode, mtime, ..Meta::default() }, fields: Vec::new() }
}

fn content(put: &dyn PutChunk, extents: &[(u64, &[u8])]) -> Content {
    // How files are cut is no rule for readers: it is done here as in a plain repository.
    let chunker = Chunker::new(CHUNKER, None).unwrap();
    let mut list = ListWriter::new(put);
    for (hole, data) in extents {
        list.push(Piece::Hole(*hole)).unwrap();
        let mut rest = *data;
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(chunker.cut(rest));
            let id = put.put(ChunkKind::Data, chunk).unwrap();
            list.push(Piece::Data(id, u32::try_from(chunk.len()).unwrap())).unwrap();
            rest = behind;
        }
    }
    list.finish().unwrap()
}

fn file(name: &[u8], put: &dyn PutChunk, extents: &[(u64, &[u8])]) -> Entry {
    let size = extents.iter().map(|(hole, data)| hole + data.len() as u64).sum();
    entry(name, Kind::File(size, content(put, extents)))
}

fn directory(put: &dyn PutChunk, mut entries: Vec<Entry>) -> ChunkId {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let mut tree = TreeWriter::new(put);
    for entry in entries {
        tree.push(&entry).unwrap();
    }
    tree.finish().unwrap()
}

/// One of everything that any user can restore.
fn root(put: &dyn PutChunk, keys: &IdKeys) -> ChunkId {
    let noise: Vec<u8> = lcg(1).take(120_000).collect();
    let many = (0..600)
        .map(|n| entry(format!("file {n:03}").as_bytes(), Kind::File(1, Content::Inline(bytes(b"x")))))
        .collect();
    let mut linked = file(b"linked a", put, &[(0, &noise[..5000])]);
    linked.meta.link_group = Some(keys.link_group(b"/", 7));
    let second = Entry { name: bytes(b"linked b"), ..linked.clone() };
    let mut attributes = entry(b"attributes", Kind::File(3, Content::Inline(bytes(b"abc"))));
    let long = put.put(ChunkKind::Data, &noise[..1500]).unwrap();
    attributes.meta.mode = 0o4755;
    attributes.meta.xattrs = vec![
        Xattr { name: bytes(b"user.long"), value: Content::Pieces(vec![Piece::Data(long, 1500)]) },
        Xattr { name: bytes(b"user.short"), value: Content::Inline(bytes(b"\0\xff")) },
    ];
    let mut old = entry(b"before 1970", Kind::Fifo);
    old.meta.mtime = Time { secs: -1_000_000_001, nanos: 1 };
    let mut late = entry(b"after 2106", Kind::Socket);
    late.meta.mtime = Time { secs: 5_000_000_000, nanos: 999_999_999 };
    directory(
        put,
        vec![
            entry(b"empty", Kind::File(0, Content::Inline(bytes(b"")))),
            entry(b"empty folder", Kind::Directory(directory(put, Vec::new()))),
            file(b"a few pieces", put, &[(0, &noise[..20_000])]),
            file(b"many pieces", put, &[(0, &noise)]),
            file(b"holes", put, &[(1 << 20, &noise[..3000]), (5 << 20, &noise[9000..9001]), (1 << 33, b"")]),
            file(b"zeros", put, &[(0, &[0; 100_000])]),
            entry(b"link \xff", Kind::Symlink(bytes(b"/nowhere/\xfe"))),
            entry(b"many", Kind::Directory(directory(put, many))),
            Entry { meta: Meta::default(), ..entry(b"left out", Kind::LeftOut(Why::Unreadable, 13)) },
            linked,
            second,
            attributes,
            old,
            late,
        ],
    )
}

fn write(place: &Path, passphrase: Option<&str>) {
    let backend = LocalFolder::new(place);
    let key = passphrase.map(|passphrase| NewKey {
        kdf: KDF,
        name: "golden".into(),
        ..NewKey::new(passphrase.as_bytes())
    });
    let options = InitOptions { chunker: CHUNKER, name: "golden".into(), key };
    Repository::init(&backend, &options).unwrap();
    let repository = open(place, passphrase);
    let mut writer: Writer = repository.writer(&WriteOptions::new(Arc::new(Silent))).unwrap();
    let root = root(&writer, repository.keys().ids());
    let home = directory(&writer, vec![entry(b"me", Kind::Directory(root))]);
    writer.finish().unwrap();
    let implied = Entry { meta: Meta::default(), ..entry(b"", Kind::Implied(home)) };
    let (start, end) = (Time { secs: 1_700_000_000, nanos: 0 }, Time { secs: 1_700_000_060, nanos: 0 });
    let source = Source {
        origin: "golden".into(),
        given: bytes(b"me"),
        resolved: bytes(b"/me"),
        stored_at: bytes(b"me"),
        carried: Vec::new(),
        users: vec![(0, bytes(b"root"))],
        groups: vec![(0, bytes(b"root"))],
    };
    let snapshot = Snapshot {
        state: State::Complete,
        root: implied,
        notes: None,
        sources: vec![source],
        label: String::new(),
        tags: Vec::new(),
        description: "one of everything".into(),
        host: "golden".into(),
        host_id: [0; 16],
        user: "root".into(),
        program: "vault 0.1.0".into(),
        start,
        end,
        utc_offset_secs: 3600,
        predecessor: None,
        made_from: Vec::new(),
        counters: Vec::new(),
        fields: Vec::new(),
    };
    writer.publish_snapshot(&snapshot).unwrap();
}

/// What is compared of an entry: its kind, mode, time, content and attributes.
fn line(
    path: &[u8],
    what: &str,
    mode: u32,
    (secs, nanos): (i64, i64),
    xattrs: &[(Vec<u8>, Vec<u8>)],
    out: &mut Vec<String>,
) {
    let mut line = format!("{} {what} {mode:04o} {secs}.{nanos:09}", path.escape_ascii());
    for (name, value) in xattrs {
        write!(line, " {}={}", name.escape_ascii(), &hex(&hash(value))[..16]).unwrap();
    }
    out.push(line);
}

/// The bytes of a content, holes as zeros; a hole at the end is only counted.
fn read(get: &dyn GetChunk, size: u64, content: &Content) -> Vec<u8> {
    if let Content::Inline(bytes) = content {
        return bytes.to_vec();
    }
    let mut out = Vec::new();
    let mut end = 0;
    for piece in Pieces::new(get, content, size) {
        let piece = piece.unwrap();
        end += piece.len();
        if let Piece::Data(id, _) = piece {
            let chunk = get.get(ChunkKind::Data, &id).unwrap();
            out.resize(usize::try_from(end).unwrap() - chunk.len(), 0);
            out.extend(chunk);
        }
    }
    out
}

fn file_line(size: u64, data: &[u8]) -> String {
    let end = data.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    format!("file {size} {}", &hex(&hash(&data[..end]))[..16])
}

/// The tree as the program reads it.
fn stored(get: &dyn GetChunk, root: ChunkId, above: &[u8], out: &mut Vec<String>) {
    for entry in Entries::new(get, root) {
        let entry = entry.unwrap();
        let path = [above, &entry.name].concat();
        let what = match &entry.kind {
            Kind::Directory(_) | Kind::Implied(_) => "directory".to_owned(),
            Kind::File(size, content) => file_line(*size, &read(get, *size, content)),
            Kind::Symlink(target) => format!("symlink {}", target.escape_ascii()),
            Kind::LeftOut(..) => continue,
            other => format!("{other:?}").to_lowercase(),
        };
        let value = |xattr: &Xattr| (xattr.name.to_vec(), read(get, 0, &xattr.value));
        let xattrs: Vec<_> = entry.meta.xattrs.iter().map(value).collect();
        let mode = if matches!(entry.kind, Kind::Symlink(_)) { 0o777 } else { entry.meta.mode };
        let Time { secs, nanos } = entry.meta.mtime;
        line(&path, &what, mode, (secs, nanos.into()), &xattrs, out);
        if let Kind::Directory(node) = entry.kind {
            stored(get, node, &[&path, b"/".as_slice()].concat(), out);
        }
    }
}

/// The tree as it was restored.
fn restored(folder: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for found in walkdir::WalkDir::new(folder).min_depth(1).sort_by_file_name() {
        let found = found.unwrap();
        let (path, metadata) = (found.path(), found.path().symlink_metadata().unwrap());
        let kind = metadata.file_type();
        let what = if kind.is_dir() {
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("symlink {}", fs::read_link(path).unwrap().as_os_str().as_bytes().escape_ascii())
        } else if kind.is_file() {
            let data = if metadata.len() > 1 << 32 { read_begin(path) } else { fs::read(path).unwrap() };
            file_line(metadata.len(), &data)
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            "socket".to_owned()
        };
        let name = path.strip_prefix(folder).unwrap().as_os_str().as_bytes();
        let times = (metadata.mtime(), metadata.mtime_nsec());
        line(name, &what, metadata.mode() & 0o7777, times, &attributes(path, kind.is_file()), &mut out);
    }
    out
}

/// The first MiB of a large file: what is behind it is a hole, as the test of its blocks says.
fn read_begin(path: &Path) -> Vec<u8> {
    use std::io::Read as _;
    let mut data = Vec::new();
    File::open(path).unwrap().take(7 << 20).read_to_end(&mut data).unwrap();
    assert!(path.metadata().unwrap().blocks() < 2048, "its holes are not holes");
    data
}

fn attributes(path: &Path, is_file: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    if !is_file {
        return Vec::new();
    }
    ["user.long", "user.short"]
        .iter()
        .filter_map(|name| {
            let mut value = vec![0; 65536];
            let len = rustix::fs::getxattr(path, *name, value.as_mut_slice()).ok()?;
            value.truncate(len);
            Some((name.as_bytes().to_vec(), value))
        })
        .collect()
}

/// The lines of `encrypted.txt`: passphrase, recovery key.
fn secrets() -> (String, String) {
    let text = text(SECRETS);
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    (value("passphrase: "), value("recovery key: "))
}

fn open(place: &Path, secret: Option<&str>) -> Repository {
    let mut repository = Repository::open(Arc::new(LocalFolder::new(place))).unwrap();
    if let Some(secret) = secret {
        repository.unlock(secret.as_bytes(), None).unwrap();
    }
    repository
}

fn unpacked(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    if bless() && !package().join(name).exists() {
        let made = folder.path().join("made");
        let passphrase = "gr\u{fc}n wie die Hoffnung";
        let passphrase = (name == ENCRYPTED).then_some(passphrase);
        write(&made, passphrase);
        if let Some(passphrase) = passphrase {
            let recovery = open(&made, Some(passphrase)).recovery_key().unwrap();
            let text = format!("passphrase: {passphrase}\nrecovery key: {}\n", *recovery);
            fs::write(package().join(SECRETS), text).unwrap();
        }
        let mut archive = tar::Builder::new(File::create(package().join(name)).unwrap());
        archive.mode(tar::HeaderMode::Deterministic);
        archive.append_dir_all("repository", &made).unwrap();
        archive.finish().unwrap();
        fs::remove_dir_all(made).unwrap();
    }
    tar::Archive::new(File::open(package().join(name)).unwrap()).unpack(folder.path()).unwrap();
    folder
}

#[test]
fn the_golden_repository_is_read() {
    needs!("python3 with the packages of spec/reader.py");
    let folder = unpacked(PLAIN);
    is_read(&folder, &open(&folder.path().join("repository"), None), None);
}

#[test]
fn key_1_key_5_the_encrypted_golden_repository_is_read_with_its_passphrase_and_with_its_recovery_key() {
    needs!("python3 with the packages of spec/reader.py");
    let folder = unpacked(ENCRYPTED);
    let (passphrase, recovery) = secrets();
    for secret in [&passphrase, &recovery] {
        let repository = open(&folder.path().join("repository"), Some(secret));
        assert_eq!(*repository.recovery_key().unwrap(), recovery);
        is_read(&folder, &repository, Some(secret));
    }
}

/// Holds the repository in the folder against the manifest, as the program reads it and as `reader.py` restores it.
fn is_read(folder: &tempfile::TempDir, repository: &Repository, secret: Option<&str>) {
    assert!(repository.problems().is_empty());
    let snapshots = repository.snapshots().unwrap();
    let reader = repository.reader().unwrap();
    assert!(reader.problems().is_empty());
    let mut lines = Vec::new();
    for (_, snapshot) in snapshots {
        stored(&reader, snapshot.unwrap().root.kind.directory().unwrap(), b"", &mut lines);
    }
    lines.sort();
    let wanted = lines.join("\n") + "\n";
    if bless() {
        fs::write(package().join(MANIFEST), &wanted).unwrap();
    }
    assert_eq!(text(MANIFEST), wanted);

    // The same by Python, which shares no code with it.
    let python = reader::python();
    let (from, to) = (folder.path().join("repository"), folder.path().join("restored"));
    let run = |args: &[&OsStr]| {
        let mut command = reader::command(&python, args);
        command.envs(secret.map(|secret| ("VAULT_PASSPHRASE", secret)));
        reader::assert_done(&command.output().unwrap());
    };
    run(&[OsStr::new("reader.py"), from.as_os_str(), "verify".as_ref()]);
    remove_tree(&to).unwrap();
    run(&[OsStr::new("reader.py"), from.as_os_str(), "restore".as_ref(), "latest".as_ref(), to.as_os_str()]);
    let mut lines = restored(&to);
    lines.sort();
    assert_eq!(lines.join("\n") + "\n", wanted);
    let linked = |name: &str| to.join("me").join(name).metadata().unwrap().ino();
    assert_eq!(linked("linked a"), linked("linked b"));
}
