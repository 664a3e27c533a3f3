//! Perceptrons from anywhere: which matrices of a file are the layers, and in what order.
//!
//! A configuration may leave out `widths`, and the tensors may have any names: a layer is a matrix `[outputs, inputs]` named `...weight`, with a vector
//! `[outputs]` named `...bias` or without. The order is that of the names, numbers in them read as numbers, if the matrices chain in that order, else the only
//! order in which they do. `layers`, a list of the names without `.weight`, says it where neither does.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::weights::TensorStore;

/// Endings of the names of a layer's tensors.
const WEIGHT: &str = ".weight";
const BIAS: &str = ".bias";

/// A search for an order ends after so many steps: then there are many.
const MOST_STEPS: usize = 100_000;

/// What the tensors of the network are called in the file.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_own: BTreeMap<String, String>,
    /// Names and shapes of the layers, where they had to be found.
    found: Vec<Layer>,
}

/// A matrix, with its bias or without.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layer {
    /// What stands before `.weight`.
    name: String,
    outputs: usize,
    inputs: usize,
    has_bias: bool,
}

impl Names {
    /// The name in the file of a parameter of the network.
    pub(super) fn of(&self, own: &str) -> String {
        self.by_own.get(own).map_or(own, String::as_str).to_owned()
    }

    /// Parameters of the network that the file does not have, because its layers have no bias: zeros that do not move.
    pub(super) fn absent(&self) -> Vec<String> {
        let without = self.found.iter().enumerate().filter(|(_, layer)| !layer.has_bias);
        without.map(|(number, _)| format!("{}{BIAS}", own(number))).collect()
    }

    /// How the layers were found, if they had to be.
    pub(super) fn words(&self, path: &Path) -> Option<String> {
        if self.found.is_empty() {
            return None;
        }
        let words = |layer: &Layer| {
            let bias = if layer.has_bias { "" } else { ", without a bias" };
            format!("{} ({} to {}{bias})", layer.name, layer.inputs, layer.outputs)
        };
        let layers: Vec<String> = self.found.iter().map(words).collect();
        Some(format!("{}: its layers in order are {}", path.display(), layers.join(", ")))
    }
}

/// Our own name of a layer.
fn own(layer: usize) -> String {
    format!("layers.{layer}")
}

/// Whether a configuration is that of a perceptron.
pub(super) fn is_one(config: &Value) -> bool {
    config.get("model_type").and_then(Value::as_str) == Some("mlp")
}

/// Writes `widths` into a configuration that lacks them, and finds the names of the layers; the problem in words for `the configuration PATH ...`.
pub(super) fn complete(config: &mut Value, store: &TensorStore) -> Result<Names, String> {
    let widths = config.get("widths").filter(|widths| !widths.is_null()).cloned();
    let named = config.get("layers").filter(|layers| !layers.is_null());
    // The names that we write ourselves, whatever a tool has put before them, need no search; what is wrong with them is said when they are bound.
    let first = format!("{}{WEIGHT}", own(0));
    let has_own = || store.names().any(|name| name.ends_with(&first));
    let has_none = || !store.names().any(|name| name.ends_with(WEIGHT));
    if widths.is_some() && named.is_none() && (has_own() || has_none()) {
        return Ok(Names::default());
    }
    let layers = match named {
        Some(named) => {
            let names: Vec<String> = serde_json::from_value(named.clone()).map_err(|_| {
                "has wrong `layers`: expected a list of names, such as [\"fc1\", \"fc2\"], from the input to the output".to_owned()
            })?;
            let layers = names.iter().map(|name| layer(store, name)).collect::<Result<Vec<_>, _>>()?;
            if let Some(pair) = layers.windows(2).find(|pair| !chains(pair)) {
                return Err(format!(
                    "has `layers` that do not follow each other: {} has {} outputs, {} has {} inputs",
                    pair[0].name, pair[0].outputs, pair[1].name, pair[1].inputs
                ));
            }
            layers
        }
        None => in_order(all(store)?)?,
    };
    if layers.is_empty() {
        return Err(format!(
            "is that of a perceptron, but {} has no matrix whose name ends with {WEIGHT}: expected one for each layer, [outputs, inputs]",
            store.path().display()
        ));
    }
    let found = json!([layers[0].inputs].into_iter().chain(layers.iter().map(|layer| layer.outputs)).collect::<Vec<_>>());
    if widths.as_ref().is_some_and(|widths| *widths != found) {
        return Err(format!("has other `widths` than the weights: they are {found} there; leave `widths` out"));
    }
    config["widths"] = found;
    let by_own = layers
        .iter()
        .enumerate()
        .flat_map(|(number, layer)| [WEIGHT, BIAS].map(|ending| (format!("{}{ending}", own(number)), format!("{}{ending}", layer.name))));
    Ok(Names { by_own: by_own.collect(), found: layers })
}

/// The layer of this name.
fn layer(store: &TensorStore, name: &str) -> Result<Layer, String> {
    let (weight, bias) = (format!("{name}{WEIGHT}"), format!("{name}{BIAS}"));
    let path = store.path().display();
    let Some(shape) = store.shape(&weight) else {
        return Err(format!("names a layer {name}, but {path} has no tensor {weight}"));
    };
    let &[outputs, inputs] = shape else {
        return Err(format!("has a layer {name} whose weights in {path} have the shape {shape:?}: expected [outputs, inputs]"));
    };
    match store.shape(&bias) {
        Some(&[length]) if length == outputs => Ok(Layer { name: name.to_owned(), outputs, inputs, has_bias: true }),
        Some(shape) => {
            Err(format!("has a layer {name} whose bias in {path} has the shape {shape:?}: expected [{outputs}], the number of its outputs"))
        }
        None => Ok(Layer { name: name.to_owned(), outputs, inputs, has_bias: false }),
    }
}

