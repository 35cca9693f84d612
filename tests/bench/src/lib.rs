//! Alternating measurements with bootstrap bounds.
