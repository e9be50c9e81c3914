//! Which endpoint a client wants, and as whom. From the name in TLS, from `options`, from the user name, or from what
//! stands before the password; all that is consumed here is not passed on. Called by the session with what the
//! handshake told, and by `auth` with a password.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use pq_proto::{ErrorResponse, SqlState, StartupParams, Text};

use crate::error::violation;

/// Longest name of an endpoint: what fits one label of a host name (RFC 1035, section 2.3.4).
const ENDPOINT_NAME_BYTES_MAX: usize = 63;

/// Words of `options` that name an endpoint.
const OPTION_PREFIXES: [&[u8]; 2] = [b"endpoint=", b"project="];

/// Name of an endpoint: 1 to 63 of `a-z`, `0-9` and `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EndpointName(Arc<str>);

/// Where the client goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) endpoint: EndpointName,
    pub(crate) role: Text,
    /// What the compute gets, in the client's order.
    pub(crate) params: StartupParams,
}

/// What a startup packet says about the way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It names the endpoint.
    Known(Route),
    /// It does not; the password may, see [`Nameless::with_password`].
    InPassword(Nameless),
}

/// A client that has named no endpoint so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Nameless {
    pub(crate) role: Text,
    params: StartupParams,
}

/// The client named no endpoint, or two, or something that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("no endpoint is named")]
    None,
    #[error("two different endpoints are named: \"{0}\" and \"{1}\"")]
    Disagreement(EndpointName, EndpointName),
    #[error("\"{0}\" is not an endpoint name")]
    InvalidName(String),
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    #[error("startup parameter \"{0}\" is given twice")]
    Duplicate(String),
}

impl RouteError {
    /// What the client is told.
    pub(crate) fn response(&self) -> ErrorResponse {
        let refused =
            |hint| ErrorResponse::fatal(SqlState::INVALID_AUTHORIZATION, self.to_string()).with_hint(hint);
        match self {
            Self::None => refused(
                "Connect to a host name that begins with the endpoint, add \"options=endpoint=NAME\" to the \
                 connection parameters, write the user as USER@NAME, or the password as \"endpoint=NAME;PASSWORD\".",
            ),
            Self::Disagreement(..) => refused("Host name and options must name the same endpoint."),
            Self::InvalidName(_) => refused("A name has 1 to 63 of the characters a-z, 0-9 and -."),
            Self::NoUser => ErrorResponse::fatal(SqlState::INVALID_AUTHORIZATION, self.to_string()),
            Self::Duplicate(_) => violation(self.to_string()),
        }
    }
}

impl Route {
    /// Finds the way. `server_name` is the client's in TLS, `domains` are those of the certificate that it saw.
    ///
    /// A server name is a route only inside one of these domains: anything else, such as `localhost`, is just how the
    /// client reached us. The user name is looked at last, because a role may have an `@` in its name.
    pub(crate) fn find(
        server_name: Option<&str>,
        domains: &[String],
        params: StartupParams,
    ) -> Result<Way, RouteError> {
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
            Some(endpoint) => Way::Known(Self { endpoint, role, params }),
            None => Way::InPassword(Nameless { role, params }),
        })
    }
}

impl Nameless {
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

/// PostgreSQL takes the last one of each; whoever stands in between had better not guess.
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

/// The label in place of the `*` of `*.domain`.
fn label_inside(server_name: &str, domains: &[String]) -> Option<String> {
    let (label, rest) = server_name.split_once('.')?;
    let is_ours = domains.iter().any(|domain| domain.eq_ignore_ascii_case(rest));
    is_ours.then(|| label.to_ascii_lowercase())
}

/// The endpoints that `options` names, and what is left of it. Without any it stays byte for byte.
fn take_from_options(options: &Text) -> (Vec<Bytes>, Option<Text>) {
    let text = options.as_bytes();
    let value_of = |word: &Range<usize>| {
        let word = &text[word.clone()];
        OPTION_PREFIXES.iter().find_map(|prefix| word.strip_prefix(*prefix))
    };
    let (taken, left): (Vec<_>, Vec<_>) = words(text).partition(|word| value_of(word).is_some());
    if taken.is_empty() {
        return (Vec::new(), Some(options.clone()));
    }
    let taken = taken.iter().filter_map(value_of).map(Bytes::copy_from_slice).collect();
    let left: Vec<&[u8]> = left.into_iter().map(|word| &text[word]).collect();
    let left = left.join(&b' ');
    (taken, (!left.is_empty()).then(|| Text::new(left)))
}

/// Where the words of `options` are. PostgreSQL ends a word at white space that no backslash stands before
/// (PostgreSQL documentation, libpq, `options`); the backslashes stay, the compute will read them again.
fn words(text: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += text[at..].iter().position(|byte| !is_space(*byte))?;
        let start = at;
        while at < text.len() && !is_space(text[at]) {
            at += if text[at] == b'\\' { 2 } else { 1 };
        }
        at = at.min(text.len());
        Some(start..at)
    })
}

