//! Jute: how records become bytes. Integers most significant byte first; strings, buffers and
//! vectors behind a length, -1 for null.

use std::fmt;

/// What came is not what the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// Writes records at the end of a buffer.
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Encoder<'a> {
    /// Writes behind what `out` holds.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) {
        self.out.push(u8::from(value));
    }

    /// A 32-bit integer.
    pub fn int(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// A 64-bit integer.
    pub fn long(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Bytes, or null.
    pub fn buffer(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.int(-1),
            Some(bytes) => {
                self.length(bytes.len());
                self.out.extend_from_slice(bytes);
            }
        }
    }

    /// Text.
    pub fn string(&mut self, value: &str) {
        self.buffer(Some(value.as_bytes()));
    }

    /// How many elements of a vector follow.
    pub fn length(&mut self, count: usize) {
        // Frames are far smaller; one that is not is refused before it is sent.
        self.int(i32::try_from(count).unwrap_or(i32::MAX));
    }

    /// A vector of texts.
    pub fn strings<S: AsRef<str>>(&mut self, values: &[S]) {
        self.length(values.len());
        for value in values {
            self.string(value.as_ref());
        }
    }
}

/// Reads records from the front of a slice. It takes no more memory than there is input.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Reads `input`.
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// # Errors
    ///
    /// When something is left.
    pub fn finish(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("bytes are left behind a record")) }
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (chunk, rest) =
            self.rest.split_first_chunk::<N>().ok_or(Malformed("a record is cut off"))?;
        self.rest = rest;
        Ok(*chunk)
    }

    /// A boolean.
    ///
    /// # Errors
    ///
    /// When there is none. (So for all that follow.)
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.chunk()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Malformed("a boolean is neither 0 nor 1")),
        }
    }

    /// A 32-bit integer.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn int(&mut self) -> Result<i32, Malformed> {
        self.chunk().map(i32::from_be_bytes)
    }

    /// A 64-bit integer.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn long(&mut self) -> Result<i64, Malformed> {
        self.chunk().map(i64::from_be_bytes)
    }

    /// Bytes, or null.
    ///
    /// # Errors
    ///
    /// When there are not as many as the length says.
    pub fn buffer(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let Some(length) = self.length()? else { return Ok(None) };
        let (bytes, rest) =
            self.rest.split_at_checked(length).ok_or(Malformed("a buffer is cut off"))?;
        self.rest = rest;
        Ok(Some(bytes))
    }

    /// Text; null is refused.
    ///
    /// # Errors
    ///
    /// When it is no UTF-8, or cut off.
    pub fn string(&mut self) -> Result<&'a str, Malformed> {
        let bytes = self.buffer()?.ok_or(Malformed("a text is null"))?;
        std::str::from_utf8(bytes).map_err(|_| Malformed("a text is no UTF-8"))
    }

    /// A vector of texts; null is empty.
    ///
    /// # Errors
    ///
    /// When there are not as many as the length says.
    pub fn strings(&mut self) -> Result<Vec<String>, Malformed> {
        let count = self.length()?.unwrap_or(0);
        // Each text takes at least the bytes of its length.
        if count > self.rest.len() / size_of::<i32>() {
            return Err(Malformed("a vector is cut off"));
        }
        (0..count).map(|_| self.string().map(str::to_owned)).collect()
    }

    fn length(&mut self) -> Result<Option<usize>, Malformed> {
        match self.int()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length);
                length.map(Some).map_err(|_| Malformed("a length is negative"))
            }
        }
    }
}
