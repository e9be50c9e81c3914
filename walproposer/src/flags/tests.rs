//! Defaults, precedence, and the message for each wrong flag.

use super::*;
use wal_types::NodeId;

const CLUSTER: &str = "--safekeepers 1@h:1,2@[::1]:2 --tenant-id 9ef87a5bf0d92544f6fafeeb3239695c --timeline-id de200bd42b49cc1814412c7e592dd6e9";

fn parse(line: &str) -> Result<Flags, String> {
    let words = std::iter::once("walproposer").chain(line.split_whitespace());
    Flags::try_parse_from(words).map_err(|error| error.to_string())
}

fn run_config(line: &str) -> Result<RunConfig, String> {
    match parse(line)?.command {
        Command::Run(flags) => flags.validate().map_err(|error| error.to_string()),
        Command::Recover(_) => Err("not run".into()),
    }
}

#[test]
fn run_flags_have_defaults() {
    let config = run_config(&format!("run --primary postgresql://wp@h:5433 {CLUSTER}")).unwrap();
    assert_eq!((config.slot.as_str(), config.application_name.as_str()), ("wp", "wp"));
    assert_eq!(config.cluster.nodes(), [NodeId(1), NodeId(2)]);
    assert_eq!(config.cluster.safekeepers[1].to_string(), "[::1]:2");
    assert_eq!(config.listen_http.port(), 0);
}

#[test]
fn application_name_flag_wins_over_conninfo() {
    let uri = format!("run --primary postgresql://wp@h?application_name=a {CLUSTER}");
    assert_eq!(run_config(&uri).unwrap().application_name, "a");
    assert_eq!(run_config(&format!("{uri} --application-name b")).unwrap().application_name, "b");
}

#[test]
fn recover_flags_parse_timeout_and_json() {
    let Command::Recover(flags) = parse(&format!("recover {CLUSTER} --timeout 2m --json")).unwrap().command
    else {
        panic!("not recover")
    };
    let config = flags.validate().unwrap();
    assert_eq!((config.timeout, config.json), (Duration::from_secs(120), true));
}

#[test]
fn flag_errors_name_the_flag() {
    let ids = "--tenant-id 9ef87a5bf0d92544f6fafeeb3239695c --timeline-id de200bd42b49cc1814412c7e592dd6e9";
    for (line, expected) in [
        (format!("run {CLUSTER}"), "--primary"),
        (format!("run --primary host=h {CLUSTER}"), "user is missing"),
        (format!("run --primary postgresql://wp@h {CLUSTER} --slot W"), "slot name"),
        (
            format!("run --primary postgresql://wp@h {CLUSTER} --send-buffer-bytes 9"),
            "must be at least 1048576",
        ),
        (format!("run --primary postgresql://wp@h --safekeepers 1@h:1,1@h:2 {ids}"), "id 1 twice"),
        (format!("run --primary postgresql://wp@h --safekeepers h:1 {ids}"), "ID@HOST:PORT"),
        (format!("run --primary postgresql://wp@h --safekeepers 1@h:0 {ids}"), "ID@HOST:PORT"),
        (format!("run --primary postgresql://wp@h --safekeepers 1@:5 {ids}"), "ID@HOST:PORT"),
        (format!("run --primary postgresql://wp@h {CLUSTER} --auth-token-file /nonexistent/token"), "token"),
        ("recover --safekeepers 1@h:1 --tenant-id 12 --timeline-id 34".into(), "32 hexadecimal digits"),
        (format!("recover {CLUSTER} --timeout soon"), "--timeout"),
        (format!("recover {CLUSTER} --primary-name pg/a"), "as in pg-a"),
    ] {
        let error = match parse(&line) {
            Ok(Flags { command: Command::Run(flags) }) => flags.validate().unwrap_err().to_string(),
            Ok(_) => panic!("{line} was accepted"),
            Err(error) => error,
        };
        assert!(error.contains(expected), "{line}: {error}");
    }
}
