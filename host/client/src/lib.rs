//! Client for Pintle's HTTP API.
