//! Control plane: knows the endpoints, the verifiers of their roles, the addresses of their computes, and how to wake
//! them. [`ControlPlane`] is the interface of the [providers](crate::providers), [`CachingControlPlane`] the caches in
//! front of one. Called by `auth`, `compute`, `admin` and `peer_server`.

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
