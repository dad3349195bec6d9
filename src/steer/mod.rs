//! The steer floor.
