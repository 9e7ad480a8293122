//! Trees of a size at which memory would grow if it did: long campaigns, for `VAULT_NIGHTLY=1`; a smaller one always.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Stdio};

use crate::support::manifest::Manifest;
use crate::support::mount::{FileSystem, Mount};
use crate::support::needs::needs;
use crate::support::torture::{self, Random};
use crate::support::vault::Vault;
use crate::whole::world::{World, quiet};

/// The most memory that any verb may take, in KiB: the default of `--memory`.
pub(super) const MOST_KIB: u64 = 256 << 10;

/// Runs a command and writes down the peak of its memory in KiB.
const MEASURE: &str = "import resource, subprocess, sys\n\
    code = subprocess.call(sys.argv[2:])\n\
    open(sys.argv[1], 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))\n\
    sys.exit(code)\n";

pub(super) fn nightly() -> bool {
    std::env::var_os("VAULT_NIGHTLY").is_some_and(|value| value == "1")
}

/// Runs a verb and asserts that it succeeds within its memory.
pub(super) fn measured(world: &World, what: &str, args: &[OsString]) {
    measured_within(world, what, args, MOST_KIB);
}

/// The same within so many KiB.
pub(super) fn measured_within(world: &World, what: &str, args: &[OsString], most: u64) {
    let file = world.vault.join("peak");
    let started = std::time::Instant::now();
    let wrapper = ["python3", "-c", MEASURE, file.to_str().unwrap()];
    quiet(&world.vault.start(world.vault.command_under(&wrapper, args)).wait().ok());
    let peak: u64 = fs::read_to_string(file).unwrap().parse().unwrap();
    println!("{what}: {} MiB, {:.1} s", peak >> 10, started.elapsed().as_secs_f64());
    assert!(peak <= most, "{what} took {} MiB", peak >> 10);
}

/// Saves twice, restores, and compares; all within bounds.
fn cycle(what: &str, build: impl FnOnce(&World)) {
    let world = World::new();
    build(&world);
    measured(&world, &format!("{what}, first snapshot"), &world.snapshot_args(&[]));
    measured(&world, &format!("{what}, second snapshot"), &world.snapshot_args(&[]));
    let target = world.vault.join("target");
    let args =
        [OsString::from("restore"), world.selector("latest"), "--target".into(), target.clone().into()];
    measured(&world, &format!("{what}, restore"), &args);
    let differences = Manifest::of(&world.source).diff(&Manifest::of(&target));
    assert!(differences.is_empty(), "{}", differences[..differences.len().min(20)].join("\n"));
    measured(&world, &format!("{what}, check"), &["check".into()]);
}

/// So many files of no or one byte in one folder.
fn many(world: &World, count: usize) {
    let folder = world.source.join("many");
    fs::create_dir(&folder).unwrap();
    for i in 0..count {
        fs::write(folder.join(format!("{i:07}")), &b"x"[..i % 2]).unwrap();
    }
}

fn deep(world: &World, depth: usize) {
    torture::build(&world.source, torture::Options { depth, wide: 1, sparse_gb: 0, ..Default::default() });
}

fn sparse(world: &World, gib: u64) {
    let file = File::create(world.source.join("sparse-file")).unwrap();
    file.set_len(gib << 30).unwrap();
    let mut random = Random(7);
    for place in 0..8 {
        file.write_all_at(&random.bytes(300_000), ((gib << 30) / 8 * place) + 12_345).unwrap();
    }
    file.sync_all().unwrap();
}

fn long(world: &World, mib: usize) {
    let mut file = File::create(world.source.join("long-file")).unwrap();
    let mut random = Random(8);
    for _ in 0..mib {
        file.write_all(&random.bytes(1 << 20)).unwrap();
    }
}

#[test]
fn a_large_folder_a_deep_path_a_sparse_and_a_long_file_stay_within_bounds() {
    needs!("root", "python3");
    cycle("20,000 files in a folder, 2,000 levels, 10 GiB sparse, 200 MiB", |world| {
        deep(world, 2000);
        many(world, 20_000);
        sparse(world, 10);
        long(world, 200);
    });
}

