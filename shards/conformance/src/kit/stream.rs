//! Whole operations on the two halves of a connection.
