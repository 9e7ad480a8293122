//! What is a hole of a file, and what is not.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{FallocateFlags, XattrFlags};

use crate::support::mount::{FileSystem, Mount};
use crate::support::needs::needs;

use super::{find, folder, put};

#[test]
fn holes_are_found_and_dense_files_are_one_extent() {
    let root = folder();
    let path = root.path().join("sparse");
    let mut file = fs::File::create(&path).expect("made");
    let size = 100 << 30;
    file.set_len(size).expect("grown");
    for offset in [1 << 20, 50 << 30] {
        file.seek(SeekFrom::Start(offset)).expect("sought");
        file.write_all(&vec![7; 65536]).expect("written");
    }
    put(&root.path().join("dense"), &vec![1; 100_000]);
    put(&root.path().join("empty"), b"");
    let extents = |name: &[u8], size| -> Vec<_> {
        let file = find(root.path(), name).open().expect("opened");
        file.extents(size, false).map(|extent| extent.expect("an extent")).collect()
    };
    assert_eq!(extents(b"sparse", size), [(1 << 20)..(1 << 20) + 65536, (50 << 30)..(50 << 30) + 65536]);
    assert_eq!(extents(b"sparse", (1 << 20) + 5).first(), Some(&((1 << 20)..(1 << 20) + 5)));
    assert_eq!(extents(b"dense", 100_000), vec![0..100_000]);
    assert!(extents(b"empty", 0).is_empty());
    let dense = find(root.path(), b"dense").open().expect("opened");
    let mut buffer = [0; 64];
    assert_eq!(dense.read_at(&mut buffer, 99_990).expect("read"), 10);
    assert_eq!((buffer[9], buffer[10]), (1, 0));
}

#[test]
fn a_hole_is_found_where_other_blocks_of_the_file_make_up_for_it() {
    needs!("ext4");
    // Smaller ones have smaller blocks, in which the attributes find no room.
    let disk = Mount::new(FileSystem::Ext4, 600);
    let make = |name: &str, len| {
        let mut file = fs::File::create(disk.join(name)).expect("made");
        file.set_len(len).expect("grown");
        file.seek(SeekFrom::Start(4096)).expect("sought");
        file.write_all(&[7; 4096]).expect("written");
        file
    };
    // Attributes that take a block; blocks that are reserved behind the end.
    let attributes = make("attributes", 8192);
    let value = [1; 2000];
    rustix::fs::fsetxattr(&attributes, "user.large", &value, XattrFlags::empty()).expect("set");
    let reserved = make("reserved", 65536);
    let keep = FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&reserved, keep, 65536, 1 << 20).expect("reserved");
    for (name, has_xattrs, file) in [("attributes", true, attributes), ("reserved", false, reserved)] {
        let size = file.metadata().expect("looked at").len();
        assert!(file.metadata().expect("looked at").blocks() * 512 >= size, "{name}");
        let opened = find(&disk.path(), name.as_bytes()).open().expect("opened");
        let extents: Vec<_> =
            opened.extents(size, has_xattrs).map(|extent| extent.expect("an extent")).collect();
        assert_eq!(extents, vec![4096..8192], "{name}");
    }
}
