//! Sources that are written to while they are saved. What was left alone is in the snapshot whatever went on around it; what was written to
//! is in it as it was at some moment, or the run says that it is not; and the next snapshot has what is there.

mod edits;
mod load;
mod pattern;
mod scene;
mod seen;
mod stuck;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::{Counts, is_nightly};
use crate::support::manifest::{Aspect, Manifest};
use crate::support::mount::{FileSystem, Mount};
use crate::support::needs::needs;
use crate::support::torture::Random;
use crate::support::vault::Vault;
use crate::whole::world::{World, quiet};

use load::{Load, Maps};
use scene::{How, Scene};
use seen::{Item, Seen};

/// A wrapper under which each read takes two milliseconds more.
const DELAYED: [&str; 9] =
    ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64", "-e", "inject=pread64:delay_exit=2000"];
/// How many rounds there are in all.
const NIGHTLY_ROUNDS: usize = 60;

/// A source on a file system of its own, and the program beside it.
struct Live {
    world: World,
    scene: Scene,
    maps: Option<Maps>,
    _mount: Mount,
}

impl Live {
    fn new(kind: FileSystem) -> Self {
        let mount = Mount::new(kind, 400);
        let vault = Vault::new();
        let repository = vault.join("repository");
        let world = World::at(vault, mount.join("source"), repository);
        // Who waits for a second to pass, of each file that is written to, must not have many.
        let each = if kind == FileSystem::Ext3 { 2 } else { 8 };
        let mut scene = Scene::new(&world.source, each);
        // In memory nobody can tell that a map was written to.
        let maps = (kind != FileSystem::Tmpfs).then(|| {
            for number in 0..3 {
                scene.add(format!("03-still/{number:02}-mapped"), How::Mapped);
            }
            Maps::new(&scene, world.vault.path())
        });
        world.snapshot(&[]);
        Self { world, scene, maps, _mount: mount }
    }

    /// Takes a snapshot while the source changes.
    fn snapshot_under_load(&mut self, seed: u64) -> (Seen, u64) {
        let mut random = Random(seed);
        let load = Load::start(&self.scene, seed);
        self.maps.iter_mut().for_each(Maps::go);
        std::thread::sleep(Duration::from_micros(random.next() % 100_000));
        // At its own pace, slowly, and so that much happens between a read and what is asked after it.
        let (wrapper, more): (&[&str], &[&str]) = match seed % 3 {
            0 => (&[], &[]),
            1 => (&DELAYED, &[]),
            _ => (&[], &["--limit-read", "10M"]),
        };
        let vault = &self.world.vault;
        let args = self.world.snapshot_args(more);
        let output = vault.start(vault.command_under(wrapper, &args)).wait();
        let done = load.end();
        let copies: u64 = self.maps.iter_mut().map(Maps::stop).sum();
        quiet(&output);
        (Seen::of(&self.world, &output), done + copies)
    }

    /// What the next snapshot has that the source has not, or lacks.
    fn next(&self) -> Vec<String> {
        let output = self.world.vault.run(&self.world.snapshot_args(&[]));
        quiet(&output);
        if output.status.code() != Some(0) {
            return vec![format!("the next one: {}", output.report())];
        }
        differences(&self.world)
    }
}

/// How the latest snapshot differs from the source.
fn differences(world: &World) -> Vec<String> {
    let restored = world.restore("latest", &[]);
    let (source, restored) = (Manifest::of(&world.source), Manifest::of(&restored.target()));
    // Space that was set aside for a file looks like data once it was read ahead: holes may differ, and so may names of one file if it was
    // written to while it was read by one of them.
    source.diff_except(&restored, &[Aspect::Holes, Aspect::Links])
}

/// So many rounds on a file system; in all of them together something has to be said, or little went on.
fn rounds(kind: FileSystem, by_day: usize) {
    let mut live = Live::new(kind);
    let (mut counts, mut marked, mut left_out, mut done) = (Counts::default(), 0, 0, 0);
    for round in 1..=if is_nightly() { NIGHTLY_ROUNDS } else { by_day } {
        let (seen, acts) = live.snapshot_under_load(round as u64);
        let mut found = seen.violations(&live.scene);
        found.extend(live.next());
        counts.tried += 1;
        counts.failed += usize::from(!found.is_empty());
        counts.violations.extend(found.into_iter().map(|what| format!("round {round}: {what}")));
        marked += seen.marked();
        left_out += seen.items.values().filter(|item| matches!(item, Item::LeftOut)).count();
        done += acts;
    }
    println!(
        "live sources, {kind:?}: {} rounds, {done} acts of the load, {marked} files marked, {left_out} entries left out, {} violations in {} rounds",
        counts.tried,
        counts.violations.len(),
        counts.failed
    );
    assert!(counts.violations.is_empty(), "{}", counts.violations.join("\n"));
    assert!(marked > 0, "nothing changed while it was read");
}

