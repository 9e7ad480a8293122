//! The layout of `src` and a few habits, as tests. They read text, not types: what the compiler or clippy can hold is
//! left to them. Each check returns what it found, so that the tests below can show it a violation.

mod text;

use std::fs;
use std::path::{Path, PathBuf};

use text::{code, code_without_tests, functions, line, without_literals, words};

/// The modules of the library from the bottom up: a module imports only from lines above its own. Leaves, which are
/// the first line, may import one another.
const LAYERS: [&[&str]; 10] = [
    &[
        "id", "error", "codec", "field", "header", "event", "backend", "pattern", "rate", "session", "guard",
        "seal", "budget",
    ],
    &["sorted"],
    &["chunk"],
    &["pack"],
    &["sidecar"],
    &["index"],
    &["snapshot"],
    &["browse"],
    &["repository"],
    &["transfer"],
];
/// What stands above them are operations, which never import one another, but for these: (importing, imported).
const EXCEPTIONS: [(&str, &str); 1] = [("backup", "source")];

/// Foreign crates, and the only modules that name them; `bin` is the program.
const HOMES: [(&str, &[&str]); 20] = [
    ("reed_solomon_simd", &["sidecar"]),
    ("redb", &["index"]),
    ("memmap2", &["index"]),
    ("zstd", &["pack"]),
    ("fastcdc", &["chunk"]),
    ("blake3", &["id"]),
    ("aws_lc_rs", &["seal"]),
    ("argon2", &["repository"]),
    ("data_encoding", &["repository"]),
    ("bincode", &["codec"]),
    ("globset", &["pattern", "source"]),
    ("ignore", &["pattern", "source"]),
    ("clap", &["bin"]),
    ("rpassword", &["bin"]),
    ("clap_complete", &["bin"]),
    ("clap_mangen", &["bin"]),
    ("indicatif", &["bin"]),
    ("signal_hook", &["bin"]),
    ("serde_json", &["bin"]),
    ("jiff", &["bin", "forget"]),
];

/// What the library leaves to the program: printing, ending, and looking at its surroundings.
const FORBIDDEN: [&str; 9] = [
    "println!",
    "print!",
    "eprintln!",
    "eprint!",
    "dbg!",
    "process::exit",
    "process::abort",
    "env::var",
    "env::var_os",
];
/// The macros among them, which in the program only this file uses.
const PRINTING: &str = "src/bin/vault/render.rs";

/// The longest file and function there are, in lines. They may only go down; the aim is the second number of each.
const LONGEST_FILE: (usize, usize) = (500, 500);
const LONGEST_FUNCTION: (usize, usize) = (70, 70);

#[test]
fn imports_point_down_the_layers() {
    check("src", wrong_imports);
}

#[test]
fn each_foreign_crate_has_one_home() {
    check("src", strangers);
}

#[test]
fn the_library_does_not_print_exit_or_read_the_environment() {
    check("src", forbidden);
}

#[test]
fn every_file_opens_with_its_documentation() {
    check(".", |_, text| {
        (!text.starts_with("//! ")).then(|| "1: does not open with `//! `".into()).into_iter().collect()
    });
}

#[test]
fn nothing_is_left_to_do_allowed_or_ignored() {
    check(".", |_, text| unfinished(text));
}

#[test]
fn files_and_functions_grow_no_longer() {
    let (mut file, mut function) = ((0, String::new()), (0, String::new()));
    for (path, text) in sources(".") {
        file = file.max((text.lines().count(), path.clone()));
        let longest = functions(&text).into_iter().map(|(line, len)| (len, format!("{path}:{line}"))).max();
        function = function.max(longest.unwrap_or_default());
    }
    assert_eq!(ratchet(file.0, LONGEST_FILE), Ok(()), "file {}", file.1);
    assert_eq!(ratchet(function.0, LONGEST_FUNCTION), Ok(()), "function {}", function.1);
}

