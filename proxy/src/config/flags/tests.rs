//! Command lines, right and wrong.

use super::*;

fn config(extra: &[&str]) -> Result<Config, String> {
    let flags = Flags::try_parse_from(["proxy"].iter().chain(extra)).map_err(|error| error.to_string())?;
    flags.validate().map_err(|error| error.to_string())
}

#[test]
fn a_control_plane_is_enough() {
    let config = config(&["--control-plane", "file:e.toml"]).unwrap();
    assert_eq!(config.control_plane, ControlPlaneSource::File("e.toml".into()));
    assert_eq!(
        (config.listen.as_slice(), &config.tls),
        (&["127.0.0.1:0".to_owned()][..], &TlsSources::default())
    );
    assert_eq!((config.compute_tls, config.proxy_protocol), (ComputeTls::Disable, ProxyProtocol::Rejected));
    assert_eq!((config.connections_max, config.connections_per_source_max), (0, 0));
    assert_eq!(config.connect_timeout, Duration::from_secs(60));
    assert_eq!(config.caches.computes, CacheOptions::new(4000, Duration::from_secs(300)));
}

#[test]
fn each_cache_and_limit_has_its_flag() {
    let flags = [
        ["--control-plane", "file:e"],
        ["--wake-compute-cache", "size=1,ttl=1s"],
        ["--role-secret-cache", "size=2,ttl=1s"],
        ["--access-rules-cache", "size=3,ttl=1s"],
        ["--wake-limit", "rate=1,burst=4"],
        ["--endpoint-limit", "rate=1,burst=5"],
        ["--network-limit", "rate=1,burst=6"],
    ];
    let Config { caches, login_limits, .. } = config(flags.as_flattened()).unwrap();
    let Caches { computes, role_secrets, access_rules, wakes } = caches;
    assert_eq!([computes.size, role_secrets.size, access_rules.size], [1, 2, 3]);
    for (limit, burst) in [(wakes, 4), (login_limits.per_endpoint, 5), (login_limits.per_network, 6)] {
        assert_eq!(limit, format!("rate=1,burst={burst}").parse().unwrap());
    }
}

#[test]
fn certificates_and_keys_go_in_pairs() {
    let all = [
        "--tls-cert",
        "c1",
        "--tls-key",
        "k1",
        "--tls-cert",
        "c2",
        "--tls-key",
        "k2",
        "--control-plane",
        "file:e",
    ];
    let second = TlsFiles { certificate: "c2".into(), key: "k2".into() };
    assert_eq!(config(&all).unwrap().tls.pairs[1], second);
}

#[test]
fn databases_are_believed_as_the_flags_say() {
    let tls = |flags: &[&str]| {
        config(&[&["--control-plane", "file:e"], flags].concat()).map(|config| config.compute_tls)
    };
    assert_eq!(tls(&["--compute-tls", "require"]), Ok(ComputeTls::Require));
    let verified = tls(&["--compute-tls", "verify-full", "--compute-tls-ca", "ca.pem"]);
    assert_eq!(verified, Ok(ComputeTls::VerifyFull { authorities: "ca.pem".into() }));
    for flags in [
        &["--compute-tls", "verify-full"][..],
        &["--compute-tls-ca", "ca.pem"],
        &["--compute-tls", "require", "--compute-tls-ca", "ca.pem"],
    ] {
        assert!(tls(flags).unwrap_err().contains("verify-full needs --compute-tls-ca"), "{flags:?}");
    }
}

#[test]
fn several_ports_and_limits_are_taken() {
    let config = config(&[
        "--control-plane",
        "file:e",
        "--listen",
        "[::1]:1",
        "--listen",
        "127.0.0.1:2",
        "--max-connections",
        "7",
        "--max-connections-per-ip",
        "3",
        "--proxy-protocol-v2",
        "optional",
    ]);
    let config = config.unwrap();
    assert_eq!(config.listen, ["[::1]:1", "127.0.0.1:2"]);
    assert_eq!((config.connections_max, config.connections_per_source_max), (7, 3));
    assert_eq!(config.proxy_protocol, ProxyProtocol::Optional);
}

#[test]
fn bad_flag_is_refused_by_name() {
    let plane = ["--control-plane", "file:e"];
    for (flags, part) in [
        (&[][..], "--control-plane <KIND:PATH>"),
        (&["--control-plane", "e.toml"], "--control-plane e.toml: expected file:PATH"),
        (&["--control-plane", "file:"], "expected file:PATH"),
        (&[plane[0], plane[1], "--listen", "5432"], "--listen 5432: expected HOST:PORT"),
        (&[plane[0], plane[1], "--listen-http", ":80"], "--listen-http :80: expected HOST:PORT"),
        (&[plane[0], plane[1], "--tls-cert", "c"], "--tls-key"),
        (
            &[plane[0], plane[1], "--tls-cert", "c", "--tls-key", "k", "--tls-key", "k"],
            "each certificate needs its key",
        ),
        (&[plane[0], plane[1], "--connect-timeout", "0"], "--connect-timeout"),
        (&[plane[0], plane[1], "--login-timeout", "0"], "--login-timeout"),
        (&[plane[0], plane[1], "--listen", "h:1", "--listen", "h"], "--listen h: expected HOST:PORT"),
        (&[plane[0], plane[1], "--proxy-protocol-v2", "maybe"], "required, optional or rejected"),
        (&[plane[0], plane[1], "--compute-tls", "prefer"], "disable, require, verify-full"),
        (&[plane[0], plane[1], "--wake-compute-cache", "size=1,tll=5m"], "--wake-compute-cache <OPTIONS>"),
        (&[plane[0], plane[1], "--wake-compute-cache", "size=1,tll=5m"], "unknown key \"tll\""),
        (&[plane[0], plane[1], "--role-secret-cache", "size=1"], "missing key \"ttl\""),
        (&[plane[0], plane[1], "--access-rules-cache", "ttl=1s"], "missing key \"size\""),
        (&[plane[0], plane[1], "--wake-limit", "rate=1"], "missing key \"burst\""),
        (&[plane[0], plane[1], "--tls-client-ca", "ca"], "--tls-client-ca needs --tls-cert"),
    ] {
        let error = config(flags).unwrap_err();
        assert!(error.contains(part), "{flags:?}: {error}");
    }
}

#[test]
fn the_readme_has_every_flag_and_its_default() {
    use clap::CommandFactory;
    let readme = include_str!("../../../README.md");
    for flag in Flags::command().get_arguments() {
        let Some(name) = flag.get_long().filter(|name| !["help", "version"].contains(name)) else {
            continue;
        };
        let line = readme.lines().find(|line| line.starts_with('|') && line.contains(&format!("`--{name}`")));
        let line = line.unwrap_or_else(|| panic!("no --{name}"));
        for default in flag.get_default_values() {
            assert!(line.contains(&format!("| `{}`", default.to_str().unwrap())), "{line}");
        }
    }
}

#[test]
fn the_help_is_consistent() {
    use clap::CommandFactory;
    Flags::command().debug_assert();
}