#[test]
fn the_memory_that_is_given_is_kept_however_many_threads_there_might_be() {
    needs!("python3");
    let world = World::new();
    many(&world, 2000);
    let mut random = Random(9);
    for number in 0..4000 {
        fs::write(world.source.join(format!("text-{number:05}")), random.text(12_000)).unwrap();
    }
    long(&world, 80);
    for (most, given) in
        [(256 << 10, &["--threads", "64"][..]), (96 << 10, &["--memory", "96M", "--threads", "64"])]
    {
        let what = given.join(" ");
        let with =
            |args: Vec<OsString>| -> Vec<OsString> { given.iter().map(OsString::from).chain(args).collect() };
        let snapshot = with(world.snapshot_args(&["--no-cache"]));
        measured_within(&world, &format!("{what}, snapshot"), &snapshot, most);
        let target = world.vault.join("target");
        let restore = ["restore".into(), world.selector("latest"), "--target".into(), target.clone().into()];
        measured_within(&world, &format!("{what}, restore"), &with(restore.into()), most);
        assert!(Manifest::of(&world.source).diff(&Manifest::of(&target)).is_empty(), "{what}");
        fs::remove_dir_all(&target).unwrap();
        let check = with(["check", "--read-data"].map(OsString::from).into());
        measured_within(&world, &format!("{what}, check"), &check, most);
        // The next one writes all of it again.
        fs::remove_dir_all(&world.repository).unwrap();
        world.vault.run(&["init"]).ok();
    }
}

#[test]
fn twelve_thousand_sources_cost_little_more_than_their_files() {
    needs!("python3");
    let world = World::new();
    many(&world, 12_000);
    let list: Vec<String> =
        (0..12_000).map(|i| format!("{}/many/{i:07}\n", world.source.display())).collect();
    fs::write(world.vault.join("list"), list.concat()).unwrap();
    let args: [OsString; 4] =
        ["snapshot".into(), "-q".into(), "--files-from".into(), world.vault.join("list").into()];
    // Of the processor, which others that use the machine do not add to.
    let cpu = "import resource, subprocess, sys\n\
        code = subprocess.call(sys.argv[2:])\n\
        used = resource.getrusage(resource.RUSAGE_CHILDREN)\n\
        open(sys.argv[1], 'w').write(str(used.ru_utime + used.ru_stime))\n\
        sys.exit(code)\n";
    let file = world.vault.join("cpu");
    let wrapper = ["python3", "-c", cpu, file.to_str().unwrap()];
    quiet(&world.vault.start(world.vault.command_under(&wrapper, &args)).wait().ok());
    let secs: f64 = fs::read_to_string(file).unwrap().parse().unwrap();
    println!("12,000 sources: {secs} s");
    assert!(secs < 20.0, "{secs} s");
}

#[test]
fn a_folder_of_a_million_files_stays_within_bounds() {
    needs!("python3");
    if nightly() {
        cycle("1,000,000 files in a folder", |world| many(world, 1_000_000));
    }
}

#[test]
fn a_path_ten_thousand_levels_deep_stays_within_bounds() {
    needs!("root", "python3");
    if nightly() {
        cycle("10,000 levels", |world| deep(world, 10_000));
    }
}

#[test]
fn a_sparse_file_of_100_gib_stays_within_bounds() {
    needs!("python3");
    if nightly() {
        cycle("100 GiB sparse", |world| sparse(world, 100));
    }
}

#[test]
fn a_file_of_three_gib_stays_within_bounds() {
    needs!("python3");
    if nightly() {
        cycle("3 GiB", |world| long(world, 3 << 10));
    }
}

/// All of it is data, which a small disk has because each GiB of it is the same; where blocks are zero, the restored file has holes.
#[test]
fn a_file_of_100_gib_of_data_stays_within_bounds() {
    needs!("xfs", "python3");
    if !nightly() {
        return;
    }
    let (gib, disk) = (100u64, Mount::new(FileSystem::Xfs, 2500));
    let vault = Vault::new();
    let repository = vault.join("repository");
    let world = World::at(vault, disk.join("source"), repository);
    let (part, whole) = (disk.join("part"), world.source.join("file"));
    let mut random = Random(10);
    let mut file = File::create(&part).unwrap();
    for _ in 0..1 << 14 {
        file.write_all(&[random.bytes(4096), vec![0; 60 << 10]].concat()).unwrap();
    }
    file.sync_all().unwrap();
    let mut clone = Command::new("xfs_io");
    clone.arg("-f");
    for at in 0..gib {
        clone.arg("-c").arg(format!("reflink {} 0 {}g 1g", part.display(), at));
    }
    assert!(clone.arg(&whole).stdout(Stdio::null()).status().unwrap().success());
    assert!(fs::metadata(&whole).unwrap().blocks() * 512 >= gib << 30, "all of it is data");
    measured(&world, "100 GiB of data, first snapshot", &world.snapshot_args(&[]));
    let target = world.vault.join("target");
    let restore = ["restore".into(), "--sparse".into(), world.selector("latest"), "--target".into()];
    measured(
        &world,
        "100 GiB of data, restore",
        &restore.into_iter().chain([target.clone().into()]).collect::<Vec<_>>(),
    );
    measured(&world, "100 GiB of data, check", &["check".into(), "--read-data".into()]);
    let same = Command::new("cmp").arg(&whole).arg(target.join("file")).status().unwrap();
    assert!(same.success());
}
