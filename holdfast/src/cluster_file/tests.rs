//! Reading of cluster files: both formats, and the errors with their lines.

use super::*;

fn read(name: &str, text: &str) -> Result<Cluster, String> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("token"), "s3cret\n").unwrap();
    fs::write(directory.path().join("no_token"), "\n").unwrap();
    let file = directory.path().join(name);
    fs::write(&file, text).unwrap();
    Cluster::read(&file, FoundBy::Flag).map_err(|error| error.to_string())
}

const TOML: &str = r#"
token_file = "token"
[[safekeepers]]
id = 1
http = "http://10.0.0.1:7676/"
[[safekeepers]]
id = 2
http = "http://[::1]:7676"
[[walproposers]]
name = "main"
http = "http://wp.local:7676/prefix"
"#;

#[test]
fn cluster_file_is_toml_or_json() {
    let json = r#"{"token_file": "token", "local": {"psql": "psql …"},
        "safekeepers": [{"id": 1, "http": "http://10.0.0.1:7676/"}, {"id": 2, "http": "http://[::1]:7676"}],
        "walproposers": [{"name": "main", "http": "http://wp.local:7676/prefix"}]}"#;
    for (name, text) in [("cluster.toml", TOML), ("cluster.json", json)] {
        let cluster = read(name, text).unwrap();
        let [(1, first), (2, second)] = &cluster.safekeepers[..] else { panic!("{cluster:?}") };
        assert_eq!(
            (first.title.as_str(), first.http.text.as_str()),
            ("safekeeper 1", "http://10.0.0.1:7676")
        );
        assert!(first.token.is_some() && second.tls.is_none() && cluster.proxies.is_empty());
        assert_eq!(cluster.walproposers[0].http.text, "http://wp.local:7676/prefix");
        assert!(!format!("{cluster:?}").contains("s3cret"));
    }
}

#[test]
fn cluster_file_error_names_line_and_remedy() {
    let entry = "[[safekeepers]]\nid = 1\nhttp = \"http://a:1\"\n";
    for (name, text, words) in [
        ("c.toml", "x = 1\n".to_owned(), "c.toml line 1: unknown field `x`, expected one of"),
        ("c.toml", format!("{entry}htp = 1\n"), "line 4: unknown field `htp`"),
        (
            "c.toml",
            "[[safekeepers]]\nid = \"one\"\nhttp = \"http://a:1\"".into(),
            "line 2: invalid type: string \"one\"",
        ),
        (
            "c.toml",
            "[[safekeepers]]\nid = 1\nhttp = \"a:1\"\n".into(),
            "line 3: \"a:1\" is no URL such as \"http://10",
        ),
        ("c.toml", "[[safekeepers]]\nid = 1\nhttp = \"http://u:p@a:1\"\n".into(), "line 3"),
        (
            "c.toml",
            format!("{entry}[[safekeepers]]\nid = 1\nhttp = \"http://b:1\"\n"),
            "line 6: safekeeper 1 is listed twice",
        ),
        (
            "c.toml",
            "[[safekeepers]]\nid = 0\nhttp = \"http://a:1\"\n".into(),
            "line 3: a safekeeper needs a name",
        ),
        (
            "c.toml",
            "[[proxies]]\nname = \"p\"\nhttp = \"https://a:1\"\n".into(),
            "line 3: proxy p: https needs ca =",
        ),
        (
            "c.toml",
            format!("ca = \"none.pem\"\n{entry}[[proxies]]\nname = \"p\"\nhttp = \"https://a:1\"\n"),
            "none.pem",
        ),
        ("c.toml", format!("token_file = \"gone\"\n{entry}"), "gone: No such file"),
        ("c.toml", format!("token_file = \"no_token\"\n{entry}"), "expected one line with a token"),
        ("c.toml", String::new(), "names no program: add [[safekeepers]]"),
        ("c.toml", "safekeepers = [\n".into(), "c.toml line "),
        ("c.json", "{\n\"x\": 1}".into(), "c.json line 2: unknown field `x`"),
        (
            "c.json",
            "{\n\"safekeepers\": [{\"id\": 1,\n\"http\": \"ftp://a\"}]}".into(),
            "line 3: \"ftp://a\" is no URL",
        ),
        ("c.json", "{".into(), "c.json line 1: EOF"),
    ] {
        let error = read(name, &text).unwrap_err();
        assert!(error.contains(words) && error.contains("holdfast --help"), "{text}: {error}");
    }
}

#[test]
fn missing_cluster_file_is_named() {
    let error = Cluster::read(Path::new("/nonexistent/c.toml"), FoundBy::Flag).unwrap_err().to_string();
    assert!(error.contains("cannot read /nonexistent/c.toml: No such file"), "{error}");
}
