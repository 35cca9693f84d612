//! Types of Pintle's HTTP API.
