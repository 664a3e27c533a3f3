//! Studies of the estimators against known truth. `cargo run --release -p basin-volume-accuracy -- STUDY --out DIR` prints a table in
//! Markdown and writes it to `DIR/STUDY.md`, with every single run in `DIR/STUDY.jsonl`. All of it is a function of the seeds.

#[cfg(feature = "networks")]
mod anchor;
mod bodies;
mod directions;
mod method;
mod output;
mod problem;
mod quadratics;
mod table;
#[cfg(feature = "networks")]
mod tiny_network;
mod works;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use output::Output;

/// Studies of the estimators against known truth.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    study: Study,
    /// Folder for the table and for a line of JSON per run
    #[arg(long, global = true, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Use only this many seeds per row
    #[arg(long, global = true, value_name = "N")]
    seeds: Option<u64>,
    /// Use only methods whose name contains this
    #[arg(long, global = true, value_name = "TEXT")]
    method: Option<String>,
    /// Use only bodies of at most this many dimensions
    #[arg(long, global = true, value_name = "D")]
    largest: Option<usize>,
    /// Use only bodies of at least this many dimensions
    #[arg(long, global = true, value_name = "D")]
    smallest: Option<usize>,
    /// Use only rows whose body's name contains this
    #[arg(long, global = true, value_name = "TEXT")]
    body: Option<String>,
}

#[derive(Subcommand)]
enum Study {
    /// Ellipsoids with flat, two-level and power-law spectra, in 1e2 to 1e6 dimensions
    Quadratics(quadratics::Settings),
    /// The normals that directions are made of: moments, tails, distribution, correlations
    Directions(directions::Settings),
    /// Bodies that are not quadratic: valleys, wells, crossings, power balls, a shell, spikes
    Bodies,
    /// What the works of single chains say about the gap of both ways, on bodies that are not quadratic
    Works,
    /// A network of 39 weights: draws from the prior at loose cutoffs, long annealings at tight ones
    #[cfg(feature = "networks")]
    TinyNetwork,
    /// The annealed volume of a network of the digits with the spring at a state that another run has settled in
    #[cfg(feature = "networks")]
    Anchor(anchor::Settings),
    /// The tables of runs that are in files already
    Tables {
        /// Files of runs, `STUDY.jsonl`
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// Which part of a study is run.
#[derive(Clone)]
pub(crate) struct Selection {
    seeds: Option<u64>,
    method: Option<String>,
    largest: Option<usize>,
    smallest: Option<usize>,
    body: Option<String>,
}

impl Selection {
    /// Whether bodies of so many dimensions are asked for.
    fn has(&self, dimension: usize) -> bool {
        (self.smallest.unwrap_or(0)..=self.largest.unwrap_or(usize::MAX)).contains(&dimension)
    }

    /// Whether a text contains what was asked for, if anything was.
    fn contains(asked: Option<&String>, text: &str) -> bool {
        asked.is_none_or(|part| text.contains(part.as_str()))
    }
}

fn main() -> anyhow::Result<()> {
    let Arguments { study, out, seeds, method, largest, smallest, body } = Arguments::parse();
    let selection = Selection { seeds, method, largest, smallest, body };
    match study {
        Study::Quadratics(settings) => quadratics::run(&selection, settings, Output::new("quadratics", out.as_deref())?),
        Study::Tables { files } => {
            let rows = table::read(&files)?;
            Output::new("tables", None)?.finish(&format!("{}\n{}", table::short(&rows), table::long(&rows)))
        }
        #[cfg(feature = "networks")]
        Study::TinyNetwork => tiny_network::run(&selection, Output::new("tiny_network", out.as_deref())?),
        #[cfg(feature = "networks")]
        Study::Anchor(settings) => anchor::run(&settings, Output::new("anchor", out.as_deref())?),
        Study::Directions(settings) => directions::run(&settings, Output::new("directions", out.as_deref())?),
        Study::Works => works::run(&selection, Output::new("works", out.as_deref())?),
        Study::Bodies => bodies::run(&selection, Output::new("bodies", out.as_deref())?),
    }
}
