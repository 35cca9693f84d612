//! A whole body at once, as a unary call reads it.

use super::Failed;
use super::body::poll_chunk;
use ::http::HeaderMap;
use bytes::{Bytes, BytesMut};
use futures::future::poll_fn;
use h2::RecvStream;

/// Reads a body of at most `bytes_max` bytes, and its trailers. A larger one answers how much was
/// there before it was given up.
///
/// # Errors
///
/// When the stream breaks.
pub(crate) async fn collect(
    stream: &mut RecvStream,
    bytes_max: usize,
) -> Result<Result<(Bytes, Option<HeaderMap>), usize>, Failed> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(chunk) = poll_fn(|cx| poll_chunk(stream, cx)).await {
        let chunk = chunk?;
        let length = first.len() + rest.len() + chunk.len();
        if length > bytes_max {
            return Ok(Err(length));
        }
        if first.is_empty() {
            first = chunk;
        } else {
            rest.extend_from_slice(&chunk);
        }
    }
    let trailers = poll_fn(|cx| stream.poll_trailers(cx)).await?;
    if rest.is_empty() {
        return Ok(Ok((first, trailers)));
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(Ok((whole.freeze(), trailers)))
}
