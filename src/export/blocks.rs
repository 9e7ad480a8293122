//! The blocks of a tar archive: headers, what they announce, and the mark at the end, which only a whole archive gets.
//!
//! GNU tar takes an archive that ends between two entries for whole, mark or none. So an archive that lacks something ends with a
//! header whose content never comes: every program that unpacks it says so and fails.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

const BLOCK_LEN: usize = 512;

/// An archive that is being written.
pub(super) struct Blocks<'o> {
    out: &'o mut dyn Write,
    /// Whether all is there that the last header announces.
    is_between: bool,
}

impl<'o> Blocks<'o> {
    pub fn new(out: &'o mut dyn Write) -> Self {
        Self { out, is_between: true }
    }

    /// Adds an entry: its header, and as many bytes of content as that says.
    ///
    /// # Errors
    /// Those of `content`, and `UnexpectedEof` if it is shorter: the archive then ends in the middle of the entry. Those of the output.
    pub fn entry(&mut self, header: &mut Header, content: &mut dyn Read) -> io::Result<()> {
        header.set_cksum();
        let len = header.entry_size()?;
        self.is_between = false;
        self.out.write_all(header.as_bytes())?;
        if io::copy(&mut content.take(len), &mut *self.out)? != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let tail = usize::try_from(len % BLOCK_LEN as u64).unwrap_or(0);
        if tail > 0 {
            self.out.write_all([0; BLOCK_LEN].get(tail..).unwrap_or_default())?;
        }
        self.is_between = true;
        Ok(())
    }

    /// Adds records for the next entry; nothing if there are none.
    ///
    /// # Errors
    /// Those of the output.
    pub fn pax(&mut self, records: &[(String, Vec<u8>)]) -> io::Result<()> {
        let bytes: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        if bytes.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(bytes.len() as u64);
        self.entry(&mut header, &mut &*bytes)
    }

    /// Ends an archive that has all there is.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK_LEN])?;
        self.out.flush()
    }

    /// Ends an archive that lacks something, so that nobody takes it for whole.
    ///
    /// # Errors
    /// Those of the output.
    pub fn break_off(self) -> io::Result<()> {
        if self.is_between {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            header.set_size(BLOCK_LEN as u64);
            header.set_cksum();
            self.out.write_all(header.as_bytes())?;
        }
        self.out.flush()
    }
}

/// A PAX record: its length in bytes, that number among them; a space, `key=value`, and the end of the line.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = |number: usize| number.to_string().len();
    let mut len = rest + digits(rest);
    // The number may have made itself longer.
    len = rest + digits(len);
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::record;

    #[test]
    fn a_record_begins_with_its_own_length() {
        assert_eq!(record("a", b""), b"5 a=\n");
        for len in [0, 1, 3, 4, 5, 6, 90, 92, 93, 94, 95, 96, 990, 991, 992, 993, 994, 995, 9990] {
            let record = record("k", &vec![b'v'; len]);
            let text = std::str::from_utf8(&record).unwrap_or_default();
            assert_eq!(text.split(' ').next(), Some(record.len().to_string().as_str()), "{len}");
        }
    }
}
