//! Results of one bench: the values of all rounds, with machine, commit and load. Kept as JSON beside the document, from
//! which tables, plots and goals are made anew at any time.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::machine::{LoadSummary, Machine};
use crate::quantity::{Better, Quantity};

/// Digits that are kept of a value.
const SIGNIFICANT_DIGITS: i32 = 5;

/// One run of one bench.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Name of the bench.
    pub(crate) bench: String,
    /// The commit of the measured programs, with `-dirty` when files differed from it.
    pub(crate) commit: String,
    /// When the run ended, in UTC.
    pub(crate) finished: String,
    /// Whether the rounds were the short ones.
    pub(crate) quick: bool,
    /// The machine.
    pub(crate) machine: Machine,
    /// The machine's load while it was measured.
    pub(crate) load: LoadSummary,
    /// Why the run should not be trusted; empty when nothing was seen.
    pub(crate) noise: Vec<String>,
    /// Remarks of the bench.
    pub(crate) notes: Vec<String>,
    /// All series, in the order in which they began.
    pub(crate) series: Vec<Series>,
}

/// The values of one quantity of one variant, one for each round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    /// The situation (`INSERT, 8 clients`); variants of one situation are compared with each other.
    pub(crate) what: String,
    /// Name of the quantity.
    pub(crate) quantity: String,
    /// Its unit.
    pub(crate) unit: String,
    /// Its better direction.
    pub(crate) better: Better,
    /// The measured variant (`ours`, `floor`).
    pub(crate) variant: String,
    /// A value for each round.
    pub(crate) values: Vec<f64>,
}

/// Series while they grow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(pub(crate) Vec<Series>);

impl Samples {
    /// Adds the value of one round.
    pub(crate) fn push(&mut self, what: &str, quantity: Quantity, variant: &str, value: f64) {
        let value = rounded(value);
        let existing = self.0.iter_mut().find(|series| series.is(what, quantity.name, variant));
        match existing {
            Some(series) => series.values.push(value),
            None => self.0.push(Series {
                what: what.into(),
                quantity: quantity.name.into(),
                unit: quantity.unit.into(),
                better: quantity.better,
                variant: variant.into(),
                values: vec![value],
            }),
        }
    }
}

impl Series {
    fn is(&self, what: &str, quantity: &str, variant: &str) -> bool {
        self.what == what && self.quantity == quantity && self.variant == variant
    }
}

impl Results {
    /// The values of one series.
    pub(crate) fn find(&self, what: &str, quantity: &str, variant: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.is(what, quantity, variant))
    }

    /// All distinct values of a field, in the order in which they first appear.
    pub(crate) fn distinct<'a>(
        &'a self,
        keep: impl Fn(&Series) -> bool,
        field: impl Fn(&'a Series) -> &'a str,
    ) -> Vec<&'a str> {
        let mut found = Vec::new();
        for series in self.series.iter().filter(|series| keep(series)) {
            if !found.contains(&field(series)) {
                found.push(field(series));
            }
        }
        found
    }

    /// Reads saved results; `None` when the bench never ran.
    pub(crate) fn load(file: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(file) {
            Ok(text) => Ok(Some(
                serde_json::from_str(&text).with_context(|| format!("cannot read {}", file.display()))?,
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// Saves the results.
    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string(self)?.replace("{\"what\"", "\n{\"what\"");
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
    }
}

fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let magnitude = value.abs().log10().floor() as i32;
    let scale = 10f64.powi(SIGNIFICANT_DIGITS - 1 - magnitude);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_of_one_series_stand_together() {
        let mut samples = Samples::default();
        let tps = Quantity::higher("TPS", "1/s");
        for round in [1.0, 2.0] {
            samples.push("INSERT", tps, "ours", round);
            samples.push("INSERT", tps, "peer", round * 2.0);
        }
        let values: Vec<_> = samples.0.iter().map(|series| series.values.clone()).collect();
        assert_eq!(values, [vec![1.0, 2.0], vec![2.0, 4.0]]);
    }

    #[test]
    fn five_digits_are_kept() {
        assert_eq!(
            [rounded(12_345_678.0), rounded(0.001_234_567), rounded(0.0)],
            [12_346_000.0, 0.001_234_6, 0.0]
        );
    }
}