/// Runs a check over all sources below a folder and fails with all it found.
fn check(below: &str, check: impl Fn(&str, &str) -> Vec<String>) {
    let sources = sources(below);
    assert!(sources.len() > 3, "no sources found");
    let found: Vec<String> = sources
        .iter()
        .flat_map(|(path, text)| check(path, text).into_iter().map(move |what| format!("{path}:{what}")))
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Paths relative to the project, and texts, of the Rust files in its folders.
fn sources(below: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> = ["src", "tests", "benches", "fuzz"]
        .iter()
        .filter(|f| below == "." || **f == below)
        .map(|f| root.join(f))
        .collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).into_iter().flatten() {
            let path = item.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                sources.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    sources.sort();
    sources
}

/// The module of the library that a file belongs to: `bin` for the program, `None` for `lib.rs`.
fn module(path: &str) -> Option<&str> {
    let first = path.strip_prefix("src/")?.split('/').next()?;
    let module = first.strip_suffix(".rs").unwrap_or(first);
    (module != "lib").then_some(module)
}

fn wrong_imports(path: &str, text: &str) -> Vec<String> {
    let Some(importing) = module(path).filter(|m| *m != "bin") else { return Vec::new() };
    let code = code_without_tests(text);
    // From a file of the library to its root: once for `src/x.rs`, twice for `src/x/y.rs`.
    let up = "super::".repeat(path.matches('/').count());
    ["crate::", &up]
        .iter()
        .flat_map(|root| words(&code, root).map(|at| (at, root.len())))
        .filter(|(at, _)| !code[..*at].ends_with("::"))
        .flat_map(|(at, len)| first_names(&code[at + len..]).into_iter().map(move |name| (at, name)))
        .filter(|(_, imported)| !may_import(importing, imported))
        .map(|(at, imported)| format!("{}: {importing} imports {imported}", line(&code, at)))
        .collect()
}

/// `a::b` -> a; `{a::{b, c}, d}` -> a and d.
fn first_names(path: &str) -> Vec<&str> {
    let name = |text| {
        let text: &str = str::trim_start(text);
        &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
    };
    let Some(inner) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut names, mut depth) = (vec![name(inner)], 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&inner[at + 1..])),
            _ => (),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn may_import(importing: &str, imported: &str) -> bool {
    let layer = |module| LAYERS.iter().position(|modules| modules.contains(&module)).unwrap_or(LAYERS.len());
    // What starts with a capital is defined in lib.rs or re-exported there: an import around the layers.
    let is_module = imported.starts_with(|c: char| c.is_lowercase());
    let below = layer(imported) < layer(importing) || layer(importing) == 0 && layer(imported) == 0;
    is_module && (importing == imported || below || EXCEPTIONS.contains(&(importing, imported)))
}

fn strangers(path: &str, text: &str) -> Vec<String> {
    let module = module(path).unwrap_or("lib");
    let code = code_without_tests(text);
    let mut found = Vec::new();
    for (name, homes) in HOMES.iter().filter(|(_, homes)| !homes.contains(&module)) {
        for at in words(&code, name) {
            let (before, after) = (code[..at].trim_end(), &code[at + name.len()..]);
            let imported = before.ends_with("use") || before.ends_with("extern crate");
            let used = after.starts_with("::") && (!before.ends_with("::") || before.ends_with(" ::"));
            if imported || used {
                found.push(format!("{}: {name} belongs in {homes:?}", line(&code, at)));
            }
        }
    }
    found
}

fn forbidden(path: &str, text: &str) -> Vec<String> {
    let in_program = module(path) == Some("bin");
    let code = code_without_tests(text);
    FORBIDDEN
        .iter()
        .filter(|what| !in_program || what.ends_with('!') && path != PRINTING)
        .flat_map(|what| words(&code, what).map(move |at| (at, what)))
        .map(|(at, what)| format!("{}: {what}", line(&code, at)))
        .collect()
}

fn unfinished(text: &str) -> Vec<String> {
    let (code, with_comments) = (code(text), without_literals(text));
    let mut found = Vec::new();
    for what in ["TODO", "FIXME", "XXX", "HACK"] {
        found.extend(words(&with_comments, what).map(|at| (at, what)));
    }
    for what in ["todo!", "unimplemented!"] {
        found.extend(words(&code, what).map(|at| (at, what)));
    }
    for (start, _) in code.match_indices("#[").chain(code.match_indices("#![")) {
        let attribute = &code[start..start + code[start..].find(']').unwrap_or(0)];
        for what in ["allow(", "ignore"] {
            found.extend(words(attribute, what).map(|at| (start + at, what)));
        }
    }
    found.into_iter().map(|(at, what)| format!("{}: {what}", line(text, at))).collect()
}

fn ratchet(found: usize, (limit, aim): (usize, usize)) -> Result<(), String> {
    if found > limit {
        return Err(format!("has {found} lines, more than {limit}"));
    }
    if limit > aim && found < limit {
        return Err(format!("has {found} lines now: lower the limit from {limit} to {}", found.max(aim)));
    }
    Ok(())
}

