//! Route: finds the endpoint and role that a client wants.
//!
//! The endpoint is named by the TLS server name, by `options`, by the user name, or before the password. The text that names
//! it is not passed on to the compute. Called by the session after the handshake, and by `auth` with a password.

mod endpoint_name;
mod error;
mod options;

use bytes::Bytes;
use pq_proto::{StartupParams, Text};

pub(crate) use self::endpoint_name::EndpointName;
pub(crate) use self::error::RouteError;
use self::options::{OPTION_PREFIXES, take_from_options};

/// The endpoint and role of a client, and the startup parameters for the compute.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) endpoint: EndpointName,
    pub(crate) role: Text,
    /// The parameters for the compute, in the client's order, without what named the endpoint.
    pub(crate) params: StartupParams,
}

/// Whether a startup packet names the endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StartupRoute {
    /// It names the endpoint.
    Known(Route),
    /// It does not; the password may, see [`RouteInPassword::with_password`].
    InPassword(RouteInPassword),
}

/// A client that has named no endpoint so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RouteInPassword {
    pub(crate) role: Text,
    params: StartupParams,
}

impl Route {
    /// Finds the route. `server_name` is the client's in TLS, `domains` are those of the certificate that it saw.
    ///
    /// A server name is a route only inside one of these domains: anything else, such as `localhost`, is only a name
    /// of the proxy's machine. The user name is looked at last, because a role may have an `@` in its name.
    pub(crate) fn find(
        server_name: Option<&str>,
        domains: &[String],
        params: StartupParams,
    ) -> Result<StartupRoute, RouteError> {
        refuse_duplicates(&params)?;
        let (in_options, options) = params.get("options").map(take_from_options).unwrap_or_default();
        let in_name = server_name.and_then(|name| label_inside(name, domains));
        let mut role = params.get("user").cloned().unwrap_or_default();
        let mut endpoint = None;
        for named in in_name.into_iter().map(Bytes::from).chain(in_options) {
            endpoint = Some(agree(endpoint, &named)?);
        }
        if endpoint.is_none()
            && let Some(at) = role.as_bytes().iter().rposition(|byte| *byte == b'@')
        {
            endpoint = Some(EndpointName::from_bytes(&role.as_bytes()[at + 1..])?);
            role = Text::new(Bytes::copy_from_slice(&role.as_bytes()[..at]));
        }
        if role.is_empty() {
            return Err(RouteError::NoUser);
        }
        let params = params.iter().filter_map(|(name, value)| match name.as_bytes() {
            b"user" => Some((name.clone(), role.clone())),
            b"options" => Some((name.clone(), options.clone()?)),
            _ => Some((name.clone(), value.clone())),
        });
        let params = params.collect();
        Ok(match endpoint {
            Some(endpoint) => StartupRoute::Known(Self { endpoint, role, params }),
            None => StartupRoute::InPassword(RouteInPassword { role, params }),
        })
    }
}

impl RouteInPassword {
    /// Takes `endpoint=NAME;` or `endpoint=NAME$` from the beginning of what the client sent as its password, and gives
    /// the rest. An endpoint's name has neither of these characters, so the first one ends it, whatever the password is.
    pub(crate) fn with_password(self, sent: &[u8]) -> Result<(Route, &[u8]), RouteError> {
        let named =
            OPTION_PREFIXES.iter().find_map(|prefix| sent.strip_prefix(*prefix)).ok_or(RouteError::None)?;
        let end = named.iter().position(|byte| matches!(byte, b';' | b'$')).ok_or(RouteError::None)?;
        let endpoint = EndpointName::from_bytes(&named[..end])?;
        Ok((Route { endpoint, role: self.role, params: self.params }, &named[end + 1..]))
    }
}

/// PostgreSQL uses the last value of a repeated parameter. The proxy refuses repetition rather than route by another one.
fn refuse_duplicates(params: &StartupParams) -> Result<(), RouteError> {
    let mut names: Vec<&Text> = params.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(RouteError::Duplicate(pair[0].to_str_lossy().into_owned())),
        None => Ok(()),
    }
}

fn agree(before: Option<EndpointName>, named: &[u8]) -> Result<EndpointName, RouteError> {
    let named = EndpointName::from_bytes(named)?;
    match before {
        Some(before) if before != named => Err(RouteError::Disagreement(before, named)),
        _ => Ok(named),
    }
}

/// The label of `server_name` that stands in place of the `*` of `*.domain`, in lower case.
fn label_inside(server_name: &str, domains: &[String]) -> Option<String> {
    let (label, rest) = server_name.split_once('.')?;
    let is_ours = domains.iter().any(|domain| domain.eq_ignore_ascii_case(rest));
    is_ours.then(|| label.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
