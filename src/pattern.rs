//! Patterns for paths: what to leave out of a snapshot, and what to list, find or restore.
//!
//! A pattern is compared with a path below the root (`/home/ann/a.o`; the leading slash may be missing), by bytes, so
//! that names that are not UTF-8 match too:
//!
//! - Without a leading slash it matches at any depth, and always whole names: `*.o`, `node_modules`, `foo/bar`.
//! - With a leading slash it is anchored at the root: `/home/*/.cache`. Of a snapshot, the root is the snapshot's.
//! - `*` stands for any bytes but a slash (a leading dot too), `?` for one byte, `[a-z]` for one of them, `[!a-z]` for one
//!   that is none of them, `{a,b}` for either. `\` takes the meaning from the character after it.
//! - `**` as a whole name stands for any number of names: `/home/**/cache`; `foo/**` is everything below `foo`, without it.
//! - A slash at the end makes it match directories only: `build/`.
//! - `!pattern` takes back what patterns before it matched. The last pattern that matches decides.
//! - A directory that is left out is left out with all below it, and nothing below it can be taken back: to keep one thing in
//!   a directory, leave out `dir/*` and take back `!dir/thing`.
//! - [`CaseFold::Ignore`] compares without regard to case, in all alphabets.
//! - In a file of patterns, there is one on each line; spaces around it, empty lines and lines that start with `#` do not
//!   count. `\#` and `\!` stand for a pattern that starts with these characters.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use globset::{Candidate, Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, Result};

/// Whether upper and lower case differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaseFold {
    /// They differ.
    Exact,
    /// They are the same.
    Ignore,
}

/// Patterns in the order in which they were given. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    compiled: Arc<Compiled>,
}

#[derive(Debug, Default)]
struct Compiled {
    rules: Vec<Rule>,
    exact: Globs,
    folded: Globs,
    /// Some pattern that includes may match anywhere.
    anywhere: bool,
}

#[derive(Debug)]
struct Rule {
    takes_back: bool,
    directories_only: bool,
}

/// The globs of one [`CaseFold`].
#[derive(Debug, Default)]
struct Globs {
    whole: GlobSet,
    /// For each glob of `whole`, its place in the rules.
    places: Vec<usize>,
    /// Matches the directories on the way to what an anchored pattern may match.
    ways: GlobSet,
}

struct GlobsBuilder {
    whole: GlobSetBuilder,
    places: Vec<usize>,
    ways: GlobSetBuilder,
}

impl GlobsBuilder {
    fn new() -> Self {
        Self { whole: GlobSetBuilder::new(), places: Vec::new(), ways: GlobSetBuilder::new() }
    }

    fn build(self) -> Result<Globs, globset::Error> {
        Ok(Globs { whole: self.whole.build()?, places: self.places, ways: self.ways.build()? })
    }
}

impl Patterns {
    /// Compiles patterns.
    ///
    /// # Errors
    /// `Usage` names the pattern that is none.
    pub fn new(patterns: impl IntoIterator<Item = (String, CaseFold)>) -> Result<Self> {
        let mut rules = Vec::new();
        let (mut exact, mut folded) = (GlobsBuilder::new(), GlobsBuilder::new());
        let mut anywhere = false;
        for (text, fold) in patterns {
            let parsed = Parsed::new(&text)?;
            let globs = match fold {
                CaseFold::Exact => &mut exact,
                CaseFold::Ignore => &mut folded,
            };
            let (names, whole) = match fold {
                CaseFold::Exact => (parsed.names, parsed.glob),
                CaseFold::Ignore => (
                    parsed.names.map(|names| names.iter().map(|name| name.to_lowercase()).collect()),
                    parsed.glob.to_lowercase(),
                ),
            };
            globs.whole.add(glob(&whole).map_err(|error| bad(&text, &error))?);
            globs.places.push(rules.len());
            if !parsed.takes_back {
                match names.and_then(|names| ways(&names)) {
                    Some(ways) => {
                        for way in ways {
                            globs.ways.add(way);
                        }
                    }
                    None => anywhere = true,
                }
            }
            rules.push(Rule { takes_back: parsed.takes_back, directories_only: parsed.directories_only });
        }
        let too_many = |error: globset::Error| Error::Usage(format!("the patterns cannot be used: {error}"));
        let (exact, folded) = (exact.build().map_err(too_many)?, folded.build().map_err(too_many)?);
        Ok(Self { compiled: Arc::new(Compiled { rules, exact, folded, anywhere }) })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.compiled.rules.is_empty()
    }

