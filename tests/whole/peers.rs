//! `benches/peers` still does what it says, on corpora of a hundredth of their size: every row of every table has a
//! figure of this program's, and nothing failed or came back wrong.

use std::process::Command;

use crate::support::needs::needs;
use crate::support::repository::is_encrypted;
use crate::support::scratch::Scratch;

/// The tables and their rows, in order.
const TABLES: &str = "\
linux: first | size after that, MiB | unchanged | changed | size after both, MiB | read-data check | restore
vm: first | size after that, MiB | changed | size after both, MiB | read-data check | restore
media: first | size after that, MiB | unchanged | read-data check | restore
million: first | size after that, MiB | unchanged | restore
start: `version` | listing";

#[test]
fn the_comparison_with_other_programs_has_a_figure_in_every_row() {
    // It takes minutes with a debug build: by day only that it starts and names its corpora.
    let is_nightly = std::env::var_os("VAULT_NIGHTLY").is_some_and(|value| value == "1");
    if !is_nightly {
        needs!("python3");
        let help = Command::new("python3")
            .args([concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers"), "--help"])
            .output()
            .unwrap();
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(["linux", "vm", "media", "million"].iter().all(|corpus| text.contains(corpus)), "{text}");
        return;
    }
    needs!("root", "python3", "rsync", "unshare", "mount", "umount", "mkfs.ext4", "debugfs");
    let at = Scratch::new();
    let program = if is_encrypted() { "vault-encrypted" } else { "vault" };
    let output = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers"))
        .arg(at.path())
        .args(["--small", "--runs", "1", "--programs", program, "--vault", env!("CARGO_BIN_EXE_vault")])
        .arg("--place")
        .arg(at.dir("place"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");

    let table = String::from_utf8(output.stdout).unwrap();
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    for expected in TABLES.lines() {
        let (corpus, stages) = expected.split_once(": ").unwrap();
        assert_eq!(rows.next().map(|row| row.0), Some(corpus), "{table}");
        for stage in stages.split(" | ") {
            let (title, cells) = rows.next().unwrap();
            assert_eq!(title, stage, "{table}");
            assert!(cells.starts_with(|first: char| first.is_ascii_digit()), "{title}: {cells}\n{said}");
        }
    }
    assert_eq!(rows.next(), None);
    assert_eq!(std::fs::read_dir(at.join("place")).unwrap().count(), 0, "it leaves nothing behind");
}
