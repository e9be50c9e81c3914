//! Values of the setting as PostgreSQL takes or refuses them, and whom each makes commits wait for.

use super::Method::{Any, First};
use super::*;

fn parsed(text: &str) -> (Method, u64, Vec<String>) {
    match StandbyNames::parse(text) {
        Ok(Some(StandbyNames { method, count, names })) => (method, count, names),
        other => panic!("{text:?}: {other:?}"),
    }
}

#[test]
fn standby_names_parse_as_postgres_does() {
    let table: &[(&str, Method, u64, &[&str])] = &[
        ("wp", First, 1, &["wp"]),
        (" \t\r\n\x0b\x0cwp ", First, 1, &["wp"]),
        ("wp,other", First, 1, &["wp", "other"]),
        ("FIRST 1 (wp)", First, 1, &["wp"]),
        ("first 2(a , b,c)", First, 2, &["a", "b", "c"]),
        ("FiRsT 007 (a)", First, 7, &["a"]),
        ("ANY 2 (a, b, c)", Any, 2, &["a", "b", "c"]),
        ("any 1 (*)", Any, 1, &["*"]),
        ("2 (a, b)", First, 2, &["a", "b"]),
        ("2(a,b)", First, 2, &["a", "b"]),
        ("*", First, 1, &["*"]),
        ("\"*\"", First, 1, &["*"]),
        ("1", First, 1, &["1"]),
        ("1, 2", First, 1, &["1", "2"]),
        ("1 (2, 3)", First, 1, &["2", "3"]),
        ("\"any\", \"FIRST\"", First, 1, &["any", "FIRST"]),
        ("anything, first_one, any$", First, 1, &["anything", "first_one", "any$"]),
        ("\"a \"\"b\"\" (c), d\"", First, 1, &["a \"b\" (c), d"]),
        ("\"\"", First, 1, &[""]),
        ("\"\"\"\"", First, 1, &["\""]),
        ("_a$1, \u{e9}t\u{e9}", First, 1, &["_a$1", "\u{e9}t\u{e9}"]),
        ("a,A", First, 1, &["a", "A"]),
        ("99999999999999999999999 (a)", First, u64::MAX, &["a"]),
    ];
    for (text, method, count, names) in table {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(parsed(text), (*method, *count, names), "{text:?}");
    }
}

#[test]
fn standby_names_refuse_what_postgres_refuses() {
    use StandbyNamesError::{Syntax, UnterminatedQuote, Zero};
    for (text, expected) in [
        (" ", Syntax),
        (",", Syntax),
        ("a,", Syntax),
        (",a", Syntax),
        ("a b", Syntax),
        ("a-b", Syntax),
        ("12ab", Syntax),
        ("$a", Syntax),
        ("'a'", Syntax),
        ("any", Syntax),
        ("first", Syntax),
        ("a, any", Syntax),
        ("FIRST (a)", Syntax),
        ("ANY a", Syntax),
        ("ANY 1 a", Syntax),
        ("FIRST 1 ()", Syntax),
        ("FIRST 1 (a", Syntax),
        ("FIRST 1 (a))", Syntax),
        ("FIRST 1 (a), b", Syntax),
        ("FIRST 1 (any)", Syntax),
        ("FIRST -1 (a)", Syntax),
        ("FIRST \"1\" (a)", Syntax),
        ("FIRST ANY 1 (a)", Syntax),
        ("ALL 1 (a)", Syntax),
        ("(a)", Syntax),
        ("1 1 (a)", Syntax),
        ("\"a", UnterminatedQuote),
        ("\"a\"\"", UnterminatedQuote),
        ("0 (a)", Zero),
        ("ANY 000 (a)", Zero),
    ] {
        assert_eq!(StandbyNames::parse(text), Err(expected), "{text:?}");
    }
    assert_eq!(StandbyNames::parse(""), Ok(None));
}

#[test]
fn every_commit_waits_only_without_enough_others() {
    for (text, own, listed, waits) in [
        ("wp", "wp", true, true),
        ("FIRST 1 (wp)", "wp", true, true),
        ("ANY 1 (wp)", "wp", true, true),
        ("1 (\"wp\")", "wp", true, true),
        // Names match in any case, with and without quotes.
        ("WP", "wp", true, true),
        ("\"Wp\"", "wP", true, true),
        ("wpx", "wp", false, false),
        ("\"wp \"", "wp", false, false),
        ("other", "wp", false, false),
        // Another standby can take the place of this one.
        ("wp, other", "wp", true, false),
        ("FIRST 1 (wp, other)", "wp", true, false),
        ("FIRST 1 (other, wp)", "wp", true, false),
        ("ANY 1 (wp, other)", "wp", true, false),
        ("ANY 2 (wp, a, b)", "wp", true, false),
        ("FIRST 2 (wp, a, b)", "wp", true, false),
        // All listed standbys are needed.
        ("FIRST 2 (wp, other)", "wp", true, true),
        ("ANY 2 (other, wp)", "wp", true, true),
        ("ANY 3 (wp, a, b)", "wp", true, true),
        ("FIRST 9 (wp, other)", "wp", true, true),
        // A name that is listed twice is one standby.
        ("ANY 2 (wp, a, A, \"a\")", "wp", true, true),
        ("FIRST 1 (wp, WP)", "wp", true, true),
        // Any number of standbys may match.
        ("*", "wp", true, false),
        ("FIRST 1 (wp, *)", "wp", true, false),
        ("ANY 9 (wp, \"*\")", "wp", true, false),
    ] {
        let names = StandbyNames::parse(text).unwrap().unwrap();
        assert_eq!(names.lists(own), listed, "{text} lists {own}");
        assert_eq!(names.every_commit_waits_for(own), waits, "{text} waits for {own}");
    }
}

#[test]
fn standby_names_compare_what_the_server_keeps() {
    let kept = "n".repeat(APPLICATION_NAME_BYTES_MAX);
    let names = StandbyNames::parse(&kept).unwrap().unwrap();
    assert!(names.every_commit_waits_for(&format!("{kept}more")));
    let long = StandbyNames::parse(&format!("{kept}more")).unwrap().unwrap();
    assert!(!long.every_commit_waits_for(&format!("{kept}more")));
}

#[test]
fn quoted_names_are_parsed_back() {
    for (name, expected) in [
        ("wp", "wp"),
        ("Wp_1$", "Wp_1$"),
        ("any", "\"any\""),
        ("First", "\"First\""),
        ("1", "\"1\""),
        ("pg-a", "\"pg-a\""),
        ("a\"b", "\"a\"\"b\""),
        ("", "\"\""),
    ] {
        assert_eq!(quoted(name), expected);
        assert_eq!(StandbyNames::parse(expected).unwrap().unwrap().names, [name]);
    }
}
