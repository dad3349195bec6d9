//! The proxy floor.
