//! Tests of routes: what names an endpoint, and which parameters the compute gets.

use pq_proto::startup::option_word_ranges;
use proptest::prelude::*;

use super::endpoint_name::InvalidName;
use super::*;

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn way(server_name: Option<&str>, params: Pairs<'_>) -> Result<StartupRoute, RouteError> {
    let domains = ["db.example.test".to_owned(), "other.test".to_owned()];
    Route::find(server_name, &domains, params.iter().copied().collect())
}

/// Without a password.
fn find(server_name: Option<&str>, params: Pairs<'_>) -> Result<Route, RouteError> {
    match way(server_name, params)? {
        StartupRoute::Known(route) => Ok(route),
        StartupRoute::InPassword(_) => Err(RouteError::None),
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
fn server_name_routes_inside_certificate_domains() {
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
fn options_lose_only_the_word_naming_an_endpoint() {
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
fn options_without_endpoint_pass_unchanged() {
    for options in
        ["", "  -c a=b  ", r"-c x=\ endpoint=evil", r"\endpoint=main", "-cendpoint=main", "xproject=main"]
    {
        let params = &[("options", options), ("user", "app@main")];
        check(None, params, "main", "app", &[("options", options), ("user", "app")]);
    }
}

#[test]
fn user_name_is_split_at_its_last_at() {
    check(None, &[("user", "app@main")], "main", "app", &[("user", "app")]);
    check(Some("localhost"), &[("user", "a@b@main")], "main", "a@b", &[("user", "a@b")]);
    let params = &[("user", "a@b")];
    check(Some("main.other.test"), params, "main", "a@b", params);
    check(None, &[("user", "a@b"), ("options", "project=main")], "main", "a@b", params);
}

#[test]
fn password_may_begin_with_the_endpoint() {
    let params = &[("user", "app"), ("options", "-c a=b")];
    let nameless = || match way(Some("localhost"), params).unwrap() {
        StartupRoute::InPassword(nameless) => nameless,
        StartupRoute::Known(route) => panic!("{route:?}"),
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
        (b"endpoint=;secret", RouteError::InvalidName(InvalidName(String::new()))),
        (b"endpoint=Main;secret", RouteError::InvalidName(InvalidName("Main".into()))),
        (b"endpoint=a b;secret", RouteError::InvalidName(InvalidName("a b".into()))),
    ] {
        assert_eq!(nameless().with_password(sent).unwrap_err(), expected, "{sent:?}");
    }
}

#[test]
fn server_name_and_options_must_agree() {
    let params = |options| [("user", "app"), ("options", options)];
    check(Some("main.other.test"), &params("endpoint=main"), "main", "app", &[("user", "app")]);
    let (main, other): (EndpointName, EndpointName) = ("main".parse().unwrap(), "other".parse().unwrap());
    let disagreement = RouteError::Disagreement(main, other);
    assert_eq!(find(Some("main.other.test"), &params("endpoint=other")), Err(disagreement.clone()));
    assert_eq!(find(None, &params("endpoint=main project=other")), Err(disagreement));
}

proptest! {
    /// For any `options`, the compute reads the same words, without those that name an endpoint.
    #[test]
    fn options_keep_their_words_in_order(options in r"([a ]|\\|endpoint=|project=|\t){0,30}") {
        let text = |words: Vec<&[u8]>| words.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>();
        let split = |options: &str| text(option_word_ranges(options.as_bytes()).map(|word| &options.as_bytes()[word]).collect());
        let is_route = |word: &Vec<u8>| OPTION_PREFIXES.iter().any(|prefix| word.starts_with(prefix));
        let (routes, kept): (Vec<_>, Vec<_>) = split(&options).into_iter().partition(is_route);
        let (taken, left) = take_from_options(&options.as_str().into());
        prop_assert_eq!(taken.len(), routes.len());
        prop_assert_eq!(split(left.unwrap_or_default().to_str().unwrap()), kept);
    }
}

#[test]
fn invalid_endpoint_name_is_refused() {
    let long = "x".repeat(64);
    for (name, shown) in
        [("", ""), ("Main", "Main"), ("a_b", "a_b"), ("ma\u{ef}n", "ma\u{ef}n"), (&long, &long[..63])]
    {
        let expected = Err(RouteError::InvalidName(InvalidName(shown.into())));
        assert_eq!(find(None, &[("user", "app"), ("options", &format!("endpoint={name}"))]), expected);
        assert_eq!(find(None, &[("user", &format!("app@{name}"))]), expected);
    }
    let expected = Err(RouteError::InvalidName(InvalidName("_x".into())));
    assert_eq!(find(Some("_x.other.test"), &[("user", "app")]), expected);
    assert!(find(None, &[("user", &format!("app@{}", &long[..63]))]).is_ok());
}

#[test]
fn route_needs_a_role_and_unique_parameters() {
    for params in [&[][..], &[("user", "")], &[("database", "db")]] {
        assert_eq!(find(Some("main.other.test"), params), Err(RouteError::NoUser), "{params:?}");
    }
    assert_eq!(find(None, &[("user", "@main")]), Err(RouteError::NoUser));
    let twice = &[("user", "app@main"), ("DateStyle", "ISO"), ("user", "postgres@main")];
    assert_eq!(find(None, twice), Err(RouteError::Duplicate("user".into())));
}
