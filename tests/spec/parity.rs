//! `spec/vectors/v1/parity.txt`: parity of streams of the generator of `chunking.md` §6, as the program makes it, and as `reader.py` reads it.
//!
//! A line is the length of the stream, its seed, the percentage, and the BLAKE3 of the file of parity; of the first ones also the file.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use vault::backend::LocalFolder;
use vault::id::{PackId, RepositoryId, hash};
use vault::session::Session;
use vault::sidecar::{make, sidecar_name};

use super::reader::{assert_done, python, run};
use super::vectors::{hex, hold, lcg};
use crate::support::needs::needs;
use crate::support::scratch::Scratch;

const VECTORS: &str = "spec/vectors/v1/parity.txt";
/// Lengths and percentages: one shard, a few, high and low rate, several groups.
const CASES: [(usize, u32); 7] =
    [(1, 5), (700, 5), (5000, 5), (5000, 100), (300_000, 5), (300_000, 60), (40_000_000, 5)];

/// The file of parity of a stream.
fn parity(at: &Scratch, stream: &[u8], percent: u32) -> Vec<u8> {
    let pack = PackId::from_bytes(hash(stream));
    let name = at.join(sidecar_name(&pack));
    fs::create_dir_all(name.parent().unwrap()).unwrap();
    fs::write(name.with_extension(""), stream).unwrap();
    let backend = LocalFolder::new(at.path());
    let repository = RepositoryId::from_bytes([7; 16]);
    make(&backend, &Session::begin(), repository, pack, percent, &mut |_| true).unwrap();
    fs::read(name).unwrap()
}

#[test]
fn parity_is_made_as_the_vectors_say() {
    let at = Scratch::new();
    at.dir("tmp");
    let mut out = String::new();
    for (seed, (len, percent)) in (1u64..).zip(CASES) {
        let stream: Vec<u8> = lcg(seed).take(len).collect();
        let file = parity(&at, &stream, percent);
        let all = if file.len() < 4000 { hex(&file) } else { "-".into() };
        writeln!(out, "{len} {seed} {percent}: {} {all}", hex(&hash(&file))).unwrap();
    }
    hold(VECTORS, &out);
}

#[test]
fn par_1_par_2_par_3_par_4_python_reads_parity_and_finds_what_is_damaged_of_it() {
    needs!("python3 with the packages of spec/reader.py");
    let script = "
import reader_bytes
done = 0
for line in open('vectors/v1/parity.txt', encoding='ascii'):
    head, file = line.split(': ')
    data = bytes.fromhex(file.split(' ')[1].strip().replace('-', ''))
    if data:
        pack = data[192 + 8:192 + 40]
        shape = reader_bytes.parity(data, bytes([7]) * 16, pack)
        assert shape[0] == int(head.split(' ')[0]), shape
        for at in range(len(data)):
            wrong = bytearray(data)
            wrong[at] ^= 1
            try:
                reader_bytes.parity(bytes(wrong), bytes([7]) * 16, pack)
            except OSError:
                continue
            raise SystemExit(f'byte {at} is not noticed')
        done += 1
assert done >= 2, done
";
    assert_done(&run(&python(), &[Path::new("-c"), Path::new(script)]));
}
