//! Who knows endpoints: their roles' verifiers, where their computes are, and how to wake them. One trait, so that a
//! file, an HTTP service or the database itself can be asked ([`crate::providers`]); [`CachingControlPlane`] stands before all of them.

mod access_cache;
mod address_cache;
mod caching;
mod compute_address;
mod endpoint_rules;
mod error;
mod idle;
mod invalidation;
mod lookup_cache;
mod lookup_order;
mod provider;
mod shared_provider;

pub(crate) use self::access_cache::KnownAccess;
pub(crate) use self::caching::CachingControlPlane;
pub(crate) use self::compute_address::{Address, Compute};
pub(crate) use self::error::ControlPlaneError;
pub(crate) use self::idle::InUse;
pub(crate) use self::invalidation::{Dropped, Invalidation};
pub(crate) use self::provider::{Access, ControlPlane, LookupContext, NoControlPlane, Reply};