#[test]
fn a_wrong_import_is_found_however_it_is_written() {
    for (path, text, found) in [
        ("src/pack.rs", "use crate::index::Segment;", "1: pack imports index"),
        ("src/pack/frame.rs", "\nuse super::super::snapshot::Entry;", "2: pack imports snapshot"),
        ("src/id.rs", "use super::chunk::Cut;", "1: id imports chunk"),
        (
            "src/index.rs",
            "use crate::{\n    chunk::{A, B},\n    repository::{C},\n};",
            "1: index imports repository",
        ),
        ("src/restore.rs", "fn f() { crate::backup::run() }", "1: restore imports backup"),
        ("src/source.rs", "use crate::backup::X;", "1: source imports backup"),
        ("src/repository.rs", "use crate::check::X;", "1: repository imports check"),
        ("src/chunk.rs", "use crate::Repository;", "1: chunk imports Repository"),
    ] {
        assert_eq!(wrong_imports(path, text), [found], "{path}: {text}");
    }
    for (path, text) in [
        ("src/backup.rs", "use crate::{error::Result, source::Walk};"),
        ("src/error.rs", "use crate::id::ChunkId;"),
        ("src/snapshot/list.rs", "use super::tree::X; use crate::pack;"),
        ("src/pack.rs", "// see crate::index::X\nconst A: &str = \"crate::index\"; pub(crate) fn f() {}"),
        ("src/pack.rs", "#[cfg(test)]\nmod tests { use crate::repository::X; }"),
        ("src/lib.rs", "pub use crate::repository::X;"),
        ("src/bin/vault/main.rs", "use crate::render::X;"),
    ] {
        assert_eq!(wrong_imports(path, text), [""; 0], "{path}: {text}");
    }
    // The end of a test module is found: what follows it counts again.
    let after = "#[cfg(test)]\nmod tests { mod a {} }\nuse crate::index::X;\n#[cfg(test)] mod more;\nuse crate::check::Y;";
    assert_eq!(wrong_imports("src/pack.rs", after), ["3: pack imports index", "5: pack imports check"]);
}

#[test]
fn a_stranger_is_found() {
    assert_eq!(strangers("src/index/cache.rs", "use redb::Database; use memmap2::Mmap;"), [""; 0]);
    assert_eq!(strangers("src/id.rs", "fn f() { blake3::hash(b\"zstd::x\"); } // zstd::decode"), [""; 0]);
    assert_eq!(strangers("src/index.rs", "use crate::pack::zstd::X;\nlet ignore = 1; mod clap;"), [""; 0]);
    assert_eq!(strangers("src/check.rs", "use redb::Database;")[0], "1: redb belongs in [\"index\"]");
    assert_eq!(strangers("src/check.rs", "\nlet x = ::zstd::decode();").len(), 1);
    assert_eq!(strangers("src/check.rs", "use zstd;").len(), 1);
    assert_eq!(strangers("src/bin/vault/main.rs", "use blake3::Hasher; use clap::Parser;").len(), 1);
    assert_eq!(strangers("src/lib.rs", "pub use bincode::Error;").len(), 1);
}

#[test]
fn printing_is_found() {
    for what in [
        "println!(\"a\")",
        "std::process::exit(1)",
        "env::var(\"HOME\")",
        "std::env::var_os(\"X\")",
        "dbg!(1)",
    ] {
        assert_eq!(forbidden("src/check.rs", &format!("fn f() {{ {what}; }}")).len(), 1, "{what}");
        assert_eq!(forbidden(PRINTING, what), [""; 0]);
    }
    assert_eq!(
        forbidden("src/bin/vault/commands.rs", "eprintln!(); std::process::exit(1)"),
        ["1: eprintln!"]
    );
    assert_eq!(
        forbidden("src/check.rs", "writeln!(f, \"println!\"); env::variable(); env::vars_x()"),
        [""; 0]
    );
}

#[test]
fn what_is_unfinished_is_found() {
    for text in [
        "// TODO: later",
        "/* a FIXME */",
        "fn f() { todo!() }",
        "unimplemented!(\"x\")",
        "#[allow(dead_code)]",
        "#![allow(unused)]",
        "#[cfg_attr(test, allow(unused))]",
        "#[test]\n#[ignore]",
        "#[ignore = \"slow\"]",
    ] {
        assert_eq!(unfinished(text).len(), 1, "{text}");
    }
    for text in
        ["let a = \"TODO\";", "TODOS", "#[expect(x)] fn allow(a: u8) {}", "use ignore::X;", "r#\"todo!()\"#"]
    {
        assert_eq!(unfinished(text), [""; 0], "{text}");
    }
}

#[test]
fn lines_are_counted_and_the_ratchet_turns_one_way() {
    let text = "fn one() {}\n\ntrait T { fn none(&self); }\nfn f<'a>(x: &'a [u8; 2]) {\n let c = '{'; // {\n \"}\";\n}\n";
    assert_eq!(functions(text), [(1, 1), (4, 4)]);
    assert_eq!(functions("let f: fn(u8) = g;\nfn two() {\n  r#\"} \"\"#;\n  b'\\'';\n '\"';\n}"), [(2, 5)]);
    assert!(
        ratchet(501, (500, 500)).is_err()
            && ratchet(500, (500, 500)).is_ok()
            && ratchet(9, (500, 500)).is_ok()
    );
    assert!(ratchet(525, (525, 500)).is_ok() && ratchet(524, (525, 500)).is_err());
}

#[test]
fn a_file_has_its_module() {
    assert_eq!(module("src/pack/frame.rs"), Some("pack"));
    assert_eq!(module("src/bin/vault/main.rs"), Some("bin"));
    assert_eq!((module("src/lib.rs"), module("tests/tidy.rs")), (None, None));
}
