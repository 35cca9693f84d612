//! Everything a plugin author needs: a trait per capability, connections, sessions.
