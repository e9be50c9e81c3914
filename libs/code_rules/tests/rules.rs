//! Each rule fails on a small tree of files that breaks it, and passes on one that does not.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]
use std::fs;
use std::path::Path;

use code_rules::Violation;
use tempfile::TempDir;

/// Checks a repository of the given files.
fn check(files: &[(&str, &str)]) -> Vec<Violation> {
    let root = TempDir::new().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    code_rules::check(root.path()).unwrap()
}

/// The rule and line of the only violation.
fn only(files: &[(&str, &str)]) -> (&'static str, usize) {
    let violations = check(files);
    assert_eq!(violations.len(), 1, "{violations:?}");
    (violations[0].rule, violations[0].line)
}

const LIB: &str = "//! A crate.\nmod a;\nmod b;\n";

#[test]
fn file_head_is_required() {
    assert_eq!(only(&[("x/src/lib.rs", "// A comment is no head.\n")]), ("file_head", 1));
    assert_eq!(check(&[("x/src/lib.rs", "//! A head.\n")]), []);
}

#[test]
fn file_length_is_limited_to_450_lines() {
    let lines = |count: usize| format!("//! Head.\n{}", "// line\n".repeat(count - 1));
    assert_eq!(only(&[("x/src/lib.rs", &lines(451))]), ("file_length", 451));
    assert_eq!(check(&[("x/src/lib.rs", &lines(450))]), []);
}

#[test]
fn test_names_have_eight_words() {
    let test = |attribute: &str, name: &str| format!("//! Head.\n#[{attribute}]\nfn {name}() {{}}\n");
    let nine = "one_two_three_four_five_six_seven_eight_nine";
    for attribute in ["test", "tokio::test(start_paused = true)"] {
        assert_eq!(only(&[("x/tests/it.rs", &test(attribute, nine))]), ("test_names", 3));
        assert_eq!(
            check(&[("x/tests/it.rs", &test(attribute, "one_two_three_four_five_six_seven_eight"))]),
            []
        );
    }
    assert_eq!(check(&[("x/tests/it.rs", &test("inline", nine))]), []);
}

#[test]
fn test_names_inside_proptest_count() {
    let text = "//! Head.\nproptest! {\n    #[test]\n    fn a_b_c_d_e_f_g_h_i(x in 0..9) {}\n}\n";
    assert_eq!(only(&[("x/tests/it.rs", text)]), ("test_names", 4));
}

#[test]
fn imports_in_a_circle_are_found() {
    let through_use = "//! B.\nuse crate::a::A;\npub struct B(A);\n";
    let in_code = "//! B.\npub fn b() { super::a::run() }\npub struct B;\n";
    let in_macro = "//! B.\npub fn b() { println!(\"{}\", crate::a::LIMIT) }\npub struct B;\n";
    for b in [through_use, in_code, in_macro] {
        let a = "//! A.\nuse crate::b::B;\npub struct A(B);\n";
        let files = [("x/src/lib.rs", LIB), ("x/src/a.rs", a), ("x/src/b.rs", b)];
        assert_eq!(only(&files), ("imports", 1), "{b}");
    }
}

#[test]
fn imports_of_a_child_from_its_parent() {
    let parent = "//! Parent.\nmod child;\npub struct Shared;\npub fn run() { child::run() }\n";
    let child = "//! Child.\nuse super::Shared;\npub fn run() -> Shared { Shared }\n";
    assert_eq!(only(&[("x/src/lib.rs", parent), ("x/src/child.rs", child)]), ("imports", 1));
}

/// A module that only re-exports names connects no files.
#[test]
fn imports_follow_reexports_to_their_origin() {
    let lib = "//! A crate.\nmod a;\nmod b;\npub use a::A;\npub use b::B;\n";
    let b = "//! B.\nuse crate::A;\npub struct B(A);\n";
    assert_eq!(
        check(&[("x/src/lib.rs", lib), ("x/src/a.rs", "//! A.\npub struct A;\n"), ("x/src/b.rs", b)]),
        []
    );
}

#[test]
fn imports_of_test_code_do_not_count() {
    let a = "//! A.\npub struct A;\n#[cfg(test)]\nmod tests {\n    use crate::b::B;\n}\n";
    let b = "//! B.\nuse crate::a::A;\npub struct B(A);\n";
    assert_eq!(check(&[("x/src/lib.rs", LIB), ("x/src/a.rs", a), ("x/src/b.rs", b)]), []);
}

#[test]
fn imports_may_circle_for_a_reason() {
    let a = "//! A.\nuse crate::b::B;\npub struct A(B);\n";
    let b = "//! B.\nuse crate::a::A;\npub struct B(A);\n";
    let settings = "[[circle]]\nfiles = [\"x/src/a.rs\", \"x/src/b.rs\"]\nreason = \"They are one thing.\"\n";
    let allowed = (".config/code_rules.toml", settings);
    assert_eq!(check(&[("x/src/lib.rs", LIB), ("x/src/a.rs", a), ("x/src/b.rs", b), allowed]), []);

    let straight = "//! B.\npub struct B;\n";
    let files = [("x/src/lib.rs", LIB), ("x/src/a.rs", a), ("x/src/b.rs", straight), allowed];
    assert_eq!(only(&files), ("imports", 1));
}

#[test]
fn settings_without_a_reason_are_refused() {
    let root = TempDir::new().unwrap();
    fs::create_dir(root.path().join(".config")).unwrap();
    fs::write(root.path().join(".config/code_rules.toml"), "[[circle]]\nfiles = []\nreason = \"\"\n")
        .unwrap();
    let error = code_rules::check(root.path()).unwrap_err();
    assert!(error.to_string().ends_with("a circle has no reason"), "{error}");
}

#[test]
fn metrics_and_their_page_agree() {
    let code = "//! Head.\npub fn register(add: impl Fn(&str)) {\n    add(\"holdfast_proxy_logins\")\n}\n";
    let row = "| metric | type |\n|---|---|\n| `holdfast_proxy_logins_total` | counter |\n";
    assert_eq!(only(&[("x/src/lib.rs", code)]), ("metrics", 3));
    assert_eq!(only(&[("x/src/lib.rs", "//! Head.\n"), ("docs/metrics.md", row)]), ("metrics", 3));
    assert_eq!(check(&[("x/src/lib.rs", code), ("docs/metrics.md", row)]), []);
}

#[test]
fn repeats_of_nine_lines_are_found() {
    let passage =
        |count: usize| -> String { (0..count).map(|line| format!("    step_{line}();\n")).collect() };
    let text = |count: usize| {
        format!("//! Head.\nfn f() {{\n{}}}\nfn g() {{\n{}}}\n", passage(count), passage(count))
    };
    assert_eq!(only(&[("x/src/lib.rs", &text(9))]), ("repeats", 14));
    assert_eq!(check(&[("x/src/lib.rs", &text(8))]), []);
    assert_eq!(check(&[("x/tests/it.rs", &text(9))]), []);
}

#[test]
fn source_that_is_not_rust_is_named() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("bad.rs"), "fn {").unwrap();
    let error = code_rules::check(Path::new(root.path())).unwrap_err();
    assert!(error.to_string().starts_with("bad.rs:1: not valid Rust"), "{error}");
}
