//! The network as a guest sees it: the fixture `network-probe` in a small host of its own.

mod guest;
mod http;
mod latency;
mod servers;
mod tcp;
mod tls;
