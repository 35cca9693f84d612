//! Bodies as they were before they were compressed.

use std::io::Read;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
};
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, StatusCode, header};
use tokio::sync::Semaphore;

use super::REQUEST_BYTES_MAX;

/// Bodies that are unpacked and read at a time. One of them may take some hundred megabytes for a
/// moment, whatever its length is.
const READERS_MAX: usize = 2;

static READERS: Semaphore = Semaphore::const_new(READERS_MAX);

/// A body as it came, and the head that it came with.
pub(super) struct Packed {
    headers: HeaderMap,
    body: Bytes,
}

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) status: StatusCode,
    pub(super) reason: String,
}

impl Packed {
    pub(super) async fn of(request: Request) -> Result<Self, Unreadable> {
        let headers = request.headers().clone();
        let body = Bytes::from_request(request, &()).await.map_err(|rejection| Unreadable {
            status: rejection.status(),
            reason: rejection.body_text(),
        })?;
        Ok(Self { headers, body })
    }

    /// Whether the body is of this media type, whatever its parameters are.
    pub(super) fn is(&self, media_type: &str) -> bool {
        let value = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = value.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(media_type)
    }

    /// Unpacks it and reads what it holds, where that keeps no other request waiting.
    pub(super) async fn read<T, F>(self, read: F) -> Result<T, Unreadable>
    where
        T: Send + 'static,
        F: FnOnce(Bytes) -> Result<T, String> + Send + 'static,
    {
        let encoding = self.headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes());
        let is_packed = match encoding {
            None | Some(b"" | b"identity") => false,
            Some(b"gzip" | b"x-gzip") => true,
            Some(_) => {
                let reason = "the body is packed with something else than gzip".to_owned();
                return Err(Unreadable { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, reason });
            }
        };
        // It is never closed.
        let _permit = READERS.acquire().await.ok();
        let reading = tokio::task::spawn_blocking(move || {
            let body = if is_packed { unpack(&self.body)? } else { self.body };
            let refuse = |reason| Unreadable { status: StatusCode::BAD_REQUEST, reason };
            read(body).map_err(refuse)
        });
        reading.await.unwrap_or_else(|error| {
            let reason = format!("the body was not read: {error}");
            Err(Unreadable { status: StatusCode::INTERNAL_SERVER_ERROR, reason })
        })
    }
}

fn unpack(packed: &[u8]) -> Result<Bytes, Unreadable> {
    let mut body = Vec::new();
    let limit = u64::try_from(REQUEST_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    let read = MultiGzDecoder::new(packed).take(limit).read_to_end(&mut body);
    if let Err(error) = read {
        let reason = format!("the body is no gzip: {error}");
        return Err(Unreadable { status: StatusCode::BAD_REQUEST, reason });
    }
    if body.len() > REQUEST_BYTES_MAX {
        let reason = format!("unpacked the body has more than {REQUEST_BYTES_MAX} bytes");
        return Err(Unreadable { status: StatusCode::PAYLOAD_TOO_LARGE, reason });
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_packed_body_is_unpacked_up_to_the_limit() {
        assert_eq!(unpack(&packed(b"spans")).unwrap(), "spans");
        let bomb = packed(&vec![0; REQUEST_BYTES_MAX + 1]);
        assert!(bomb.len() < 200_000);
        assert_eq!(unpack(&bomb).unwrap_err().status, 413);
        assert_eq!(unpack(b"no gzip at all").unwrap_err().status, 400);
        let cut = packed(b"spans");
        assert_eq!(unpack(&cut[..cut.len() - 4]).unwrap_err().status, 400);
    }
}
