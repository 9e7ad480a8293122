//! Real processes on one repository: three that save, two that prune, and one that mirrors, at the same time, each of them killed or stopped
//! for a while now and then. Whatever was acknowledged and not forgotten comes back, on the mirror too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::needs::needs;
use crate::support::torture::Random;
use crate::support::tracer::{Act, traced};
use crate::support::vault::{Output, Running, Vault};

const WRITERS: usize = 3;
const PRUNERS: usize = 2;

/// The contents of a source, by name: what they are made from.
type Contents = BTreeMap<String, u64>;

struct Crowd {
    vault: Vault,
    random: Random,
    sources: Vec<Contents>,
    /// Snapshots that somebody was told of and that nobody forgot.
    acknowledged: Vec<(String, usize, Contents)>,
    /// What became of runs: done, refused or given up, killed.
    ended: [u64; 3],
    kept: u64,
}

fn bytes(seed: u64) -> Vec<u8> {
    Random(seed).bytes(5_000 + usize::try_from(seed % 20_000).unwrap())
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let mut vault = Vault::new();
        vault.env("VAULT_REPOSITORY", vault.join("repo"));
        vault.run(&["init", "-q"]).ok();
        vault.run(&["mirror", "-q", "--new", vault.join("drive").to_str().unwrap()]).ok();
        for writer in 0..WRITERS {
            fs::create_dir(vault.join(format!("src{writer}"))).unwrap();
        }
        let sources = vec![Contents::new(); WRITERS];
        Self { vault, random: Random(seed), sources, acknowledged: Vec::new(), ended: [0; 3], kept: 0 }
    }

    fn source(&self, writer: usize) -> PathBuf {
        self.vault.join(format!("src{writer}"))
    }

    /// Changes a few files; some contents all sources share, and some come back.
    fn change(&mut self, writer: usize) {
        for _ in 0..=self.random.below(3) {
            let name = format!("f{}", self.random.below(12));
            let seed = self.random.below(40) as u64;
            let path = self.source(writer).join(&name);
            if self.random.below(5) == 0 {
                let _ = fs::remove_file(&path);
                self.sources[writer].remove(&name);
            } else {
                fs::write(&path, bytes(seed)).unwrap();
                self.sources[writer].insert(name, seed);
            }
        }
    }

    /// All at once, and what becomes of each.
    fn round(&mut self) {
        for writer in 0..WRITERS {
            self.change(writer);
        }
        let drive = self.vault.join("drive").to_str().unwrap().to_owned();
        let sources: Vec<String> =
            (0..WRITERS).map(|writer| self.source(writer).to_str().unwrap().to_owned()).collect();
        let mut runs: Vec<(usize, Running)> = Vec::new();
        for (writer, source) in sources.iter().enumerate() {
            runs.push((writer, self.vault.spawn(&["snapshot", "--json", source])));
        }
        for _ in 0..PRUNERS {
            runs.push((usize::MAX, self.vault.spawn(&["prune", "-q", "--force", "--max-unused", "0"])));
        }
        runs.push((usize::MAX, self.vault.spawn(&["mirror", "-q", &drive])));
        for (_, run) in &runs {
            // Some sleep while the others go on, and some never wake up.
            if self.random.below(3) == 0 {
                std::thread::sleep(Duration::from_millis(self.random.below(40) as u64));
                run.signal(Signal::STOP);
            }
        }
        for (_, run) in &runs {
            std::thread::sleep(Duration::from_millis(self.random.below(30) as u64));
            if self.random.below(4) == 0 {
                run.signal(Signal::KILL);
            }
            run.signal(Signal::CONT);
        }
        for (writer, run) in runs {
            let output = run.wait();
            self.ended[match output.status.code() {
                Some(0) => 0,
                Some(_) => 1,
                None => 2,
            }] += 1;
            assert!(
                matches!(output.status.code(), None | Some(0 | 1 | 11)),
                "it found damage or worse: {:?}\n{}",
                output.status,
                output.stderr
            );
            if let (true, Some(contents)) = (output.status.success(), self.sources.get(writer).cloned()) {
                self.acknowledge(writer, contents, &output);
            }
        }
    }

    /// Somebody was told of this snapshot.
    fn acknowledge(&mut self, writer: usize, contents: Contents, output: &Output) {
        let last: Value = serde_json::from_str(output.text().lines().last().unwrap()).unwrap();
        let id = last["snapshot_id"].as_str().unwrap().to_owned();
        self.acknowledged.push((id, writer, contents));
    }

    fn forget_some(&mut self) {
        while self.acknowledged.len() > 4 && self.random.below(3) > 0 {
            let at = self.random.below(self.acknowledged.len());
            let (id, ..) = self.acknowledged.swap_remove(at);
            self.vault.run(&["forget", "-q", &id, "--allow-empty"]).ok();
        }
    }

    fn verify(&mut self, repository: &Path, at: usize) {
        let Some((id, writer, contents)) = self.acknowledged.get(at).cloned() else { return };
        let out = self.vault.join("out");
        let _ = fs::remove_dir_all(&out);
        let place = repository.to_str().unwrap();
        self.vault.run(&["-r", place, "restore", "-q", &id, "--target", out.to_str().unwrap()]).ok();
        let restored = out.join(self.source(writer).strip_prefix("/").unwrap());
        let mut found = Contents::new();
        for entry in fs::read_dir(&restored).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let seed = contents.get(&name).copied().unwrap_or_default();
            assert!(fs::read(entry.path()).unwrap() == bytes(seed), "{id}: {name} is not what it was");
            found.insert(name, seed);
        }
        assert_eq!(found, contents, "{id}");
        self.kept += 1;
    }

    fn count(&self, folder: &str) -> usize {
        fs::read_dir(self.vault.join("repo").join(folder)).unwrap().count()
    }
}

