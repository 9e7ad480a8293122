//! Names of users and groups, from `/etc/passwd` and `/etc/group`.
//!
//! Both are lines of fields separated by colons: the name first, the number third. Where a name or number occurs
//! twice the first line counts, as for the system itself.

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;

/// The names behind numbers, and the numbers behind names, of users or of groups.
#[derive(Debug, Default)]
pub struct Accounts {
    names: HashMap<u32, Vec<u8>>,
    numbers: HashMap<Vec<u8>, u32>,
}

impl Accounts {
    /// Reads a file like `/etc/passwd` or `/etc/group`. One that cannot be read has no accounts, as in a container.
    #[must_use]
    pub fn read(file: &Path) -> Self {
        std::fs::read(file).map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(text: &[u8]) -> Self {
        let mut accounts = Self::default();
        for line in text.split(|byte| *byte == b'\n') {
            let mut fields = line.split(|byte| *byte == b':');
            let name = fields.next().unwrap_or_default();
            let number = fields.nth(1).and_then(|field| std::str::from_utf8(field).ok()?.parse().ok());
            // Lines of `+` and `-` ask a directory service, which is not asked here.
            if let (Some(number), Some(b'!'..=b'*' | b',' | b'.'..=b'~' | 0x80..)) = (number, name.first()) {
                accounts.names.entry(number).or_insert_with(|| name.to_vec());
                accounts.numbers.entry(name.to_vec()).or_insert(number);
            }
        }
        accounts
    }

    /// The name of a number.
    #[must_use]
    pub fn name(&self, number: u32) -> Option<&[u8]> {
        self.names.get(&number).map(Vec::as_slice)
    }

    /// The number of a name.
    #[must_use]
    pub fn number(&self, name: &[u8]) -> Option<u32> {
        self.numbers.get(name).copied()
    }
}

/// The users of this machine, read once.
pub fn users() -> &'static Accounts {
    static USERS: OnceLock<Accounts> = OnceLock::new();
    USERS.get_or_init(|| Accounts::read(Path::new("/etc/passwd")))
}

/// The groups of this machine, read once.
pub fn groups() -> &'static Accounts {
    static GROUPS: OnceLock<Accounts> = OnceLock::new();
    GROUPS.get_or_init(|| Accounts::read(Path::new("/etc/group")))
}

/// The name of a user.
#[must_use]
pub fn user_name(uid: u32) -> Option<Vec<u8>> {
    users().name(uid).map(<[u8]>::to_vec)
}

/// The name of a group.
#[must_use]
pub fn group_name(gid: u32) -> Option<Vec<u8>> {
    groups().name(gid).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_name_or_number_counts() {
        let text = b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\n+nis:x:5:5\nann:x:1000:\nann:x:1001:\nbad\n:x:7:\nbad:x:y:\n\xe9:x:8:";
        let accounts = Accounts::parse(text);
        assert_eq!(accounts.name(0), Some(&b"root"[..]));
        assert_eq!(accounts.number(b"toor"), Some(0));
        assert_eq!(accounts.number(b"ann"), Some(1000));
        assert_eq!(accounts.name(1001), Some(&b"ann"[..]));
        assert_eq!(accounts.name(8), Some(&b"\xe9"[..]));
        assert_eq!((accounts.name(5), accounts.name(7), accounts.number(b"bad")), (None, None, None));
    }

    #[test]
    fn this_machine_has_a_root() {
        assert_eq!(user_name(0).as_deref(), Some(&b"root"[..]));
        assert_eq!(groups().number(b"root"), Some(0));
    }
}
