//! What is wrong in a TOML file, for an operator.

/// Line and reason. The library's own text shows the line itself, in which there may be a secret.
pub(crate) fn describe_toml_error(error: &toml::de::Error, text: &str) -> String {
    let line = |start| text.get(..start).unwrap_or_default().matches('\n').count() + 1;
    match error.span() {
        Some(span) => format!("line {}: {}", line(span.start), error.message()),
        None => error.message().to_owned(),
    }
}