#[test]
fn a_crowd_of_processes_that_are_killed_and_stopped_loses_nothing() {
    let rounds = if std::env::var_os("VAULT_NIGHTLY").is_some() { 500 } else { 12 };
    let mut crowd = Crowd::new(rounds);
    let (repo, drive) = (crowd.vault.join("repo"), crowd.vault.join("drive"));
    for round in 0..rounds {
        crowd.round();
        crowd.forget_some();
        if round % 4 == 3 {
            let at = crowd.random.below(crowd.acknowledged.len());
            crowd.verify(&repo, at);
        }
        if round % 20 == 11 {
            for place in [&repo, &drive] {
                crowd.vault.run(&["-r", place.to_str().unwrap(), "check", "-q", "--read-data"]).ok();
            }
        }
    }
    crowd.vault.run(&["mirror", "-q", drive.to_str().unwrap()]).ok();
    for place in [&repo, &drive] {
        crowd.vault.run(&["-r", place.to_str().unwrap(), "check", "-q", "--read-data"]).ok();
        for at in 0..crowd.acknowledged.len() {
            crowd.verify(place, at);
        }
    }
    assert!(crowd.acknowledged.len() >= 4 && crowd.ended.iter().all(|count| *count > 0), "{:?}", crowd.ended);
    // Nothing is left behind after a last prune, whatever was killed.
    crowd.vault.run(&["snapshot", "-q", crowd.source(0).to_str().unwrap()]).ok();
    crowd.vault.run(&["prune", "-q", "--force", "--max-unused", "0"]).ok();
    assert_eq!(["sessions", "marks", "tmp"].map(|folder| crowd.count(folder)), [0, 0, 0]);
    let again = crowd.vault.run(&["prune", "--json", "--max-unused", "0"]).ok();
    let done: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((done["deleted_bytes"].as_u64(), done["unused_bytes"].as_u64()), (Some(0), Some(0)));
    crowd.vault.run(&["check", "-q", "--read-data"]).ok();
    println!("{rounds} rounds: done, refused, killed {:?}; {} restores were right", crowd.ended, crowd.kept);
}

/// A snapshot is taken between the moment when a pack is condemned and the one when it is deleted, and needs what is in it. Whether it comes
/// back, if the marks are shown to it, or not.
fn comes_back(are_marks_shown: bool) -> bool {
    let mut crowd = Crowd::new(1);
    fs::write(crowd.source(0).join("f1"), bytes(1)).unwrap();
    let source = crowd.source(0).to_str().unwrap().to_owned();
    let first = crowd.vault.run(&["snapshot", "--json", &source]).ok();
    crowd.acknowledge(0, [("f1".to_owned(), 1)].into(), &first);
    let (id, ..) = crowd.acknowledged.remove(0);
    crowd.vault.run(&["forget", "-q", &id, "--allow-empty"]).ok();
    let vault = &crowd.vault;
    let mut taken = None;
    let pruned = traced(vault, &["prune", "-q", "--force", "--max-unused", "0"], |call| {
        let deletes = call.name().is_some_and(|name| name.starts_with("unlink"));
        if deletes && taken.is_none() && crowd.count("marks") > 0 {
            // In a thread of its own, which waits for its own processes only.
            let snapshot = || {
                traced(vault, &["snapshot", "--json", "--force", &source], |call| {
                    let is_hidden = !are_marks_shown
                        && call.lists()
                        && call.file().is_some_and(|file| file.ends_with("/repo/marks"));
                    if is_hidden { Act::Pretend } else { Act::Go }
                })
            };
            taken = Some(std::thread::scope(|scope| scope.spawn(snapshot).join().unwrap()));
        }
        Act::Go
    });
    pruned.ok();
    let taken = taken.expect("a pack was deleted").ok();
    crowd.acknowledge(0, [("f1".to_owned(), 1)].into(), &taken);
    let (id, ..) = &crowd.acknowledged[0];
    let out = crowd.vault.join("out");
    crowd.vault.run(&["restore", "-q", id, "--target", out.to_str().unwrap()]).status.success()
}

#[test]
fn the_control_of_processes_finds_what_a_writer_that_sees_no_marks_loses() {
    needs!("root", "sh");
    assert!(comes_back(true));
    assert!(!comes_back(false), "what was deleted under an unseen mark comes back");
}
