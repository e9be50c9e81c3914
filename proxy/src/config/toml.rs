//! TOML errors: describes a mistake in a file without showing the line, which may hold a secret.

/// Line number and reason. The library's own message would show the line itself.
pub(crate) fn describe_toml_error(error: &toml::de::Error, text: &str) -> String {
    let line = |start| text.get(..start).unwrap_or_default().matches('\n').count() + 1;
    match error.span() {
        Some(span) => format!("line {}: {}", line(span.start), error.message()),
        None => error.message().to_owned(),
    }
}
