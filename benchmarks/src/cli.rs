//! Command line of `./dev bench`.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::PossibleValuesParser;

use crate::bench::Bench;
use crate::benches;
use crate::rounds::ROUNDS_MIN;
use crate::run::Options;

/// Measures Holdfast beside its peers, in one run.
#[derive(Debug, Parser)]
#[command(
    name = "dev",
    bin_name = "./dev bench",
    after_long_help = "Each bench measures all its variants in turn, round by round, and compares them round by round. \
        It prints its tables, and writes them with plots to docs/benchmarks.md and docs/benchmarks/, unless a part was \
        left out (--clients, --variants, --only, or fewer than 7 rounds).\n\n\
        Examples:\n  \
        ./dev bench all --quick                                        everything in less than 25 minutes\n  \
        ./dev bench wal-commit                                         one bench, long rounds\n  \
        ./dev bench wal-commit --quick --clients 8 --variants floor,ours --only INSERT   while working on it\n  \
        ./dev bench render                                             writes the document anew from saved results"
)]
pub(crate) struct Arguments {
    /// Names of benches, `all`, `list` (says what each does), or `render` (writes the document from saved results).
    #[arg(required = true, value_parser = names(), hide_possible_values = false)]
    pub(crate) names: Vec<String>,
    /// Write all comparisons to this file: a list of bench, what, unit, ours, peer, peer_name, ratio, goal, met.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Short rounds: all benches in less than 25 minutes.
    #[arg(long)]
    quick: bool,
    /// Number of rounds; a goal needs 7 or more.
    #[arg(long, default_value_t = ROUNDS_MIN)]
    rounds: usize,
    /// Only these numbers of clients (1,8).
    #[arg(long, value_delimiter = ',')]
    clients: Vec<u32>,
    /// Only these variants (floor,ours).
    #[arg(long, value_delimiter = ',')]
    variants: Vec<String>,
    /// Only situations whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Print results only; leave the document as it is.
    #[arg(long)]
    pub(crate) no_docs: bool,
}

fn names() -> PossibleValuesParser {
    let names = benches::ALL.iter().map(|bench| bench.name);
    PossibleValuesParser::new(names.chain(["all", "list", "render"]))
}

impl Arguments {
    /// The options of a run.
    pub(crate) fn options(&self) -> Options {
        Options {
            quick: self.quick,
            rounds: self.rounds,
            clients: self.clients.clone(),
            variants: self.variants.clone(),
            only: self.only.clone(),
        }
    }

    /// The chosen benches, in the order of the document.
    pub(crate) fn chosen(&self) -> Vec<&'static Bench> {
        let is_chosen = |name: &str| self.names.iter().any(|chosen| chosen == name || chosen == "all");
        benches::ALL.iter().filter(|bench| is_chosen(bench.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_chooses_every_bench() {
        let arguments = Arguments::parse_from(["bench", "all", "--quick", "--clients", "1,8"]);
        assert_eq!(arguments.chosen().len(), benches::ALL.len());
        assert_eq!(arguments.options().clients, [1, 8]);
        assert!(Arguments::try_parse_from(["bench", "nothing"]).is_err());
    }
}
