//! The runtime floor.
