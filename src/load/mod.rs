//! The load floor.
