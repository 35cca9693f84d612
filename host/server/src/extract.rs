//! Parts of requests, refused with problem documents.

use std::time::Duration;

use axum::{
    RequestPartsExt,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::BytesRejection},
};
use http::{StatusCode, request::Parts};
use pintle_api::problem::code;
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// Names in the path, percent-decoded.
pub(crate) struct Names<T>(pub(crate) T);

impl<T, S> FromRequestParts<S> for Names<T>
where
    T: DeserializeOwned + Send + 'static,
    S: Send + Sync,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        match parts.extract::<Path<T>>().await {
            Ok(Path(names)) => Ok(Self(names)),
            Err(rejection) => Err(Failure::invalid(format!("path: {}", rejection.body_text()))),
        }
    }
}

/// The query. A parameter that is not known is refused.
pub(crate) struct Parameters<T>(pub(crate) T);

impl<T, S> FromRequestParts<S> for Parameters<T>
where
    T: DeserializeOwned + Send + 'static,
    S: Send + Sync,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        match parts.extract::<Query<T>>().await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(rejection) => Err(Failure::invalid(format!("query: {}", rejection.body_text()))),
        }
    }
}

/// Time within which the body of a request has to come.
const BODY_TIME_MAX: Duration = Duration::from_secs(60);

/// The body, as it is.
pub(crate) struct Raw(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match tokio::time::timeout(BODY_TIME_MAX, Bytes::from_request(request, state)).await {
            Ok(read) => read.map(Self).map_err(|rejection| refused(&rejection)),
            Err(_) => {
                let seconds = BODY_TIME_MAX.as_secs();
                let detail = format!("the body was not complete within {seconds} s");
                Err(Failure::of(code::SLOW_REQUEST, detail))
            }
        }
    }
}

/// The body, from JSON whatever its media type says; an empty one is `{}`.
pub(crate) struct Document<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Document<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let Raw(bytes) = Raw::from_request(request, state).await?;
        let text: &[u8] = if bytes.trim_ascii().is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| Failure::invalid(format!("body: {error}")))
    }
}

fn refused(rejection: &BytesRejection) -> Failure {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let limit = crate::routes::BODY_BYTES_MAX;
        return Failure::of(code::TOO_LARGE, format!("the body has more than {limit} bytes"));
    }
    Failure::invalid(format!("body: {}", rejection.body_text()))
}
