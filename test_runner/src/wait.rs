//! Waits: for a condition, with a deadline. Harness and tests never wait for time to pass.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Calls `probe` until it returns `Some`. An error of the probe ends the wait at once. At the deadline the wait ends
/// with an error that names `what` was awaited.
pub async fn until<T>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = probe().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s for {what}, without success", within.as_secs_f32());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_deadline_names_what_was_awaited() {
        let waited = until("the moon", Duration::from_millis(1), async || Ok(None::<()>)).await;
        assert!(waited.unwrap_err().to_string().contains("the moon"));
    }

    #[tokio::test]
    async fn the_first_answer_ends_the_wait() {
        let mut asked = 0;
        let answer = until("three questions", Duration::from_secs(9), async || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(answer.await.unwrap(), 3);
    }
}