/// C's `isspace`.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

impl EndpointName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn from_bytes(name: &[u8]) -> Result<Self, RouteError> {
        let shown = || String::from_utf8_lossy(&name[..name.len().min(ENDPOINT_NAME_BYTES_MAX)]).into_owned();
        let text = str::from_utf8(name).map_err(|_| RouteError::InvalidName(shown()))?;
        let is_name = (1..=ENDPOINT_NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if is_name { Ok(Self(text.into())) } else { Err(RouteError::InvalidName(shown())) }
    }
}

impl FromStr for EndpointName {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(text.as_bytes())
    }
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn way(server_name: Option<&str>, params: Pairs<'_>) -> Result<Way, RouteError> {
        let domains = ["db.example.test".to_owned(), "other.test".to_owned()];
        Route::find(server_name, &domains, params.iter().copied().collect())
    }

    /// Without a password.
    fn find(server_name: Option<&str>, params: Pairs<'_>) -> Result<Route, RouteError> {
        match way(server_name, params)? {
            Way::Known(route) => Ok(route),
            Way::InPassword(_) => Err(RouteError::None),
        }
    }

    fn check(server_name: Option<&str>, params: Pairs<'_>, endpoint: &str, role: &str, passed_on: Pairs<'_>) {
        let route = find(server_name, params).unwrap();
        assert_eq!(
            (route.endpoint.as_str(), &route.role),
            (endpoint, &role.into()),
            "{server_name:?} {params:?}"
        );
        assert_eq!(route.params, passed_on.iter().copied().collect(), "{server_name:?} {params:?}");
    }

    #[test]
    fn the_server_name_is_a_route_inside_a_domain_of_the_certificate() {
        let params = &[("user", "app"), ("database", "db")];
        check(Some("main.db.example.test"), params, "main", "app", params);
        check(Some("MAIN.DB.example.test"), params, "main", "app", params);
        check(Some("second.other.test"), params, "second", "app", params);
        for elsewhere in
            ["localhost", "db.example.test", "a.b.db.example.test", "main.db.example.tes", "10.0.0.1"]
        {
            assert_eq!(find(Some(elsewhere), params), Err(RouteError::None), "{elsewhere}");
        }
    }

    #[test]
    fn options_name_an_endpoint_and_lose_only_that_word() {
        for (options, left) in [
            ("endpoint=main", None),
            (" project=main ", None),
            ("endpoint=main project=main", None),
            ("-c a=b  endpoint=main\t-c c=d", Some("-c a=b -c c=d")),
            (r"-c search_path=a\ b endpoint=main", Some(r"-c search_path=a\ b")),
            (r"endpoint=main -c x=y\", Some(r"-c x=y\")),
        ] {
            let passed_on: Vec<_> =
                [("user", "app")].into_iter().chain(left.map(|left| ("options", left))).collect();
            check(None, &[("user", "app"), ("options", options)], "main", "app", &passed_on);
        }
    }

    #[test]
    fn options_that_name_no_endpoint_pass_byte_for_byte() {
        for options in
            ["", "  -c a=b  ", r"-c x=\ endpoint=evil", r"\endpoint=main", "-cendpoint=main", "xproject=main"]
        {
            let params = &[("options", options), ("user", "app@main")];
            check(None, params, "main", "app", &[("options", options), ("user", "app")]);
        }
    }

    #[test]
    fn the_user_name_is_looked_at_last_and_split_at_its_last_at() {
        check(None, &[("user", "app@main")], "main", "app", &[("user", "app")]);
        check(Some("localhost"), &[("user", "a@b@main")], "main", "a@b", &[("user", "a@b")]);
        let params = &[("user", "a@b")];
        check(Some("main.other.test"), params, "main", "a@b", params);
        check(None, &[("user", "a@b"), ("options", "project=main")], "main", "a@b", params);
    }

    #[test]
    fn a_client_without_a_way_names_the_endpoint_before_its_password() {
        let params = &[("user", "app"), ("options", "-c a=b")];
        let nameless = || match way(Some("localhost"), params).unwrap() {
            Way::InPassword(nameless) => nameless,
            Way::Known(route) => panic!("{route:?}"),
        };
        for (sent, password) in [
            (&b"endpoint=main;secret"[..], &b"secret"[..]),
            (b"project=main;secret", b"secret"),
            (b"project=main$secret", b"secret"),
            // The first separator counts: both characters may be part of the password.
            (b"endpoint=main$a;b$c", b"a;b$c"),
            (b"endpoint=main;a$b;c", b"a$b;c"),
            (b"endpoint=main;", b""),
            (b"endpoint=main;\xff;", b"\xff;"),
        ] {
            let (route, rest) = nameless().with_password(sent).unwrap();
            assert_eq!((route.endpoint.as_str(), rest), ("main", password), "{sent:?}");
            assert_eq!((&route.role, &route.params), (&"app".into(), &params.iter().copied().collect()));
        }
        for (sent, expected) in [
            (&b""[..], RouteError::None),
            (b"secret", RouteError::None),
            (b"endpoint=main", RouteError::None),
            (b"Endpoint=main;secret", RouteError::None),
            (b"endpoint=;secret", RouteError::InvalidName(String::new())),
            (b"endpoint=Main;secret", RouteError::InvalidName("Main".into())),
            (b"endpoint=a b;secret", RouteError::InvalidName("a b".into())),
        ] {
            assert_eq!(nameless().with_password(sent).unwrap_err(), expected, "{sent:?}");
        }
    }

    #[test]
    fn the_name_and_the_options_may_agree_and_must_not_differ() {
        let params = |options| [("user", "app"), ("options", options)];
        check(Some("main.other.test"), &params("endpoint=main"), "main", "app", &[("user", "app")]);
        let (main, other): (EndpointName, EndpointName) = ("main".parse().unwrap(), "other".parse().unwrap());
        let disagreement = RouteError::Disagreement(main, other);
        assert_eq!(find(Some("main.other.test"), &params("endpoint=other")), Err(disagreement.clone()));
        assert_eq!(find(None, &params("endpoint=main project=other")), Err(disagreement));
    }

    proptest! {
        /// Whatever a client puts into `options`, the compute reads the same words but those that name an endpoint.
        #[test]
        fn the_words_of_options_are_kept_in_order(options in r"([a ]|\\|endpoint=|project=|\t){0,30}") {
            let text = |words: Vec<&[u8]>| words.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>();
            let split = |options: &str| text(words(options.as_bytes()).map(|word| &options.as_bytes()[word]).collect());
            let is_route = |word: &Vec<u8>| OPTION_PREFIXES.iter().any(|prefix| word.starts_with(prefix));
            let (routes, kept): (Vec<_>, Vec<_>) = split(&options).into_iter().partition(is_route);
            let (taken, left) = take_from_options(&options.as_str().into());
            prop_assert_eq!(taken.len(), routes.len());
            prop_assert_eq!(split(left.unwrap_or_default().to_str().unwrap()), kept);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "x".repeat(64);
        for (name, shown) in
            [("", ""), ("Main", "Main"), ("a_b", "a_b"), ("ma\u{ef}n", "ma\u{ef}n"), (&long, &long[..63])]
        {
            let expected = Err(RouteError::InvalidName(shown.into()));
            assert_eq!(find(None, &[("user", "app"), ("options", &format!("endpoint={name}"))]), expected);
            assert_eq!(find(None, &[("user", &format!("app@{name}"))]), expected);
        }
        let expected = Err(RouteError::InvalidName("_x".into()));
        assert_eq!(find(Some("_x.other.test"), &[("user", "app")]), expected);
        assert!(find(None, &[("user", &format!("app@{}", &long[..63]))]).is_ok());
    }

    #[test]
    fn a_role_is_needed_and_nothing_may_be_given_twice() {
        for params in [&[][..], &[("user", "")], &[("database", "db")]] {
            assert_eq!(find(Some("main.other.test"), params), Err(RouteError::NoUser), "{params:?}");
        }
        assert_eq!(find(None, &[("user", "@main")]), Err(RouteError::NoUser));
        let twice = &[("user", "app@main"), ("DateStyle", "ISO"), ("user", "postgres@main")];
        assert_eq!(find(None, twice), Err(RouteError::Duplicate("user".into())));
    }
}
