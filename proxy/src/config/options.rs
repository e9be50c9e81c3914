//! Options: parses `key=value,key=value` of a flag, for caches ([`CacheOptions`]) and rates ([`RateOptions`]).
//!
//! An error names the key. Called by clap, for the values of flags.

use std::str::FromStr;
use std::time::Duration;

use utils::leaky_bucket::Rate;
use utils::timed_lru::Ttl;

/// Default time for negative entries. They never stay longer than positive ones by default.
const NEGATIVE_TTL_DEFAULT: Duration = Duration::from_secs(5);

/// How much a cache keeps, and for how long: `size=4000,ttl=5m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// Entries, at most; 0 switches the cache off.
    pub size: usize,
    /// Time since an entry was stored, and since it was last used.
    pub ttl: Ttl,
    /// Time for negative entries; the default depends on the cache.
    pub negative_ttl: Option<Duration>,
}

/// How often an event may happen: `rate=10,burst=100`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateOptions {
    /// `None` is no limit.
    pub rate: Option<Rate>,
}

/// Why options cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No equals sign.
    #[error("\"{0}\" is not key=value")]
    Shape(String),
    /// An unknown key.
    #[error("unknown key \"{key}\": there are {known}")]
    Unknown {
        /// The key.
        key: String,
        /// The known keys.
        known: &'static str,
    },
    /// A key that is there twice, under one name or two.
    #[error("key \"{0}\" is given twice")]
    Twice(&'static str),
    /// A key that must be there.
    #[error("missing key \"{0}\"")]
    Missing(&'static str),
    /// A value that the key does not accept.
    #[error("{key}={value}: expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl CacheOptions {
    /// An absolute time to live for all entries.
    pub const fn new(size: usize, ttl: Duration) -> Self {
        Self { size, ttl: Ttl::absolute(ttl), negative_ttl: None }
    }

    /// The time for negative entries: as set, or the default.
    pub(crate) fn negative_ttl(&self) -> Duration {
        self.negative_ttl.unwrap_or(NEGATIVE_TTL_DEFAULT.min(self.ttl.absolute).min(self.ttl.idle))
    }

    /// The same for a cache whose negative entries must not differ from positive ones.
    pub(crate) fn negative_ttl_as_positive(&self) -> Duration {
        self.negative_ttl.unwrap_or(self.ttl.absolute.min(self.ttl.idle))
    }
}

impl FromStr for CacheOptions {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (mut size, mut absolute, mut idle, mut negative) = (None, None, None, None);
        for option in options(text) {
            match option? {
                ("size", value) => put(&mut size, "size", whole("size", value)?)?,
                ("ttl" | "absolute_ttl", value) => put(&mut absolute, "ttl", time("ttl", value)?)?,
                ("idle_ttl", value) => put(&mut idle, "idle_ttl", time("idle_ttl", value)?)?,
                ("negative_ttl", value) => put(&mut negative, "negative_ttl", time("negative_ttl", value)?)?,
                (key, _) => {
                    let known = "size, ttl (or absolute_ttl), idle_ttl and negative_ttl";
                    return Err(OptionError::Unknown { key: key.to_owned(), known });
                }
            }
        }
        let size = size.ok_or(OptionError::Missing("size"))?;
        // A cache that is switched off needs no time.
        if size > 0 && absolute.is_none() && idle.is_none() {
            return Err(OptionError::Missing("ttl"));
        }
        let ttl = Ttl { absolute: absolute.unwrap_or(Duration::MAX), idle: idle.unwrap_or(Duration::MAX) };
        Ok(Self { size, ttl, negative_ttl: negative })
    }
}

impl FromStr for RateOptions {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        if text == "off" {
            return Ok(Self { rate: None });
        }
        let (mut rate, mut burst) = (None, None);
        for option in options(text) {
            match option? {
                ("rate", value) => put(&mut rate, "rate", per_second(value)?)?,
                ("burst", value) => put(&mut burst, "burst", whole("burst", value)?)?,
                (key, _) => {
                    let known = "rate and burst";
                    return Err(OptionError::Unknown { key: key.to_owned(), known });
                }
            }
        }
        let (rate, burst) =
            (rate.ok_or(OptionError::Missing("rate"))?, burst.ok_or(OptionError::Missing("burst"))?);
        if burst == 0 {
            let expected = "at least 1; the word \"off\" in place of all options switches the limit off";
            return Err(OptionError::Value { key: "burst", value: "0".into(), expected });
        }
        Ok(Self { rate: Some(Rate::per_second(rate, burst)) })
    }
}

fn options(text: &str) -> impl Iterator<Item = Result<(&str, &str), OptionError>> {
    let parts = text.split(',').map(str::trim).filter(|_| !text.trim().is_empty());
    parts.map(|part| {
        let pair = part.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
        pair.ok_or_else(|| OptionError::Shape(part.to_owned()))
    })
}

