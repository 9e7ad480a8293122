//! Structures to bytes and back: the only file that knows bincode.
//!
//! One fixed configuration, `[CODEC-1]` strict (what does not encode to the same bytes is refused), `[CODEC-2]` no
//! trailing bytes, `[CODEC-3]` no length is believed before it was compared with what remains.

use std::fmt;

use serde::de::{self, DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Corruption;

/// The longest structure that is encoded or decoded: a tree node, or outer and body of an object file.
pub const MAX_STRUCT_LEN: usize = 16 << 20;

type Config = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_STRUCT_LEN>,
>;

const CONFIG: Config = bincode::config::standard().with_limit::<MAX_STRUCT_LEN>();

/// The bytes of `value`.
///
/// # Panics
/// Never for the structures of this crate: they hold nothing that cannot be encoded.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // An encoder that writes into memory fails only for types without a fixed length; none of ours is.
    #[expect(clippy::expect_used, reason = "no structure of this crate can fail to encode")]
    bincode::serde::encode_to_vec(value, bincode::config::standard()).expect("structures always encode")
}

/// The structure that `bytes` are, all of them.
///
/// # Errors
/// Names the rule that the bytes break.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, Corruption> {
    if bytes.len() > MAX_STRUCT_LEN {
        return Err(Corruption::StructTooLong { len: bytes.len() as u64 });
    }
    let (value, used) = bincode::serde::decode_from_slice::<T, _>(bytes, CONFIG)
        .map_err(|error| Corruption::Undecodable { reason: error.to_string() })?;
    if used != bytes.len() {
        return Err(Corruption::TrailingBytes { len: (bytes.len() - used) as u64 });
    }
    if encode(&value) != bytes {
        return Err(Corruption::NotCanonical);
    }
    Ok(value)
}

/// A byte string in a structure: a length and that many bytes, decoded without a step per byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub Vec<u8>);

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        // [CODEC-3]: for a buffer of its own it would believe the length.
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

/// A text in a structure, for `#[serde(deserialize_with)]`: for a `String` the decoder believes the length `[CODEC-3]`.
///
/// # Errors
/// Those of the deserializer.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Text::deserialize(deserializer).map(|text| text.0)
}

/// The same of several.
///
/// # Errors
/// Those of the deserializer.
pub fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Text>::deserialize(deserializer)?.into_iter().map(|text| text.0).collect())
}

struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl Visitor<'_> for TextVisitor {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}