#[test]
fn a_source_on_ext4_may_change_while_it_is_saved() {
    needs!("ext4", "python3", "strace");
    rounds(FileSystem::Ext4, 4);
}

#[test]
fn a_source_on_ext3_whose_times_are_whole_seconds_may_change_while_it_is_saved() {
    needs!("ext4", "python3", "strace");
    rounds(FileSystem::Ext3, 2);
}

#[test]
fn a_source_on_xfs_may_change_while_it_is_saved() {
    needs!("xfs", "python3", "strace");
    rounds(FileSystem::Xfs, 3);
}

#[test]
fn a_source_on_btrfs_may_change_while_it_is_saved() {
    needs!("btrfs", "python3", "strace");
    rounds(FileSystem::Btrfs, 3);
}

#[test]
fn a_source_in_memory_may_change_while_it_is_saved() {
    needs!("tmpfs", "strace");
    rounds(FileSystem::Tmpfs, 3);
}

/// A source on which nothing goes on, and what the snapshot of it has.
fn at_rest() -> (World, Scene) {
    let world = World::new();
    let scene = Scene::new(&world.source, 5);
    (world, scene)
}

fn seen(world: &World) -> Seen {
    Seen::of(world, &world.vault.run(&world.snapshot_args(&[])))
}

#[test]
fn the_control_of_live_sources_finds_what_is_torn_missing_and_marked_for_nothing() {
    let (world, scene) = at_rest();
    assert_eq!(seen(&world).violations(&scene), [""; 0]);
    let mut found = 0;
    let mut finds = |seen: &Seen, what: &str| {
        let violations = seen.violations(&scene);
        assert!(violations.iter().any(|violation| violation.contains(what)), "{what}: {violations:?}");
        found += 1;
    };
    // Each of the files that are written to, as if it had been torn: it is at rest, so the program cannot tell.
    for written in &scene.written {
        let path = world.source.join(&written.path);
        let whole = fs::read(&path).unwrap();
        let other = pattern::content(written.file, 9, written.how.blocks());
        let middle = written.how.blocks() / 2 * pattern::BLOCK;
        fs::write(&path, [&whole[..middle], &other[middle..]].concat()).unwrap();
        finds(&seen(&world), &format!("{}, {:?}, is torn", written.path, written.how));
        fs::write(&path, whole).unwrap();
    }
    // A name that is away for a while, a folder that is, and other bytes.
    let (path, away) = (world.source.join("05-still-file"), world.vault.join("away"));
    for (name, what) in [("05-still-file", "is missing"), ("03-still/07-still", "the folder")] {
        fs::rename(world.source.join(name), &away).unwrap();
        finds(&seen(&world), what);
        fs::rename(&away, world.source.join(name)).unwrap();
    }
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, "other bytes").unwrap();
    finds(&seen(&world), "05-still-file was left alone, and differs");
    fs::write(&path, bytes).unwrap();
    let sound = seen(&world);
    assert_eq!(sound.violations(&scene), [""; 0]);
    // Marks without a reason, without a word, and words without a mark.
    let mut marked = sound.clone();
    if let Some(Item::File(_, mark)) = marked.items.get_mut("05-still-file") {
        *mark = true;
    }
    finds(&marked, "05-still-file was left alone, and is marked");
    finds(&marked, "nothing was said of 05-still-file");
    let mut said = sound;
    said.said.insert("05-still-file".into(), "it cannot be read".into());
    finds(&said, "05-still-file was left alone, and was said");
    finds(&said, "the exit code is Some(0) instead of 3");
    println!("live sources, control: {found} of {found} found");
}

#[test]
fn the_control_of_live_sources_finds_a_file_that_was_not_left_alone() {
    let (world, mut scene) = at_rest();
    let path = "05-still-file";
    let bytes = Random(77).bytes(8 << 20);
    world.write(path, &bytes);
    scene.still.insert(path.into(), bytes);
    // It is touched while it is read, and nobody is told.
    let touched = fs::File::open(world.source.join(path)).unwrap();
    let ended = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                touched.set_modified(SystemTime::now()).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let output = world.vault.run(&world.snapshot_args(&["--limit-read", "8M"]));
        ended.store(true, Ordering::Relaxed);
        output
    });
    let seen = Seen::of(&world, &output);
    let violations = seen.violations(&scene);
    assert!(violations.iter().any(|what| what.contains("was left alone, and is marked")), "{violations:?}");
}
