//! Pintle's HTTP API.
