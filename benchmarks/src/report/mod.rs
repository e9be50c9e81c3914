//! Reports: what a run found, as tables, plots, and JSON.

pub(crate) mod document;
pub(crate) mod json;
mod svg;
pub(crate) mod tables;