    /// What the last pattern that matches this very path says: true, or false if it takes back; none if no pattern
    /// matches. The path is joined by slashes and has none at its end.
    #[must_use]
    pub fn matches(&self, path: &[u8], is_dir: bool) -> Option<bool> {
        let compiled = &*self.compiled;
        if compiled.rules.is_empty() {
            return None;
        }
        let path = relative(path);
        let exact = compiled.exact.last_match(path, is_dir, &compiled.rules);
        let folded = if compiled.folded.places.is_empty() {
            None
        } else {
            compiled.folded.last_match(&fold_case(path), is_dir, &compiled.rules)
        };
        let decisive = compiled.rules.get(exact.max(folded)?)?;
        Some(!decisive.takes_back)
    }

    /// Whether a path is included: by what matches it itself, else as the directory it is in.
    #[must_use]
    pub fn includes(&self, parent_is_included: bool, path: &[u8], is_dir: bool) -> bool {
        self.matches(path, is_dir).unwrap_or(parent_is_included)
    }

    /// Whether something below this directory may match, so that it must be looked into. May say so in vain.
    #[must_use]
    pub fn may_contain(&self, directory: &[u8]) -> bool {
        let compiled = &*self.compiled;
        if compiled.rules.iter().all(|rule| rule.takes_back) {
            return false;
        }
        let directory = relative(directory);
        compiled.anywhere
            || directory.is_empty()
            || compiled.exact.ways.is_match_candidate(&candidate(directory))
            || (!compiled.folded.ways.is_empty()
                && compiled.folded.ways.is_match_candidate(&candidate(&fold_case(directory))))
    }
}

impl Globs {
    fn last_match(&self, path: &[u8], is_dir: bool, rules: &[Rule]) -> Option<usize> {
        let applies = |place: &usize| rules.get(*place).is_some_and(|rule| is_dir || !rule.directories_only);
        let matching = self.whole.matches_candidate(&candidate(path));
        matching.iter().filter_map(|index| self.places.get(*index).copied()).filter(applies).max()
    }
}

/// A pattern taken apart.
struct Parsed {
    takes_back: bool,
    directories_only: bool,
    glob: String,
    /// The globs for the single names of an anchored pattern, where it can be split so.
    names: Option<Vec<String>>,
}

impl Parsed {
    fn new(text: &str) -> Result<Self> {
        let (takes_back, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        if rest.is_empty() {
            return Err(Error::Usage(format!("the pattern {text:?} is empty")));
        }
        let anchored = rest.starts_with('/');
        let names: Vec<String> =
            rest.split('/').filter(|name| !matches!(*name, "" | ".")).map(str::to_owned).collect();
        if names.iter().any(|name| name == "..") {
            return Err(Error::Usage(format!("the pattern {text:?} has a `..`, which no path has")));
        }
        let directories_only = rest.ends_with('/') && !names.is_empty();
        let mut glob = names.join("/");
        if names.is_empty() {
            glob.push_str("**");
        } else if !anchored && names.first().is_none_or(|name| name != "**") {
            glob.insert_str(0, "**/");
        }
        // A brace may hold slashes: then the names cannot be told apart. Without any name it matches everything.
        let splits = anchored && !names.is_empty() && !rest.contains('{');
        Ok(Self { takes_back, directories_only, glob, names: splits.then_some(names) })
    }
}

/// Globs for the directories above what the names match; none if they cannot be told.
fn ways(names: &[String]) -> Option<Vec<Glob>> {
    let mut ways = Vec::new();
    let mut way = String::new();
    for name in names {
        if !way.is_empty() {
            ways.push(glob(&way).ok()?);
            way.push('/');
        }
        way.push_str(name);
        if name == "**" {
            ways.push(glob(&way).ok()?);
            return Some(ways);
        }
    }
    // What matches is itself taken whole, and so what is below it.
    ways.push(glob(&way).ok()?);
    ways.push(glob(&format!("{way}/**")).ok()?);
    Some(ways)
}

fn glob(text: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build()
}

fn bad(text: &str, error: &globset::Error) -> Error {
    Error::Usage(format!("the pattern {text:?} cannot be used: {}", error.kind()))
}

fn candidate(path: &[u8]) -> Candidate<'_> {
    use std::os::unix::ffi::OsStrExt;
    Candidate::new(Path::new(std::ffi::OsStr::from_bytes(path)))
}

