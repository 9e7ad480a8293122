//! Threads that list ahead of a walk: what they do shows in its cost only.

use std::collections::HashSet;
use std::mem::MaybeUninit;

use rustix::fs::inotify;
use vault::source::{Step, WalkOptions};

use super::filter::excluding;
use super::{folder, line, lines, put, walk};

#[test]
fn a_wide_and_a_long_directory_are_the_same_with_and_without_threads_ahead() {
    let root = folder();
    for number in 0..60 {
        for inner in 0..10 {
            put(&root.path().join(format!("{number}/{inner}/file")), b"");
        }
    }
    for number in 0..5000 {
        put(&root.path().join(format!("7/long/{number}")), b"");
    }
    let steps = |ahead| {
        let options = WalkOptions { ahead, ..WalkOptions::default() };
        let steps = walk(root.path(), &options).map(|step| match &step {
            Step::Enter(found) | Step::Entry(found) => (line(&step), Some((found.path(), found.stat))),
            _ => (line(&step), None),
        });
        steps.collect::<Vec<_>>()
    };
    let alone = steps(0);
    assert_eq!(alone.len(), 2 + 60 * 2 + 600 * 3 + 2 + 5000);
    for ahead in [1, 2, 3] {
        assert!(steps(ahead) == alone, "{ahead} threads ahead");
    }
    // One that ends early ends its threads.
    let mut broken_off = walk(root.path(), &WalkOptions { ahead: 2, ..WalkOptions::default() });
    assert!(broken_off.nth(50).is_some());
}

#[test]
fn what_is_left_out_is_not_opened_ahead() {
    let root = folder();
    for name in ["a", "b", "left-out", "z"] {
        put(&root.path().join(name).join("file"), b"");
    }
    let opened = inotify::init(inotify::CreateFlags::NONBLOCK).expect("a watch");
    for name in ["left-out", "z"] {
        let flags = inotify::WatchFlags::OPEN;
        inotify::add_watch(&opened, root.path().join(name), flags).expect("watched");
    }
    let all = lines(root.path(), &excluding(&["left-out"]));
    assert!(all.contains(&"left-out: Excluded".to_owned()), "{all:?}");
    let mut buffer = vec![MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&opened, &mut buffer);
    let mut watched = HashSet::new();
    while let Ok(event) = events.next() {
        watched.insert(event.wd());
    }
    assert_eq!(watched.len(), 1, "only z");
}
