//! [`Shared`]: a part of a state that most successors have in common, with its print.
//!
//! A step changes two or three parts of a state. The others are neither copied nor hashed again.

use std::ops::Deref;
use std::sync::Arc;

use crate::symmetry::Print;

/// An immutable value and its print.
#[derive(Debug)]
pub(crate) struct Shared<T>(Arc<(Print, T)>);

/// What has a print.
pub(crate) trait Printed {
    fn print(&self) -> Print;
}

impl<T: Printed> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new((value.print(), value)))
    }

    pub(crate) fn print(&self) -> &Print {
        &self.0.0
    }
}

impl<T: Printed + Clone> Shared<T> {
    /// Replaces the value by a changed copy.
    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = T::clone(self);
        let result = change(&mut value);
        *self = Self::new(value);
        result
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