fn relative(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"/").unwrap_or(path)
}

/// The path in lower case; bytes that are not UTF-8 stay as they are.
fn fold_case(path: &[u8]) -> Cow<'_, [u8]> {
    if path.iter().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return Cow::Borrowed(path);
    }
    let mut folded = Vec::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        folded.extend_from_slice(chunk.valid().to_lowercase().as_bytes());
        folded.extend_from_slice(chunk.invalid());
    }
    Cow::Owned(folded)
}

/// The patterns in the text of a file of patterns.
///
/// # Errors
/// `Usage` names the line that is not UTF-8.
pub fn read_lines(text: &[u8]) -> Result<Vec<String>> {
    let mut patterns = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line)
            .map_err(|_| Error::Usage(format!("line {} of the patterns is not UTF-8", number + 1)))?
            .trim();
        if !line.is_empty() && !line.starts_with('#') {
            patterns.push(line.to_owned());
        }
    }
    Ok(patterns)
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]
mod tests {
    use super::*;

    fn patterns(list: &[&str]) -> Patterns {
        Patterns::new(list.iter().map(|text| ((*text).to_owned(), CaseFold::Exact))).expect("valid patterns")
    }

    fn hits(pattern: &str, path: &str) -> bool {
        patterns(&[pattern]).matches(path.as_bytes(), false) == Some(true)
    }

    #[test]
    fn without_a_leading_slash_it_matches_whole_names_at_any_depth() {
        assert!(hits("*.o", "/a/b/c.o") && hits("*.o", "c.o") && hits("*.o", "/.o"));
        assert!(!hits("*.o", "/a.o/b"));
        assert!(hits("foo/bar", "/x/foo/bar") && hits("foo/bar", "foo/bar"));
        assert!(!hits("foo/bar", "/xfoo/bar") && !hits("foo/bar", "/foo/x/bar") && !hits("foo", "/foobar"));
    }

    #[test]
    fn with_a_leading_slash_it_is_anchored_and_a_star_stops_at_slashes() {
        assert!(hits("/home/*/.cache", "/home/ann/.cache") && hits("/home/*/.cache", "home/ann/.cache"));
        assert!(!hits("/home/*/.cache", "/home/a/b/.cache") && !hits("/home", "/x/home"));
        assert!(hits("/home/**/cache", "/home/cache") && hits("/home/**/cache", "/home/a/b/cache"));
        assert!(hits("foo/**", "/x/foo/a/b") && !hits("foo/**", "/x/foo"));
    }

    #[test]
    fn classes_alternates_and_escapes_work() {
        assert!(hits("[!a-c]?", "/dx") && !hits("[!a-c]?", "/ax"));
        assert!(
            hits("*.{jpg,png}", "/a.png")
                && hits(r"\{x\}", "/{x}")
                && hits(r"a\*", "/a*")
                && !hits(r"a\*", "/ab")
        );
        assert!(hits(r"\!x", "/!x") && hits(r"\#x", "/#x"));
    }

