//! `vault snapshot` of what is not as it should be: attributes that cannot be read or are too many, files that say less than
//! they hold, sources that are missing or very many, and file systems that keep a change to themselves.

use std::path::Path;

use super::World;
use crate::support::needs::needs;

/// Until what was written before is older than the clocks' grain, so that the next snapshot may believe the stamps of this one.
fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(3200));
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 65536];
    let len = rustix::fs::getxattr(path, name, value.as_mut_slice()).unwrap();
    value.truncate(len);
    value
}

#[test]
fn attributes_that_could_not_be_read_are_read_the_next_time() {
    needs!("strace");
    let world = World::new();
    let named = ["a.txt", "dir/b.bin"];
    for name in named {
        set_xattr(&world.src().join(name), "user.k", b"v");
    }
    settle();
    let src = world.path("src");
    let failing =
        ["strace", "-f", "-o", "/dev/null", "-e", "trace=lgetxattr", "-e", "inject=lgetxattr:error=EIO"];
    let args = ["snapshot", src.as_str(), "-q"];
    let lamed = world.vault.start(world.vault.command_under(&failing, &args)).wait();
    lamed.code(3).says("cannot read the extended attributes of");
    world.run(&args).ok();
    world.run(&["restore", &world.latest("src"), "--target", &world.path("out"), "-q"]).ok();
    for name in named {
        assert_eq!(xattr(&world.vault.join("out").join(name), "user.k"), b"v", "{name}");
    }
}
