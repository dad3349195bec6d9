//! Values that remember who gave them.

use super::config::ConfigError;

/// A value and who gave it, for errors that are found later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given<T> {
    pub(crate) value: T,
    /// A variable, a flag or a method.
    pub(crate) origin: String,
}

impl<T> Given<T> {
    pub(super) fn by(origin: &str, value: T) -> Given<T> {
        Given { value, origin: origin.to_owned() }
    }
}

impl<T: ToString> Given<T> {
    /// The error that this value cannot be used here.
    pub(crate) fn unusable(&self, wrong: String, allowed: String) -> ConfigError {
        let (origin, value) = (self.origin.clone(), self.value.to_string());
        ConfigError::Unusable { origin, value, wrong, allowed }
    }
}