/// Every matrix, by name.
fn all(store: &TensorStore) -> Result<Vec<Layer>, String> {
    let is_matrix = |name: &&str| store.shape(name).is_some_and(|shape| shape.len() == 2);
    let mut layers = store
        .names()
        .filter(is_matrix)
        .filter_map(|name| name.strip_suffix(WEIGHT))
        .map(|name| layer(store, name))
        .collect::<Result<Vec<_>, _>>()?;
    layers.sort_by(|a, b| by_number(&a.name, &b.name));
    Ok(layers)
}

/// Whether the second of two layers can read what the first gives.
fn chains(pair: &[Layer]) -> bool {
    pair[0].outputs == pair[1].inputs
}

/// The layers in their order, given by name.
fn in_order(layers: Vec<Layer>) -> Result<Vec<Layer>, String> {
    if layers.windows(2).all(chains) {
        return Ok(layers);
    }
    let mut search = Search { layers: &layers, orders: Vec::new(), steps: 0 };
    search.extend(&mut Vec::new());
    let names =
        || layers.iter().map(|layer| format!("{} [{}, {}]", layer.name, layer.outputs, layer.inputs)).collect::<Vec<_>>().join(", ");
    match search.orders.as_slice() {
        [order] if search.steps < MOST_STEPS => Ok(order.iter().map(|&place| layers[place].clone()).collect()),
        [] if search.steps < MOST_STEPS => Err(format!(
            "is that of a perceptron, but its matrices make no chain in which every layer has as many inputs as the one before has outputs: {}",
            names()
        )),
        _ => Err(format!(
            "does not say in what order the layers come, and their shapes allow several orders ({}): name them, `\"layers\": [FIRST, SECOND, ...]`",
            names()
        )),
    }
}

/// Orders in which the layers chain, two at most.
struct Search<'a> {
    layers: &'a [Layer],
    orders: Vec<Vec<usize>>,
    steps: usize,
}

impl Search<'_> {
    fn extend(&mut self, order: &mut Vec<usize>) {
        self.steps += 1;
        if order.len() == self.layers.len() {
            self.orders.push(order.clone());
        }
        for next in 0..self.layers.len() {
            if self.orders.len() > 1 || self.steps >= MOST_STEPS {
                return;
            }
            let follows = order.last().is_none_or(|&last| self.layers[last].outputs == self.layers[next].inputs);
            if follows && !order.contains(&next) {
                order.push(next);
                self.extend(order);
                order.pop();
            }
        }
    }
}

/// Names in their order, runs of digits as numbers: `fc2` before `fc10`.
fn by_number(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    while let (Some(first), Some(second)) = (a.chars().next(), b.chars().next()) {
        if first.is_ascii_digit() && second.is_ascii_digit() {
            let number = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let ((x, rest_a), (y, rest_b)) = (a.split_at(number(a)), b.split_at(number(b)));
            let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
            let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (rest_a, rest_b);
        } else if first != second {
            return first.cmp(&second);
        } else {
            (a, b) = (&a[first.len_utf8()..], &b[second.len_utf8()..]);
        }
    }
    a.cmp(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(shapes: &[(&str, usize, usize)]) -> Vec<Layer> {
        let mut layers: Vec<Layer> =
            shapes.iter().map(|&(name, outputs, inputs)| Layer { name: name.to_owned(), outputs, inputs, has_bias: true }).collect();
        layers.sort_by(|a, b| by_number(&a.name, &b.name));
        layers
    }

    fn order(shapes: &[(&str, usize, usize)]) -> Result<Vec<String>, String> {
        in_order(layers(shapes)).map(|layers| layers.into_iter().map(|layer| layer.name).collect())
    }

    #[test]
    fn layers_come_by_number_or_in_the_only_order_that_chains() {
        assert_eq!(order(&[("10", 3, 8), ("2", 8, 8), ("0", 8, 4)]).unwrap(), ["0", "2", "10"]);
        assert_eq!(order(&[("input", 8, 4), ("hidden", 6, 8), ("output", 3, 6)]).unwrap(), ["input", "hidden", "output"]);
        assert_eq!(order(&[("fc09", 3, 8), ("fc1", 8, 4)]).unwrap(), ["fc1", "fc09"]);
        let problem = order(&[("in", 8, 4), ("b", 8, 8), ("a", 8, 8), ("out", 3, 8)]).unwrap_err();
        assert!(
            problem.contains("several orders (a [8, 8], b [8, 8], in [8, 4], out [3, 8])") && problem.contains("\"layers\""),
            "{problem}"
        );
        let problem = order(&[("a", 8, 4), ("b", 3, 7)]).unwrap_err();
        assert!(problem.contains("make no chain") && problem.contains("b [3, 7]"), "{problem}");
        // So many squares that no search ends.
        let names: Vec<String> = (0..30).map(|k| format!("z{k}")).collect();
        let mut many: Vec<(&str, usize, usize)> = names.iter().map(|name| (name.as_str(), 8, 8)).collect();
        many.extend([("a", 3, 8), ("y", 5, 3)]);
        assert!(order(&many).unwrap_err().contains("several orders"));
    }

    #[test]
    fn numbers_in_names_are_numbers() {
        let mut names = ["net.10", "net.9", "net", "net.9.b", "met.11", "net.010a"];
        names.sort_by(|a, b| by_number(a, b));
        assert_eq!(names, ["met.11", "net", "net.9", "net.9.b", "net.10", "net.010a"]);
    }
}
