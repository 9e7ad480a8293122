//! Every rule of the specification stands in the code and in a test.
//!
//! In the code: `[PACK-3]` or `"PACK-3"` somewhere under `src/`. In a test: the id in lower case at the beginning or
//! in the middle of the name of a test function, as `pack_3_gaps_are_refused` or `head_1_head_2_…`; or as a row of
//! `spec/vectors/v1/invalid.txt`, each of which is refused for its rule. What cannot be is listed here, with the reason.

use std::collections::BTreeSet;
use std::fs;

use super::{files, text};

/// Rules that no single place in the code can hold, and why.
const NOT_IN_CODE: &[(&str, &str)] =
    &[("FIELD-3", "about fields that a later version may add: there is none yet that refers to chunks")];

/// Rules that no test can break, and why.
const NOT_IN_TESTS: &[(&str, &str)] =
    &[("FIELD-3", "about fields that a later version may add: there is none yet that refers to chunks")];

/// The ids that the specification defines: `- **[PACK-3]** …`.
fn defined() -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for file in files("spec", ".md") {
        for line in fs::read_to_string(&file).unwrap().lines() {
            let id = line
                .strip_prefix("- **[")
                .and_then(|rest| rest.split_once("]**"))
                .map(|(id, _)| id.to_owned());
            if let Some(id) = id {
                assert!(ids.insert(id.clone()), "{}: [{id}] is defined twice", file.display());
            }
        }
    }
    ids
}

fn sources(folder: &str) -> String {
    files(folder, ".rs").iter().map(|file| fs::read_to_string(file).unwrap()).collect()
}

/// The names of all test functions, each with `_` on both sides.
fn test_names() -> Vec<String> {
    let text = sources("src") + &sources("tests");
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line == "#[test]" {
            is_test = true;
        } else if let (true, Some(rest)) = (is_test, line.strip_prefix("fn ")) {
            names.push(format!("_{}_", rest.split('(').next().unwrap_or_default()));
            is_test = false;
        }
    }
    names
}

fn compare(what: &str, missing: &BTreeSet<String>, allowed: &[(&str, &str)]) {
    let allowed: BTreeSet<String> = allowed.iter().map(|(id, _)| (*id).to_owned()).collect();
    let new: Vec<_> = missing.difference(&allowed).collect();
    let done: Vec<_> = allowed.difference(missing).collect();
    assert!(new.is_empty(), "rules that are not in {what}: {new:?}");
    assert!(
        done.is_empty(),
        "rules that are in {what} now, to be taken off the list in tests/spec/rules.rs: {done:?}"
    );
}

#[test]
fn every_rule_stands_in_the_code() {
    let code = sources("src");
    let missing = defined()
        .into_iter()
        .filter(|id| !code.contains(&format!("[{id}]")) && !code.contains(&format!("\"{id}\"")))
        .collect();
    compare("the code", &missing, NOT_IN_CODE);
}

#[test]
fn every_rule_has_a_test() {
    let names = test_names();
    let invalid = text("spec/vectors/v1/invalid.txt");
    let missing = defined()
        .into_iter()
        .filter(|id| {
            let wanted = format!("_{}_", id.to_lowercase().replace('-', "_"));
            !names.iter().any(|name| name.contains(&wanted)) && !invalid.contains(&format!(" {id} "))
        })
        .collect();
    compare("a test's name", &missing, NOT_IN_TESTS);
}

#[test]
fn every_rule_that_is_named_is_defined() {
    let defined = defined();
    let mut texts: Vec<_> = files("spec", ".md");
    texts.extend(files("spec", ".py"));
    texts.extend(files("src", ".rs"));
    for file in texts {
        let text = fs::read_to_string(&file).unwrap();
        for part in text.split('[').skip(1) {
            let Some((id, _)) = part.split_once(']') else { continue };
            let is_id = id.split_once('-').is_some_and(|(word, number)| {
                word.bytes().all(|byte| byte.is_ascii_uppercase())
                    && !word.is_empty()
                    && !number.is_empty()
                    && number.bytes().all(|byte| byte.is_ascii_digit())
            });
            assert!(!is_id || defined.contains(id), "{}: [{id}] is not defined", file.display());
        }
    }
}