fn put<T>(place: &mut Option<T>, key: &'static str, value: T) -> Result<(), OptionError> {
    if place.replace(value).is_some() { Err(OptionError::Twice(key)) } else { Ok(()) }
}

fn whole<T: FromStr>(key: &'static str, value: &str) -> Result<T, OptionError> {
    let wrong = |_| OptionError::Value { key, value: value.to_owned(), expected: "a whole number" };
    value.parse().map_err(wrong)
}

fn per_second(value: &str) -> Result<f64, OptionError> {
    let rate = value.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    let expected = "how many a second, above zero, for example 10 or 0.5";
    rate.ok_or_else(|| OptionError::Value { key: "rate", value: value.to_owned(), expected })
}

fn time(key: &'static str, value: &str) -> Result<Duration, OptionError> {
    let time = humantime::parse_duration(value).ok().filter(|time| !time.is_zero());
    let expected = "a time above zero, for example 5m or 500ms; size=0 switches a cache off";
    time.ok_or_else(|| OptionError::Value { key, value: value.to_owned(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn cache_options_take_keys_in_any_order() {
        let five_minutes = CacheOptions::new(4000, seconds(300));
        for (text, expected) in [
            ("size=4000,ttl=5m", five_minutes),
            ("ttl=5m,size=4000", five_minutes),
            (" size = 4000 , absolute_ttl = 300s ", five_minutes),
            (
                "size=0",
                CacheOptions { ttl: Ttl::absolute(Duration::MAX), ..CacheOptions::new(0, seconds(1)) },
            ),
            (
                "size=1,idle_ttl=4m",
                CacheOptions {
                    size: 1,
                    ttl: Ttl { absolute: Duration::MAX, idle: seconds(240) },
                    negative_ttl: None,
                },
            ),
            (
                "size=1,ttl=1h,idle_ttl=1m 30s,negative_ttl=500ms",
                CacheOptions {
                    size: 1,
                    ttl: Ttl { absolute: seconds(3600), idle: seconds(90) },
                    negative_ttl: Some(Duration::from_millis(500)),
                },
            ),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_mistake_in_a_cache_is_named() {
        for (text, expected) in [
            ("", "missing key \"size\""),
            ("ttl=5m", "missing key \"size\""),
            ("size=4000", "missing key \"ttl\""),
            ("size=4000,negative_ttl=1s", "missing key \"ttl\""),
            ("size=4000,tll=5m", "unknown key \"tll\": there are size, ttl (or absolute_ttl), idle_ttl and"),
            ("size=4000,,ttl=5m", "\"\" is not key=value"),
            ("4000", "\"4000\" is not key=value"),
            ("size=1,size=2,ttl=5m", "key \"size\" is given twice"),
            ("size=1,ttl=5m,absolute_ttl=5m", "key \"ttl\" is given twice"),
            ("size=-1,ttl=5m", "size=-1: expected a whole number"),
            ("size=1,ttl=5", "ttl=5: expected a time"),
            ("size=1,ttl=0s", "ttl=0s: expected a time above zero"),
            ("size=1,idle_ttl=soon", "idle_ttl=soon: expected a time"),
        ] {
            let error = text.parse::<CacheOptions>().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn negative_ttl_is_set_or_depends_on_cache() {
        let table =
            [("size=1,ttl=5m", 5, 300), ("size=1,ttl=2s", 2, 2), ("size=1,ttl=5m,negative_ttl=9s", 9, 9)];
        for (text, usual, as_positive) in table {
            let options: CacheOptions = text.parse().unwrap();
            assert_eq!(options.negative_ttl(), seconds(usual), "{text}");
            assert_eq!(options.negative_ttl_as_positive(), seconds(as_positive), "{text}");
        }
    }

    #[test]
    fn rate_options_give_rate_and_burst() {
        let rate = |text: &str| text.parse::<RateOptions>().map(|options| options.rate);
        assert_eq!(rate("rate=10,burst=100"), Ok(Some(Rate::per_second(10.0, 100))));
        assert_eq!(rate("burst=1,rate=0.5"), Ok(Some(Rate::new(seconds(2), 1))));
        assert_eq!(rate("off"), Ok(None));
        for (text, expected) in [
            ("rate=10", "missing key \"burst\""),
            ("burst=10", "missing key \"rate\""),
            ("rate=10,burst=0", "burst=0: expected at least 1; the word \"off\""),
            ("rate=0,burst=1", "rate=0: expected how many a second"),
            ("rate=NaN,burst=1", "rate=NaN: expected"),
            ("rate=1,bursts=1", "unknown key \"bursts\": there are rate and burst"),
        ] {
            let error = rate(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
