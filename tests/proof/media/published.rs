//! The tables of `spec/media.md`: what is published is what was measured.

use std::fs;
use std::path::Path;

/// What was measured of one medium: in each respect, what came of it.
pub type Column = Vec<(String, String)>;

/// The column of a medium in the table whose first line begins with this word.
pub fn column(table: &str, medium: &str) -> Column {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/media.md");
    let text = fs::read_to_string(path).unwrap();
    let mut lines =
        text.lines().map(cells).skip_while(|cells| cells.first().is_none_or(|first| first != table));
    let head = lines.next().unwrap_or_else(|| panic!("no table {table:?}"));
    let at = head.iter().position(|name| name == medium).unwrap_or_else(|| panic!("no column {medium:?}"));
    let rows = lines.skip(1).take_while(|cells| cells.len() == head.len());
    rows.map(|cells| (cells[0].clone(), cells[at].clone())).collect()
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.strip_prefix('|').and_then(|line| line.strip_suffix('|'));
    inner.map_or_else(Vec::new, |inner| inner.split('|').map(|cell| cell.trim().to_owned()).collect())
}

/// Where two columns are not the same.
pub fn differences(published: &Column, measured: &Column) -> Vec<String> {
    let mut lines = Vec::new();
    for (what, is) in measured {
        match published.iter().find(|(other, _)| other == what) {
            Some((_, said)) if said == is => {}
            Some((_, said)) => lines.push(format!("{what}: {is}, and published is: {said}")),
            None => lines.push(format!("{what}: {is}, and nothing is published")),
        }
    }
    let is_measured = |what: &String| measured.iter().any(|(other, _)| other == what);
    let stale = published.iter().filter(|(what, _)| !is_measured(what));
    lines.extend(stale.map(|(what, said)| format!("{what}: published is {said}, and nothing was measured")));
    lines
}

/// Asserts that what was measured is what is published.
pub fn assert_published(table: &str, medium: &str, measured: &Column) {
    println!("{table} {medium}: {measured:#?}");
    let differences = differences(&column(table, medium), measured);
    assert!(differences.is_empty(), "{medium}, {table}:\n{}", differences.join("\n"));
}
