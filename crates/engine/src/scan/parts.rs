//! Scans of components: which parts of a network there are, and what they come to together.

use basin_volume_models::components::{Components, Kind};
use serde::{Deserialize, Serialize};

use super::points::Target;
use super::request::Scan;
use super::table::Row;
use crate::error::Error;
use crate::loaded::Loaded;
use crate::numbers::nats;
use crate::session::Session;

/// The name of all parts at once, where they are not the whole model.
const TOGETHER: &str = "together";
/// The name of the whole model.
const WHOLE: &str = "whole";

/// The parts of the one model of a scan as targets with their components, then all of them together, then the whole model, which has no component.
pub(super) fn targets(
    scan: &Scan,
    models: &[Target],
    loaded: &mut Option<(String, Loaded)>,
    session: &Session,
) -> Result<(Vec<Target>, Vec<Option<String>>), Error> {
    let [target] = models else {
        return Err(Error::usage(format!("a scan of components is of one model, and {} are given: scan each by itself", models.len())));
    };
    let found = Loaded::load(&target.model, &scan.cost_request(), session)?;
    let components = Components::of(found.model.checkpoint.architecture.as_ref());
    let usage = |error| Error::usage(format!("`of`: {error}"));
    let names = match scan.of {
        Some(kind) => components.names_of(kind).map_err(usage)?,
        None => components.names_of(Kind::Heads).or_else(|_| components.names_of(Kind::Layers)).map_err(usage)?,
    };
    let together = components.chosen(&names).map_err(usage)?.count();
    let is_whole = together == found.moving.dimension();
    *loaded = Some((target.model.clone(), found));
    let mut components: Vec<Option<String>> = names.iter().cloned().map(Some).collect();
    let all = names.join(", ");
    let mut titles = names;
    if !is_whole {
        titles.push(TOGETHER.to_owned());
        components.push(Some(all));
    }
    titles.push(WHOLE.to_owned());
    components.push(None);
    let targets = titles.into_iter().map(|name| Target { name, model: target.model.clone() });
    Ok((targets.collect(), components))
}

/// The sum of the log-probabilities of all parts beside that of their union.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// Estimator and preconditioner.
    pub method: String,
    /// How many parts there are.
    pub count: usize,
    /// The sum over the parts, nats.
    pub sum: f64,
    /// Weights of all parts; those that several parts have count several times.
    pub dimension: u64,
    /// What the parts have when all of them move at once, nats; where they are the whole model, that of the whole.
    pub together: Option<f64>,
    /// Weights of the union.
    pub together_dimension: Option<u64>,
    /// What the whole model has, nats.
    pub whole: Option<f64>,
    /// Whether one of these numbers is a bound from below.
    pub has_bounds: bool,
}

impl Parts {
    /// One for every method of which all parts are there.
    pub(super) fn of(rows: &[Row]) -> Vec<Self> {
        let mut methods: Vec<String> = Vec::new();
        rows.iter().map(Row::method).for_each(|method| {
            if !methods.contains(&method) {
                methods.push(method);
            }
        });
        let of_method = |method: String| {
            let own = || rows.iter().filter(|row| row.method() == method);
            let named = |name: &str| own().find(|row| row.target == name);
            let parts: Vec<&Row> = own().filter(|row| row.target != WHOLE && row.target != TOGETHER).collect();
            let estimates: Vec<f64> = parts.iter().filter_map(|row| row.estimate()).collect();
            let together = named(TOGETHER).or_else(|| named(WHOLE));
            (!parts.is_empty() && estimates.len() == parts.len()).then(|| Self {
                count: parts.len(),
                sum: estimates.iter().sum(),
                dimension: parts.iter().map(|row| row.dimension).sum(),
                together: together.and_then(Row::estimate),
                together_dimension: together.map(|row| row.dimension),
                whole: named(WHOLE).and_then(Row::estimate),
                has_bounds: own().any(Row::is_lower_bound),
                method: method.clone(),
            })
        };
        methods.into_iter().filter_map(of_method).collect()
    }

    /// In a sentence.
    pub(super) fn words(&self) -> String {
        let mut words = format!("{}: the log-probabilities of the {} parts sum to {} nats", self.method, self.count, nats(self.sum));
        if let Some(together) = self.together {
            words += &format!(", moved together they have {}", nats(together));
        }
        if let Some(whole) = self.whole.filter(|whole| Some(*whole) != self.together) {
            words += &format!(", and the whole model has {}", nats(whole));
        }
        if self.together_dimension.is_some_and(|dimension| dimension < self.dimension) {
            words += " (parts share weights, which the sum counts for each)";
        }
        if self.has_bounds {
            words += "; some of these are lower bounds";
        }
        words
            + ". The sum is that of the product of the parts' sets, in which each may use up the whole cutoff; moved together they share one."
    }
}
