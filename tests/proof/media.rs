//! Media: each file system as source, as restore target, as repository and as mirror. `spec/media.md` says what each of them keeps and can do; what it says is
//! measured here, and compared.

mod kept;
mod life;
mod published;
mod reference;
mod source;
mod uml;

use std::fs;

use super::is_nightly;
use crate::support::manifest::Manifest;
use crate::support::mount::{FileSystem, Mount, kernel_has_vfat};
use crate::support::needs::needs;
use crate::support::vault::Vault;
use kept::Kept;
use life::Life;
use published::{assert_published, column, differences};

/// The tables by their first words: what it keeps, and what it is like for a repository.
const TABLES: [&str; 2] = ["kept", "repository"];

/// All of them, with a size that they can be made in.
const MEDIA: [(FileSystem, &str, u64); 8] = [
    (FileSystem::Ext4, "ext4", 64),
    (FileSystem::Xfs, "XFS", 320),
    (FileSystem::Btrfs, "btrfs", 128),
    (FileSystem::Tmpfs, "tmpfs", 64),
    (FileSystem::Overlay, "overlay", 64),
    (FileSystem::Exfat, "exFAT over FUSE", 64),
    (FileSystem::Vfat, "vfat", 64),
    (FileSystem::Fat32, "FAT over FUSE", 64),
];

fn name_and_size(kind: FileSystem) -> (&'static str, u64) {
    let (_, name, size_mb) = MEDIA.into_iter().find(|(other, ..)| *other == kind).unwrap();
    (name, size_mb)
}

/// Makes one, or runs the test where it can be made.
macro_rules! media {
    ($($medium:ident: $kind:ident, $needed:literal;)+) => {
        $(mod $medium {
            use super::*;

            #[test]
            fn keeps_what_is_published_and_what_it_does_not_keep_is_said() {
                needs!($needed, "ext4");
                if is_here(FileSystem::$kind, concat!("proof::media::", stringify!($medium), "::keeps_what_is_published_and_what_it_does_not_keep_is_said"), false) {
                    super::keeps(FileSystem::$kind);
                }
            }

            #[test]
            fn has_a_repository_that_lives_as_on_any_other() {
                needs!($needed, "ext4", "tmpfs");
                if is_here(FileSystem::$kind, concat!("proof::media::", stringify!($medium), "::has_a_repository_that_lives_as_on_any_other"), true) {
                    super::lives(FileSystem::$kind);
                }
            }

            #[test]
            fn is_full_read_only_or_pulled_out_and_costs_nothing_that_was_told_of() {
                needs!($needed, "ext4", "xfs_io");
                if is_here(FileSystem::$kind, concat!("proof::media::", stringify!($medium), "::is_full_read_only_or_pulled_out_and_costs_nothing_that_was_told_of"), true) {
                    super::suffers(FileSystem::$kind);
                }
            }
        })+
    };
}

media! {
    ext4: Ext4, "ext4";
    xfs: Xfs, "xfs";
    btrfs: Btrfs, "btrfs";
    tmpfs: Tmpfs, "tmpfs";
    overlay: Overlay, "overlay";
    exfat: Exfat, "exfat";
    vfat: Vfat, "vfat";
    fat_over_fuse: Fat32, "fat32";
}

/// Whether it is to be tried here; otherwise the test was run elsewhere, or is one of those that take long there or with a slow driver, and
/// are tried at night.
fn is_here(kind: FileSystem, test: &str, is_long: bool) -> bool {
    let is_elsewhere = kind == FileSystem::Vfat && !kernel_has_vfat();
    if is_long && !is_nightly() && (is_elsewhere || kind == FileSystem::Fat32) {
        return false;
    }
    if is_elsewhere {
        uml::run_again(test);
    }
    !is_elsewhere
}

fn keeps(kind: FileSystem) {
    let (name, size_mb) = name_and_size(kind);
    let kept = Kept::restored_onto(&mut Mount::new(kind, size_mb), kind);
    let mut violations = kept.violations();
    violations.extend(kept.hidden().into_iter().map(|path| format!("{path} changed when it was unmounted")));
    let mut measured = kept.column();
    let (as_source, more) = source::column(kind, size_mb);
    measured.extend(as_source);
    violations.extend(more);
    println!("media, {name}: {} respects, {} violations", measured.len(), violations.len());
    assert!(violations.is_empty(), "{name}:\n{}", violations.join("\n"));
    assert_published(TABLES[0], name, &measured);
}

/// A repository and a mirror on each other medium; in the gate, on the next one.
fn lives(kind: FileSystem) {
    let (_, size_mb) = name_and_size(kind);
    let at = MEDIA.iter().position(|(other, ..)| *other == kind).unwrap();
    let others = MEDIA.iter().cycle().skip(at + 1).take(MEDIA.len() - 1);
    let others = others.filter(|(other, ..)| *other != FileSystem::Vfat || kernel_has_vfat());
    let (mut violations, mut pairs) = (Vec::new(), 0);
    let mut life = Life::new(kind, size_mb);
    life.goes_on();
    for (other, _, other_mb) in others.take(if is_nightly() { MEDIA.len() } else { 1 }) {
        life.is_mirrored_on(&mut Mount::new(*other, *other_mb), *other);
        pairs += 1;
        if is_nightly() && kind == FileSystem::Vfat {
            // Only where this runs is there a vfat to mirror to.
            let mut life = Life::new(*other, *other_mb);
            life.is_mirrored_on(&mut Mount::new(kind, size_mb), kind);
            violations.append(&mut life.violations());
            pairs += 1;
        }
    }
    violations.append(&mut life.violations());
    println!("media, {kind:?}: {pairs} pairs of repository and mirror, {} violations", violations.len());
    assert!(violations.is_empty(), "{}", violations.join("\n\n"));
}

