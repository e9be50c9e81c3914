//! What each wrong setting is called, and what to type.

use super::*;

fn setting(value: &str) -> Setting {
    Setting::new(value, Some("configuration file"))
}

/// Settings with which each commit waits for standby wp.
fn safe() -> PrimarySettings {
    PrimarySettings {
        synchronous_standby_names: setting("FIRST 1 (wp)"),
        synchronous_commit: Some(setting("on")),
        fsync: setting("on"),
        full_page_writes: setting("on"),
        overrides: Some(Vec::new()),
    }
}

fn over(role: Option<&str>, database: Option<&str>, value: &str) -> CommitOverride {
    CommitOverride {
        role: role.map(str::to_owned),
        database: database.map(str::to_owned),
        value: value.to_owned(),
    }
}

/// Fails unless there is one problem, with these words.
fn assert_problem(settings: &PrimarySettings, own: &str, reason: ProblemReason, words: &[&str]) {
    let problems = settings.problems(own);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].reason, reason);
    for words in words {
        assert!(problems[0].sentence.contains(words), "no {words:?} in {:?}", problems[0].sentence);
    }
}

#[test]
fn problems_name_standby_names_and_remedy() {
    for (value, own, cause, wanted) in [
        ("", "wp", "is empty;", "= 'FIRST 1 (wp)';"),
        ("", "pg-a", "is empty;", "= 'FIRST 1 (\"pg-a\")';"),
        ("", "it's", "is empty;", "= 'FIRST 1 (\"it''s\")';"),
        ("ANY 1 (wp, b)", "wp", "is 'ANY 1 (wp, b)', and the other standbys", "= 'FIRST 1 (wp)';"),
        ("b", "wp", "is 'b' and does not name this standby, wp;", "= 'FIRST 1 (wp)';"),
        ("wp wp", "wp", "cannot be parsed (syntax error)", "= 'FIRST 1 (wp)';"),
    ] {
        let settings = PrimarySettings { synchronous_standby_names: setting(value), ..safe() };
        let words =
            ["acknowledges commits without the safekeepers: synchronous_standby_names", cause, wanted];
        assert_problem(&settings, own, ProblemReason::SynchronousStandbyNames, &words);
    }
    assert_eq!(safe().problems("WP"), []);
}

#[test]
fn problems_name_synchronous_commit_and_remedy() {
    for (role, database, value, words) in [
        (Some("app"), None, "off", ["is off for role app;", "ALTER ROLE app RESET"]),
        (
            None,
            Some("\"my db\""),
            "LOCAL",
            ["is local in database \"my db\";", "ALTER DATABASE \"my db\" RESET"],
        ),
        (
            Some("app"),
            Some("db"),
            "false",
            ["is off for role app in database db;", "ALTER ROLE app IN DATABASE db RESET"],
        ),
        (None, None, "0", ["is off for all roles;", "ALTER ROLE ALL RESET"]),
    ] {
        let settings = PrimarySettings { overrides: Some(vec![over(role, database, value)]), ..safe() };
        assert_problem(&settings, "wp", ProblemReason::SynchronousCommit, &words);
    }

    let settings = PrimarySettings { synchronous_commit: Some(setting("local")), ..safe() };
    let words =
        ["is local on the primary;", "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf();"];
    assert_problem(&settings, "wp", ProblemReason::SynchronousCommit, &words);
    for value in ["on", "remote_apply", "remote_write", "true"] {
        let settings = PrimarySettings {
            synchronous_commit: Some(setting(value)),
            overrides: Some(vec![over(Some("app"), None, value)]),
            ..safe()
        };
        assert_eq!(settings.problems("wp"), [], "{value}");
    }
}

#[test]
fn problems_name_settings_that_lose_wal() {
    let settings = PrimarySettings { fsync: setting("off"), ..safe() };
    assert_problem(&settings, "wp", ProblemReason::Fsync, &["fsync is off", "ALTER SYSTEM SET fsync = on"]);
    let settings = PrimarySettings { full_page_writes: setting("off"), ..safe() };
    let words = ["full_page_writes is off", "ALTER SYSTEM SET full_page_writes = on"];
    assert_problem(&settings, "wp", ProblemReason::FullPageWrites, &words);
}

/// ALTER SYSTEM cannot change what stands on the command line.
#[test]
fn remedy_depends_on_source_of_setting() {
    let on_command_line = Setting::new("off", Some("command line"));
    let settings = PrimarySettings { fsync: on_command_line, ..safe() };
    assert_problem(&settings, "wp", ProblemReason::Fsync, &["start the primary with -c fsync=on"]);
}

#[test]
fn unchecked_settings_are_no_problem_but_named() {
    let settings = PrimarySettings { overrides: None, ..safe() };
    assert_eq!(settings.problems("wp"), []);
    assert!(settings.unchecked().unwrap().contains("roles and databases"));
    let settings = PrimarySettings { synchronous_commit: None, ..safe() };
    assert!(settings.unchecked().unwrap().contains("is hidden"));
    assert_eq!(safe().unchecked(), None);
}
