//! OTLP over gRPC.

use axum::{Router, body::Body, extract::Request, response::Response, routing::post};
use bytes::{Buf, Bytes};
use futures::future::{Ready, ready};
use pintle::{
    Pintle,
    tracing::{NotTaken, Pipeline},
};
use pintle_otlp::{
    ExportTracePartialSuccess, ExportTraceServiceResponse, GRPC_PATH, status::RichStatus,
};
use prost::Message;
use tonic::{
    Code, Status,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, UnaryService},
};

use super::{REQUEST_BYTES_MAX, refused, retry_after};

pub(super) fn routes(pintle: Pintle) -> Router {
    let export = move |request: Request| {
        let pipeline = pintle.pipeline().clone();
        async move { exchange(pipeline, request).await }
    };
    // What is not here is told in gRPC's words too.
    Router::new().route(GRPC_PATH, post(export)).fallback(unknown)
}

async fn unknown() -> Response {
    Status::unimplemented("only traces are taken here")
        .into_http::<tonic::body::Body>()
        .map(Body::new)
}

async fn exchange(pipeline: Pipeline, request: Request) -> Response {
    let gzip = CompressionEncoding::Gzip;
    let mut grpc = Grpc::new(Raw)
        .accept_compressed(gzip)
        .send_compressed(gzip)
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    grpc.unary(Export(pipeline), request).await.map(Body::new)
}

struct Export(Pipeline);

impl UnaryService<Bytes> for Export {
    type Response = ExportTraceServiceResponse;
    type Future = Ready<Result<tonic::Response<Self::Response>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let taken = self.0.try_offer(request.into_inner());
        ready(taken.map_err(|refusal| status(&refusal)).map(|taken| {
            let partial_success = refused(&taken).map(|(rejected_spans, error_message)| {
                ExportTracePartialSuccess { rejected_spans, error_message }
            });
            tonic::Response::new(ExportTraceServiceResponse { partial_success })
        }))
    }
}

fn status(refusal: &NotTaken) -> Status {
    let code = match refusal {
        NotTaken::Malformed(_) => Code::InvalidArgument,
        NotTaken::NoSink => Code::FailedPrecondition,
        NotTaken::Full { .. } | NotTaken::Closed => Code::Unavailable,
    };
    let message = refusal.to_string();
    let rich = RichStatus::new(code.into(), message.as_str(), retry_after(refusal));
    Status::with_details(code, message, rich.encode_to_vec().into())
}

/// Requests as they come, without building them.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = ExportTraceServiceResponse;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
