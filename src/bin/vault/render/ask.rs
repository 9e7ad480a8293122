//! Questions to the user, on the terminal: a yes or no, and a secret that is not shown while it is typed.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use vault::error::{Error, Result};
use zeroize::Zeroizing;

use super::text::escape;
use super::{Screen, locked};

/// The terminal that the user sits at, whatever the standard streams are.
const TERMINAL: &str = "/dev/tty";

impl Screen {
    /// Asks on the terminal, and takes only a clear yes for one. `None` without a terminal to ask on.
    pub fn ask(&self, question: &str) -> Option<bool> {
        let stdin = io::stdin();
        if !stdin.is_terminal() || !io::stderr().is_terminal() {
            return None;
        }
        let _ = write!(io::stderr(), "{} [y/N] ", escape(question.as_bytes()));
        let mut answer = String::new();
        self.asking.store(true, Ordering::SeqCst);
        let read = stdin.read_line(&mut answer);
        self.asking.store(false, Ordering::SeqCst);
        Some(read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
    }

    /// Asks for something that is not shown while it is typed, nor logged. `None` without a terminal to ask on.
    ///
    /// # Errors
    /// `Interrupted` by Ctrl-C or the end of the input; a terminal that cannot be read.
    pub fn ask_secret(&self, question: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        // The standard input may be what is to be saved, and the standard output where it goes.
        let is_there = io::stdin().is_terminal() || io::stderr().is_terminal();
        let Some(terminal) = File::open(TERMINAL).ok().filter(|_| is_there) else { return Ok(None) };
        let modes = tcgetattr(&terminal).ok();
        *locked(&self.terminal) = modes.map(|modes| (terminal, modes));
        self.asking.store(true, Ordering::SeqCst);
        let typed = self.beside_progress(|| rpassword::prompt_password(escape(question.as_bytes())));
        self.asking.store(false, Ordering::SeqCst);
        *locked(&self.terminal) = None;
        match typed {
            Ok(text) => Ok(Some(text.into_bytes().into())),
            // Ctrl-C, or Ctrl-D: whoever ends the question does not want what it is asked for.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::UnexpectedEof) =>
            {
                Err(Error::Interrupted)
            }
            Err(error) => Err(Error::path("read", Path::new(TERMINAL))(error)),
        }
    }

    /// Whether an answer is waited for: then nothing is in work.
    pub fn is_asking(&self) -> bool {
        self.asking.load(Ordering::SeqCst)
    }

    /// Leaves the line of the progress bar, and the terminal as it was: the program ends now.
    pub fn last_word(&self) {
        if let Some((terminal, modes)) = locked(&self.terminal).take() {
            let _ = tcsetattr(&terminal, OptionalActions::Now, &modes);
        }
        if io::stderr().is_terminal() && !self.look.json {
            let _ = io::stderr().write_all(b"\nstopped\n");
        }
    }
}
