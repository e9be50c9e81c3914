//! [`Bench`]: what a file of `benches` gives: its name, its goals, its plots and how it measures.

use std::pin::Pin;

use anyhow::Result;

use crate::goals::Goal;
use crate::run::Run;

/// The future of a running bench.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// One bench.
#[derive(Debug)]
pub(crate) struct Bench {
    /// Its name on the command line and in the document.
    pub(crate) name: &'static str,
    /// What it compares, in some sentences.
    pub(crate) about: &'static str,
    /// Its goals.
    pub(crate) goals: fn() -> Vec<Goal>,
    /// Its plots.
    pub(crate) plots: &'static [Plot],
    /// Measures.
    pub(crate) run: for<'a> fn(&'a mut Run) -> Running<'a>,
}

/// A bar chart: one group for each situation, one bar for each variant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plot {
    /// Name of the file, after the bench's name and without `.svg`.
    pub(crate) file: &'static str,
    /// Its title.
    pub(crate) title: &'static str,
    /// Name of the quantity.
    pub(crate) quantity: &'static str,
    /// Only situations whose name contains this text.
    pub(crate) situations: &'static str,
    /// Name of a variant that all others are divided by; `None` shows the values.
    pub(crate) relative_to: Option<&'static str>,
}
