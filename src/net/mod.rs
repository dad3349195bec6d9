//! The net floor.