fn suffers(kind: FileSystem) {
    let (name, size_mb) = name_and_size(kind);
    let mut life = Life::new(kind, size_mb);
    let mut measured = life.abilities();
    measured.push(("mounted read-only, it".to_owned(), life.is_read_only()));
    measured.extend(life.is_full());
    let mut violations = life.violations();
    let moments: Vec<usize> = if is_nightly() { (0..60).step_by(2).collect() } else { vec![3, 9] };
    let pulled = life.is_pulled_out(&moments);
    let said = if pulled.tried == 0 { "not tried" } else { "loses nothing that was told of" };
    measured.push(("pulled out while it is written to, it".to_owned(), said.to_owned()));
    violations.extend(pulled.violations);
    println!("media, {kind:?}: pulled out {} times, {} violations", pulled.tried, violations.len());
    assert!(violations.is_empty(), "{}", violations.join("\n\n"));
    assert_published(TABLES[1], name, &measured);
}

#[test]
fn a_short_name_on_fat_does_not_take_the_place_of_a_file_with_a_long_one() {
    needs!("vfat", "ext4");
    let test = "proof::media::a_short_name_on_fat_does_not_take_the_place_of_a_file_with_a_long_one";
    if !is_here(FileSystem::Vfat, test, false) {
        return;
    }
    let (mount, place) = (Mount::new(FileSystem::Vfat, 64), Mount::new(FileSystem::Ext4, 64));
    let mut vault = Vault::new();
    vault.env("VAULT_REPOSITORY", vault.join("repository"));
    vault.run(&["init", "-q"]).ok();
    let source = place.join("source");
    fs::create_dir(&source).unwrap();
    for name in ["Letter~1.txt", "letter~1.TXT.", "other"] {
        fs::write(source.join(name), name).unwrap();
    }
    vault.run(&["snapshot", "-q", source.to_str().unwrap()]).ok();
    let target = mount.join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("Letter to a friend.txt"), "mine").unwrap();
    assert!(target.join("letter~1.txt").exists(), "or the test is void");
    let selector = format!("latest:{}", source.display());
    let restored = vault.run(&["restore", &selector, "--target", target.to_str().unwrap()]).code(1);
    let restored = restored.says("does not tell it from another name").says("drops the dot");
    assert!(restored.stderr.contains("Letter~1.txt"), "{}", restored.stderr);
    assert_eq!(fs::read(target.join("Letter to a friend.txt")).unwrap(), b"mine");
    assert_eq!(fs::read(target.join("other")).unwrap(), b"other");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 2);
}

#[test]
fn what_is_copied_up_in_an_overlay_is_saved_as_it_is() {
    needs!("overlay", "ext4");
    let violations = source::copied_up(64);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn the_control_of_media_finds_a_medium_that_does_not_keep_what_is_published() {
    needs!("exfat", "ext4");
    let kept = Kept::restored_onto(&mut Mount::new(FileSystem::Exfat, 64), FileSystem::Exfat);
    let own = kept.column();
    let lies = differences(&column(TABLES[0], "ext4"), &own);
    let is_own = |line: &&String| !line.starts_with("an ");
    let of_itself = differences(&column(TABLES[0], "exFAT over FUSE"), &own);
    println!("media, an exFAT that is said to be an ext4: {} of {} found", lies.len(), own.len());
    assert!(lies.len() > own.len() / 3, "{lies:?}");
    assert_eq!(of_itself.iter().filter(is_own).count(), 0, "{of_itself:?}");
}

#[test]
fn the_control_of_media_finds_what_was_not_said() {
    needs!("ext4", "tmpfs");
    let mut mount = Mount::new(FileSystem::Ext4, 64);
    let mut kept = Kept::restored_onto(&mut mount, FileSystem::Ext4);
    assert_eq!(kept.violations(), [""; 0]);
    let at = mount.join("restored");
    let meddle: [(&str, &dyn Fn()); 6] = [
        ("a byte", &|| fs::write(at.join("names/CON"), "con").unwrap()),
        ("a time", &|| drop(fs::File::open(at.join("content")).unwrap().set_modified(std::time::UNIX_EPOCH))),
        ("an attribute", &|| rustix::fs::removexattr(at.join("xattrs/user.vault"), "user.vault").unwrap()),
        ("a hard link", &|| fs::remove_file(at.join("links/hard")).unwrap()),
        ("an owner", &|| std::os::unix::fs::chown(at.join("owners/1"), Some(7), None).unwrap()),
        ("a twin", &|| fs::rename(at.join("twins/case"), at.join("twins/Case")).unwrap()),
    ];
    for (number, (what, change)) in meddle.iter().enumerate() {
        let before = kept.violations();
        change();
        kept.look_again(&Manifest::of(&at));
        assert_ne!(kept.violations(), before, "{what} was not noticed");
        println!("media, what was not said: {} of {} found", number + 1, meddle.len());
    }
}
