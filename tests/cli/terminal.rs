//! The program on a terminal: the bar, colours, and the question before anything is changed in place.

use std::fs;

use super::World;
use crate::support::needs::needs;
use crate::support::vault::Output;

/// Runs the program on a terminal of its own, with these keys typed; what the terminal got is `stdout`.
fn on_a_terminal(world: &World, variables: &str, args: &[&str], keys: &str) -> Output {
    let quoted: Vec<String> = args.iter().map(|arg| format!("'{arg}'")).collect();
    let line = format!("{variables} '{}' {}", env!("CARGO_BIN_EXE_vault"), quoted.join(" "));
    let typed = world.vault.join("keys");
    fs::write(&typed, keys).unwrap();
    // `script` ends with the exit code of what it runs.
    let words = ["script", "--quiet", "--return", "--command", &line, "/dev/null"];
    let mut command = world.vault.command_under::<&str, &str>(&[], &[]);
    let environment: Vec<_> =
        command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    let folder = command.get_current_dir().unwrap().to_owned();
    command = std::process::Command::new(words[0]);
    command.args(&words[1..]).env_clear().current_dir(folder).env("TERM", "xterm");
    command.envs(environment.into_iter().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(fs::File::open(typed).unwrap());
    world.vault.start(command).wait()
}

const COLOURS: [&str; 4] = ["\x1b[31m", "\x1b[33m", "\x1b[1m", "\x1b[36m"];

fn has_colours(output: &Output) -> bool {
    COLOURS.iter().any(|colour| output.text().contains(colour))
}

#[test]
fn a_bar_with_a_rate_is_shown_on_a_terminal_and_nowhere_else() {
    needs!("script");
    let world = World::new();
    fs::write(world.src().join("long"), crate::support::torture::Random(9).bytes(12 << 20)).unwrap();
    let src = world.path("src");
    let shown = on_a_terminal(&world, "", &["snapshot", "--limit-read", "8M", &src], "").ok();
    assert!(shown.text().contains("MiB/s"), "{}", shown.text());
    assert!(shown.text().contains('\r') || shown.text().contains("\x1b["), "it is drawn over");
    let plain = world.run(&["snapshot", "--force", "--limit-read", "8M", &src]).ok();
    assert!(!plain.stderr.contains("\x1b[") && !plain.text().contains("\x1b["), "{}", plain.stderr);
}

#[test]
fn errors_have_colour_on_a_terminal_unless_it_is_not_wanted() {
    needs!("script");
    let world = World::new();
    let args = ["snapshots", "--repo-that-is-not-there"];
    let missing = ["-r", "nowhere", "snapshots"];
    assert!(has_colours(&on_a_terminal(&world, "", &missing, "").code(10)));
    assert!(!has_colours(&on_a_terminal(&world, "NO_COLOR=1", &missing, "").code(10)));
    assert!(!has_colours(&on_a_terminal(&world, "NO_COLOR=1", &args, "").code(2)));
}

#[test]
fn in_place_asks_and_changes_nothing_without_a_yes() {
    needs!("script");
    let world = World::saved();
    let file = world.src().join("a.txt");
    for (keys, changed) in [("n\n", false), ("\n", false), ("y\n", true)] {
        fs::write(&file, "meanwhile\n").unwrap();
        let asked = on_a_terminal(&world, "", &["restore", "latest", "--in-place"], keys);
        assert!(asked.text().contains("a.txt"), "what would change is shown: {}", asked.text());
        assert_eq!(asked.status.success(), changed, "{keys:?}: {}", asked.text());
        assert_eq!(fs::read_to_string(&file).unwrap() == "alpha\n", changed, "{keys:?}");
    }
}
