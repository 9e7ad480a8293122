//! Passphrases that are asked for on a terminal: typed twice for a new one, shown never, and the terminal is left as it was.

use std::fs;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::{FAST, Home, OTHER, PASSPHRASE, RECOVERY, is_repository};
use crate::support::needs::needs;

/// How long a question may take to come.
const PATIENCE: Duration = Duration::from_secs(120);
/// The echo of a terminal, as `stty` has it.
const ECHO: &str = "[echo on]";

/// A shell on a terminal of its own.
struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    shown: std::path::PathBuf,
    read: usize,
    device: String,
}

impl Terminal {
    /// Runs lines of the shell in which `$V` is the program, with its log. Then the exit code and whether it echoes are shown.
    fn start(home: &Home, line: &str) -> Self {
        let line = format!(
            "tty; stty echo; {line}; echo \"[code $?]\"; stty -a | grep -q ' echo ' && echo '{ECHO}'"
        );
        let shown =
            home.vault.join(format!("runs/terminal-{}", home.vault.join("runs").read_dir().unwrap().count()));
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.env_clear().current_dir(home.vault.join("cwd")).env("TERM", "dumb").env("SHELL", "/bin/sh");
        let program = home.command::<&str>(&[]);
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("V", program.get_program());
        command.stdin(Stdio::piped()).stdout(fs::File::create(&shown).unwrap()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let keyboard = child.stdin.take().unwrap();
        let mut terminal = Self { child, keyboard, shown, read: 0, device: String::new() };
        terminal.wait_for("\n");
        terminal.text().lines().next().unwrap().trim().clone_into(&mut terminal.device);
        terminal
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.shown).unwrap()).into_owned()
    }

    /// Waits until this is shown, behind what was waited for before.
    fn wait_for(&mut self, what: &str) {
        let begun = Instant::now();
        loop {
            let text = self.text();
            if let Some(at) = text[self.read..].find(what) {
                self.read += at + what.len();
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{what:?} is not shown: {text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for a question that hides its answer, and types one.
    fn answer(&mut self, question: &str, keys: &str) {
        self.wait_for(question);
        let begun = Instant::now();
        while self.echoes() {
            assert!(begun.elapsed() < PATIENCE, "the answer would be shown");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn echoes(&self) -> bool {
        let modes = Command::new("stty").args(["-F", &self.device, "-a"]).output().unwrap();
        !String::from_utf8(modes.stdout).unwrap().contains("-echo ")
    }

    /// Waits for the end. What was shown; the terminal echoes again, and showed none of what was typed.
    fn end(mut self, code: i32) -> String {
        self.wait_for(&format!("[code {code}]"));
        self.wait_for(ECHO);
        self.child.wait().unwrap();
        let text = self.text();
        assert!(!text.contains(PASSPHRASE) && !text.contains(OTHER), "{text}");
        text
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail when it was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const NEW: &str = "passphrase for the new repository: ";
const AGAIN: &str = "the same again: ";

fn line(text: &str) -> String {
    format!("{text}\n")
}

#[test]
fn init_asks_twice_and_again_if_the_two_differ() {
    needs!("script", "stty");
    let home = Home::new();
    let mut terminal = Terminal::start(&home, &format!("$V init {}", FAST.join(" ")));
    terminal.answer(NEW, &line(PASSPHRASE));
    terminal.answer(AGAIN, &line(OTHER));
    terminal.wait_for("not the same: try again");
    terminal.answer(NEW, &line(PASSPHRASE));
    terminal.answer(AGAIN, &line(PASSPHRASE));
    terminal.wait_for("; encrypted");
    terminal.end(0);
    home.run(&["snapshots"]).ok();
    home.with(OTHER, &["snapshots"]).code(12);
}

#[test]
fn init_makes_nothing_of_a_passphrase_that_is_empty_or_never_typed_alike() {
    needs!("script", "stty");
    let home = Home::new();
    let mut terminal = Terminal::start(&home, "$V init");
    terminal.answer(NEW, "\n");
    assert!(terminal.end(2).contains("--unencrypted"));
    let mut terminal = Terminal::start(&home, "$V init");
    for _ in 0..3 {
        terminal.answer(NEW, &line(PASSPHRASE));
        terminal.answer(AGAIN, &line(OTHER));
    }
    assert!(terminal.end(2).contains("twice alike"));
    assert!(!home.vault.join("repo").exists());
}

#[test]
fn whoever_ends_the_question_ends_the_program_and_has_the_terminal_back() {
    needs!("script", "stty");
    let home = Home::new();
    // Ctrl-C and Ctrl-D, at either question; and where an empty answer would mean something else.
    for keys in ["\x03", "\x04"] {
        let mut terminal = Terminal::start(&home, "$V init");
        terminal.answer(NEW, keys);
        terminal.end(130);
        let mut terminal = Terminal::start(&home, "$V init");
        terminal.answer(NEW, &line(PASSPHRASE));
        terminal.answer(AGAIN, keys);
        terminal.end(130);
        let mut terminal = Terminal::start(&home, "unset VAULT_REPOSITORY; $V snapshot ../src");
        terminal.answer("or nothing for one without: ", keys);
        terminal.end(130);
        assert!(!home.vault.join("repo").exists() && !is_repository(&home.vault.join("data/vault/default")));
    }
    home.run(&home.init("repo")).ok();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut terminal = Terminal::start(&home, "sh -c 'echo $$ > ../pid; exec \"$V\" snapshots'");
        terminal.wait_for("passphrase for ");
        while terminal.echoes() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let process: i32 = fs::read_to_string(home.vault.join("pid")).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(process).unwrap(), signal).unwrap();
        assert!(!terminal.end(130).contains("error"), "{signal:?}");
    }
}

#[test]
fn opening_asks_until_it_is_right_and_three_times_at_most() {
    needs!("script", "stty");
    let home = Home::saved();
    let question = format!("passphrase for {}: ", home.path("repo"));
    let mut terminal = Terminal::start(&home, "$V snapshots");
    terminal.answer(&question, &line(OTHER));
    terminal.wait_for("wrong passphrase");
    terminal.wait_for("try again");
    terminal.answer(&question, &line(PASSPHRASE));
    terminal.wait_for("1 snapshot");
    terminal.end(0);

    let mut terminal = Terminal::start(&home, "$V snapshots");
    for _ in 0..3 {
        terminal.answer(&question, &line(OTHER));
    }
    let shown = terminal.end(12);
    assert_eq!(shown.matches("passphrase for").count(), 3);
    assert_eq!(shown.matches("error: wrong passphrase").count(), 1, "{shown}");

    // A recovery key is typed where a passphrase is.
    let key = home.path("key.txt");
    home.run(&["key", "export", "-o", &key]).ok();
    let text = fs::read_to_string(key).unwrap();
    let recovery = text.lines().find(|line| line.starts_with(RECOVERY)).unwrap();
    let mut terminal = Terminal::start(&home, "$V key test");
    terminal.answer(&question, &line(recovery));
    terminal.wait_for("the recovery key opens");
    terminal.end(0);
}

#[test]
fn it_asks_though_the_standard_streams_are_taken() {
    needs!("script", "stty");
    let home = Home::saved();
    let question = "passphrase for ";
    let mut terminal = Terminal::start(&home, "echo streamed | $V snapshot --stdin --stdin-filename s");
    terminal.answer(question, &line(PASSPHRASE));
    terminal.end(0);
    let mut terminal = Terminal::start(&home, "$V cat latest:s | head -n 1 > ../out");
    terminal.answer(question, &line(PASSPHRASE));
    terminal.end(0);
    assert_eq!(fs::read_to_string(home.vault.join("out")).unwrap(), "streamed\n");
    let mut terminal = Terminal::start(&home, "$V key export > ../key.txt");
    terminal.answer(question, &line(PASSPHRASE));
    terminal.end(0);
    assert!(fs::read_to_string(home.vault.join("key.txt")).unwrap().contains(RECOVERY));
    // Neither typed at nor read by anybody: nobody is there.
    let mut terminal = Terminal::start(&home, "$V snapshots < /dev/null 2> ../err");
    terminal.wait_for("[code 12]");
    assert!(fs::read_to_string(home.vault.join("err")).unwrap().contains("no passphrase was given"));
}

#[test]
fn a_first_snapshot_asks_whether_and_with_which_passphrase_and_not_again() {
    needs!("script", "stty");
    let home = Home::new();
    let first = |place: &str| {
        format!("unset VAULT_REPOSITORY; XDG_DATA_HOME='{}' $V snapshot ../src", home.path(place))
    };
    let question = "or nothing for one without: ";
    let mut terminal = Terminal::start(&home, &first("d1"));
    terminal.answer(question, &line(PASSPHRASE));
    terminal.answer(AGAIN, &line(PASSPHRASE));
    terminal.wait_for("; encrypted");
    let shown = terminal.end(0);
    assert_eq!(shown.matches("passphrase for").count(), 1, "{shown}");
    home.run(&["-r", &home.path("d1/vault/default"), "snapshots"]).ok();

    let mut terminal = Terminal::start(&home, &first("d2"));
    terminal.answer(question, "\n");
    terminal.wait_for("it is not encrypted");
    terminal.end(0);
    home.bare(&["-r", &home.path("d2/vault/default"), "snapshots"]).ok();
}

#[test]
fn a_new_passphrase_is_asked_for_behind_the_old_one() {
    needs!("script", "stty");
    let home = Home::made();
    let mut terminal = Terminal::start(&home, &format!("$V key change {}", FAST.join(" ")));
    terminal.answer("passphrase for ", &line(PASSPHRASE));
    terminal.answer("new passphrase: ", &line(OTHER));
    terminal.answer(AGAIN, &line(OTHER));
    terminal.wait_for("removed the key");
    terminal.end(0);
    home.with(OTHER, &["snapshots"]).ok();
    home.run(&["snapshots"]).code(12);
    // Mended and opened again, without being asked again.
    fs::remove_file(home.vault.join("repo/copy")).unwrap();
    let mut terminal = Terminal::start(&home, "$V check --repair-copy");
    terminal.answer("passphrase for ", &line(OTHER));
    let shown = terminal.end(0);
    assert_eq!(shown.matches("passphrase for").count(), 1, "{shown}");
}
