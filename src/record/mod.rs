//! Kafka's record batch, format 2, byte for byte: pure functions over slices, no files.

/// A named value that travels with a record. Names may repeat and may be empty; a value may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name.
    pub key: &'a str,
    /// The value; `None` is stored as null.
    pub value: Option<&'a [u8]>,
}
