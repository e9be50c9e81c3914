//! HTTP client for the admin interfaces of the programs: a client with a time limit, and a request for a JSON document.

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Time limit for a request, its response included.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP client with the time limit [`HTTP_TIMEOUT`].
pub fn client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().timeout(HTTP_TIMEOUT).no_proxy().build()?)
}

/// Requests a JSON document. A status other than 2xx is an error that holds the response.
pub async fn get_json<T: serde::de::DeserializeOwned>(url: &str) -> Result<T> {
    let answer = client()?.get(url).send().await?;
    if !answer.status().is_success() {
        bail!("{url}: {}: {}", answer.status(), answer.text().await?);
    }
    let text = answer.text().await?;
    serde_json::from_str(&text).with_context(|| format!("{url} answered {text}"))
}
