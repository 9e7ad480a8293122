//! Rust source as far as the checks need it: what is code, what is comment, where a function ends. Strings, characters
//! and comments are blanked by spaces, newlines stay, so that lines and offsets are those of the file.

use std::ops::Range;

/// What a byte of a source file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Code,
    Comment,
    Literal,
}

/// The text with literals blanked, comments kept.
pub fn without_literals(text: &str) -> String {
    keep(text, |part| part != Part::Literal)
}

/// The text with literals and comments blanked.
pub fn code(text: &str) -> String {
    keep(text, |part| part == Part::Code)
}

/// Code with the test modules beside it blanked too.
pub fn code_without_tests(text: &str) -> String {
    let mut code = code(text);
    while let Some(at) = code.find("#[cfg(test)]") {
        let block = block_from(&code, at).end;
        // `mod tests;` has no block of its own.
        let end = code[at..].find(';').map_or(block, |semicolon| block.min(at + semicolon + 1)).max(at + 12);
        let blank: String = code[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(at..end, &blank);
    }
    code
}

fn keep(text: &str, kept: impl Fn(Part) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for (part, range) in parts(text) {
        if kept(part) {
            out.push_str(&text[range]);
        } else {
            out.extend(text[range].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
        }
    }
    out
}

fn parts(text: &str) -> Vec<(Part, Range<usize>)> {
    let bytes = text.as_bytes();
    let mut parts = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (part, len) = match rest {
            [b'/', b'/', ..] => (Part::Comment, find(rest, b"\n").unwrap_or(rest.len())),
            [b'/', b'*', ..] => (Part::Comment, block_comment_len(rest)),
            [b'"', ..] => (Part::Literal, string_len(rest)),
            [b'\'', ..] => char_len(text, at).map_or((Part::Code, 1), |len| (Part::Literal, len)),
            [b'r', ..]
                if !is_word(at.checked_sub(1).and_then(|i| bytes.get(i)).copied().filter(|b| *b != b'b')) =>
            {
                raw_string_len(rest).map_or((Part::Code, 1), |len| (Part::Literal, len))
            }
            _ => (Part::Code, 1),
        };
        parts.push((part, at..at + len));
        at += len;
    }
    // A character of several bytes is code only in an identifier; then its bytes are joined again.
    parts.dedup_by(|b, a| {
        a.0 == b.0 && {
            a.1.end = b.1.end;
            true
        }
    });
    parts
}

fn block_comment_len(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_len(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The length of `r"…"` or `r#"…"#`; `None` if this is a word that begins with an r.
fn raw_string_len(bytes: &[u8]) -> Option<usize> {
    let hashes = bytes[1..].iter().take_while(|b| **b == b'#').count();
    (bytes.get(1 + hashes) == Some(&b'"')).then(|| {
        let end = [&b"\""[..], &b"#".repeat(hashes)].concat();
        let start = 2 + hashes;
        find(&bytes[start..], &end).map_or(bytes.len(), |len| start + len + end.len())
    })
}

/// The length of a character literal; `None` if the quote begins a lifetime.
fn char_len(text: &str, at: usize) -> Option<usize> {
    let mut chars = text[at + 1..].chars();
    match chars.next()? {
        '\\' => {
            let escaped = chars.next()?.len_utf8();
            text[at + 2 + escaped..].find('\'').map(|end| 2 + escaped + end + 1)
        }
        c => (chars.next()? == '\'').then(|| c.len_utf8() + 2),
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Whether a byte can stand in an identifier.
pub fn is_word(byte: Option<u8>) -> bool {
    byte.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Offsets at which `word` stands as a word of its own. A `word` that ends in punctuation is bounded by that.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let end = at + word.len();
        let open_end = !is_word(word.bytes().last());
        !is_word(at.checked_sub(1).map(|i| bytes[i])) && (open_end || !is_word(bytes.get(end).copied()))
    })
}

/// The line number of an offset.
pub fn line(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// From `at` to the end of the first block in braces after it.
pub fn block_from(code: &str, at: usize) -> Range<usize> {
    let mut depth = 0_usize;
    for (i, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return at..i + 1;
        }
    }
    at..code.len()
}

/// Line and length in lines of every function that has a body.
pub fn functions(text: &str) -> Vec<(usize, usize)> {
    let code = code(text);
    let mut functions = Vec::new();
    for at in words(&code, "fn") {
        let named = code[at + 2..].trim_start().starts_with(|c: char| c.is_alphabetic() || c == '_');
        if named && has_body(&code[at..]) {
            let block = block_from(&code, at);
            functions.push((line(&code, at), code[block].matches('\n').count() + 1));
        }
    }
    functions
}

/// Whether a signature ends in a block and not in a semicolon. The one in `[u8; 2]` does not end it.
fn has_body(signature: &str) -> bool {
    let mut depth = 0;
    for c in signature.chars() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' | ';' if depth == 0 => return c == '{',
            _ => (),
        }
    }
    false
}
