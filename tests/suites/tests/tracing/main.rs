//! Spans on their way through a host to real receivers, read back by the receivers' own interfaces
//! and compared span by span.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what is not there fails the test, and says where"
)]

mod generate;
mod jaeger;
mod net;
mod opentracing;
mod own;
mod programs;
mod receive;
mod receiver;
mod rust;
mod shared;
mod skywalking;
mod stage;
mod zipkin;
