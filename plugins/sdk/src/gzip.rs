//! Compressing what is sent, and reading what came compressed.

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use std::io::{self, Read, Write};

/// The bytes in gzip, quickly rather than tightly.
pub fn compress(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    // Writing to memory does not fail; if it did, a body that is cut off would not be sent.
    match encoder.write_all(bytes).and_then(|()| encoder.finish()) {
        Ok(compressed) => compressed.into(),
        Err(error) => {
            tracing::error!(%error, "compressing failed");
            Bytes::new()
        }
    }
}

/// What the bytes were before they were compressed, up to `bytes_max`.
///
/// # Errors
///
/// When they are no gzip, or were more.
pub fn decompress(bytes: &[u8], bytes_max: usize) -> io::Result<Bytes> {
    let mut out = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    GzDecoder::new(bytes).take(limit).read_to_end(&mut out)?;
    if out.len() > bytes_max {
        let message = format!("there are more than {bytes_max} bytes in it");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_comes_back() {
        let text = "a span and a span and a span ".repeat(100);
        let compressed = compress(text.as_bytes());
        assert!(compressed.len() * 10 < text.len());
        assert_eq!(decompress(&compressed, text.len()).unwrap(), text);
        assert!(decompress(&compressed, text.len() - 1).is_err());
        assert!(decompress(&compressed[..compressed.len() - 3], text.len()).is_err());
    }
}
