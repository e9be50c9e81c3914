//! [`Shared`]: a part of a state that successors share, with its fingerprint.
//!
//! A step changes two or three parts of a state. The other parts are neither copied nor hashed again.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::symmetry::Fingerprint;

/// A value and its fingerprint, which is computed on first use.
#[derive(Debug)]
pub(crate) struct Shared<T>(Arc<Cached<T>>);

/// The value behind a [`Shared`].
#[derive(Clone, Debug)]
struct Cached<T> {
    fingerprint: OnceLock<Fingerprint>,
    value: T,
}

/// A value with a fingerprint.
pub(crate) trait Fingerprinted {
    /// Hashes that do not depend on names.
    fn fingerprint(&self) -> Fingerprint;
}

impl<T: Fingerprinted> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Cached { fingerprint: OnceLock::new(), value }))
    }

    pub(crate) fn fingerprint(&self) -> &Fingerprint {
        self.0.fingerprint.get_or_init(|| self.0.value.fingerprint())
    }
}

impl<T: Fingerprinted + Clone> Shared<T> {
    /// Changes the value; copies it first when it is shared.
    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let own = Arc::make_mut(&mut self.0);
        own.fingerprint.take();
        change(&mut own.value)
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
        &self.0.value
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.value == other.0.value
    }
}