    #[test]
    fn a_slash_at_the_end_matches_directories_only() {
        let build = patterns(&["build/"]);
        assert_eq!(build.matches(b"/a/build", true), Some(true));
        assert_eq!(build.matches(b"/a/build", false), None);
    }

    #[test]
    fn the_last_match_decides_and_can_take_back() {
        let list = patterns(&["*.log", "!keep.log", "/var/keep.log"]);
        assert_eq!(list.matches(b"/a/x.log", false), Some(true));
        assert_eq!(list.matches(b"/a/keep.log", false), Some(false));
        assert_eq!(list.matches(b"/var/keep.log", false), Some(true));
        assert_eq!(list.matches(b"/a/x.txt", false), None);
    }

    #[test]
    fn names_that_are_not_utf8_match_by_bytes() {
        let list = patterns(&["*.bak", "caf?"]);
        assert_eq!(list.matches(b"/a/\xff\xfe.bak", false), Some(true));
        assert_eq!(list.matches(b"/a/caf\xe9", false), Some(true));
    }

    #[test]
    fn case_is_ignored_in_all_alphabets_where_asked() {
        let list = Patterns::new([
            ("*.JPG".to_owned(), CaseFold::Ignore),
            ("Ärger".to_owned(), CaseFold::Ignore),
            ("!holiday.jpg".to_owned(), CaseFold::Exact),
        ])
        .expect("valid patterns");
        assert_eq!(list.matches(b"/a/X.jpG", false), Some(true));
        assert_eq!(list.matches(b"/a/\xffX.jpG", false), Some(true));
        assert_eq!(list.matches("/a/äRGER".as_bytes(), false), Some(true));
        assert_eq!(list.matches(b"/a/holiday.jpg", false), Some(false));
        assert_eq!(list.matches(b"/a/Holiday.jpg", false), Some(true));
        assert!(!hits("*.JPG", "/a.jpg"));
    }

    #[test]
    fn directories_on_the_way_to_a_match_are_told() {
        let list = patterns(&["/home/*/doc/x", "/srv/**/y", "!/opt/z"]);
        for way in [
            "/",
            "",
            "/home",
            "/home/ann",
            "home/ann/doc",
            "/home/ann/doc/x",
            "/home/ann/doc/x/deep/er",
            "/srv",
            "/srv/a/b",
        ] {
            assert!(list.may_contain(way.as_bytes()), "{way}");
        }
        for other in ["/etc", "/home/ann/pics", "/home/ann/doc/y", "/opt"] {
            assert!(!list.may_contain(other.as_bytes()), "{other}");
        }
        assert!(
            patterns(&["x"]).may_contain(b"/any/where") && patterns(&["/a/{b/c,d}"]).may_contain(b"/a/b")
        );
        assert!(!Patterns::default().may_contain(b"/a"));
    }

    #[test]
    fn what_matches_everything_may_match_below_any_directory() {
        for pattern in ["/", "/.", "//", "**"] {
            assert!(hits(pattern, "/a/b/c"), "{pattern}");
            assert!(patterns(&[pattern]).may_contain(b"/a/b"), "{pattern}");
        }
    }

    #[test]
    fn what_lies_below_an_included_directory_is_included() {
        let list = patterns(&["/home/ann", "!*.o"]);
        assert!(list.includes(false, b"/home/ann", true) && list.includes(true, b"/home/ann/x", false));
        assert!(!list.includes(true, b"/home/ann/x.o", false) && !list.includes(false, b"/home/bob", true));
    }

    #[test]
    fn what_is_no_pattern_is_refused_by_name() {
        for text in ["", "!", "[a", "a/../b", "{a"] {
            let error = Patterns::new([(text.to_owned(), CaseFold::Exact)]).expect_err("no pattern");
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn comments_and_blank_lines_are_no_patterns() {
        let text = b"# comment\n\n  *.o \r\n!a b\n\\#x";
        assert_eq!(read_lines(text).expect("UTF-8"), ["*.o", "!a b", r"\#x"]);
        assert!(read_lines(b"a\n\xff").expect_err("not UTF-8").to_string().contains("line 2"));
    }
}
