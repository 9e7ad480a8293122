//! The tables of `spec/format.md`, summed up and compared with the constants of the code.

use super::text;

/// A table of offsets: its name and its rows of offset and size.
struct Table {
    name: String,
    rows: Vec<(usize, usize)>,
    total: usize,
}

fn tables() -> Vec<Table> {
    let text = text("spec/format.md");
    let mut lines = text.lines();
    let mut tables = Vec::new();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("<!-- table: ").and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        assert_eq!(lines.next(), Some("| offset | size | field |"), "{name}");
        assert_eq!(lines.next(), Some("|---|---|---|"), "{name}");
        let (mut rows, mut total) = (Vec::new(), None);
        for line in lines.by_ref().take_while(|line| line.starts_with('|')) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let size = cells[2].parse().unwrap_or_else(|_| panic!("{name}: {line}"));
            if cells[1] == "=" {
                total = Some(size);
            } else {
                assert_eq!(total, None, "{name}: rows behind the sum");
                rows.push((cells[1].parse().unwrap_or_else(|_| panic!("{name}: {line}")), size));
            }
        }
        tables.push(Table {
            name: name.to_owned(),
            rows,
            total: total.unwrap_or_else(|| panic!("{name}: no sum")),
        });
    }
    tables
}

/// Each table of offsets and the length that the code gives to it.
const LENGTHS: &[(&str, usize)] = &[
    ("HEADER", vault::header::HEADER_LEN),
    ("FRAME", vault::pack::FRAME_HEADER_LEN),
    ("DIRECTORY", vault::pack::DIRECTORY_LEN),
    ("DIRECTORY_FRAME", vault::pack::DIRECTORY_FRAME_LEN),
    ("DIRECTORY_CHUNK", vault::pack::DIRECTORY_CHUNK_LEN),
    ("TAIL", vault::pack::TAIL_LEN),
    ("FACT", vault::index::FACT_LEN),
    ("KEY_BOX", vault::seal::KEY_BOX_LEN),
    ("PARITY", vault::sidecar::PARITY_LEN),
];

#[test]
fn tables_add_up_and_have_the_lengths_of_the_code() {
    let tables = tables();
    for Table { name, rows, total } in &tables {
        let mut end = 0;
        for (offset, size) in rows {
            assert_eq!(*offset, end, "{name}: the row at {offset} leaves a gap or overlaps");
            end += size;
        }
        assert_eq!(end, *total, "{name}: the sizes do not add up");
    }
    let found: Vec<(&str, usize)> = tables.iter().map(|table| (table.name.as_str(), table.total)).collect();
    assert_eq!(found, LENGTHS);
}

/// The rows of §11 that the code has a constant for.
const LIMITS: &[(&str, u64)] = &[
    ("chunk", vault::pack::MAX_CHUNK_LEN as u64),
    ("plain bytes of a frame", vault::pack::MAX_FRAME_LEN as u64),
    ("pack", vault::pack::MAX_PACK_LEN),
    ("name", vault::snapshot::MAX_NAME_LEN as u64),
    ("link target", vault::snapshot::MAX_TARGET_LEN as u64),
    ("xattr value", vault::snapshot::MAX_XATTR_LEN),
    ("outer and body of an object file", vault::codec::MAX_STRUCT_LEN as u64),
];

#[test]
fn limit_1_the_limits_are_those_of_the_code() {
    let text = text("spec/format.md");
    let (_, section) = text.split_once("## 11. Limits").unwrap();
    let rows: Vec<(&str, u64)> = section
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            Some((*cells.get(1)?, bytes(cells.get(2)?)?))
        })
        .collect();
    for limit in LIMITS {
        assert!(rows.contains(limit), "{limit:?} is not what §11 says: {rows:?}");
    }
}

/// `32 MiB + 64 KiB` as a number; what follows a comma is not looked at.
fn bytes(text: &str) -> Option<u64> {
    let first = text.split(", ").next()?;
    let words: Vec<&str> = first.split(' ').collect();
    let mut sum = 0u64;
    for (at, pair) in words.chunks(3).enumerate() {
        let unit = match *pair.get(1)? {
            "bytes" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        let value = pair[0].replace(',', "").parse::<u64>().ok()? * unit;
        let minus = at > 0 && words[at * 3 - 1] == "-";
        sum = if minus { sum.checked_sub(value)? } else { sum.checked_add(value)? };
    }
    Some(sum)
}

#[test]
fn the_numbers_in_the_text_are_read_right() {
    assert_eq!(bytes("32 MiB + 64 KiB"), Some((32 << 20) + (64 << 10)));
    assert_eq!(bytes("4 GiB - 64 bytes, 1,048,576 chunks"), Some((4 << 30) - 64));
    assert_eq!(bytes("4,096 bytes"), Some(4096));
    assert_eq!(bytes("---"), None);
}
