//! The `state_dict` of a PyTorch optimizer, as Hugging Face's Trainer saves it: the state of every parameter under its number, and
//! groups of numbers. Names are rarely kept, so the numbers are matched with the parameters by the groups' order and the shapes.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use basin_volume_data::pickle::Value;

use super::objects::{self, Objects};
use super::{Center, Filling, Moments, OptimizerError, Stored, first_name, first_of};
use crate::parameters::ParameterLayout;
use crate::weights::printable;

/// In order of preference.
const NAMES: &[&str] = &["optimizer.pt", "optimizer.bin"];

pub(super) fn files(names: &[String]) -> Vec<String> {
    first_name(names, NAMES)
}

pub(super) fn find(folder: &Path) -> Result<Option<Vec<PathBuf>>, OptimizerError> {
    Ok(first_of(folder, NAMES))
}

pub(super) fn read(files: &[PathBuf], layout: &ParameterLayout, _center: Center) -> Result<Moments, OptimizerError> {
    let path = &files[0];
    let (states, step) = objects::open(path, |objects| states(objects, layout))?;
    let mut filling = Filling::new(layout);
    for (parameter, state) in layout.parameters().iter().zip(&states) {
        filling.parameter(path, parameter, |moment, range, out| state.get(moment).read(range, out))?;
    }
    Ok(filling.finish(step))
}

/// One group of parameters.
struct Group {
    /// The numbers of its states.
    numbers: Vec<usize>,
    /// The names under which the states are, where they have no numbers (a state gathered from shards): then numbers are given here.
    keys: Vec<String>,
    /// The parameters' names, if torch kept them.
    names: Option<Vec<String>>,
    weight_decay: Option<f64>,
}

/// The states of all parameters in the layout's order, and the steps behind them.
fn states(objects: &Objects, layout: &ParameterLayout) -> Result<(Vec<Stored>, u64), OptimizerError> {
    let root = ["optimizer", "optimizer_state_dict"].iter().find_map(|name| objects.find(objects.root(), name)).unwrap_or(objects.root());
    if objects.find(root, "state").is_none() || objects.find(root, "param_groups").is_none() {
        return Err(objects.fault("it has no `state` and `param_groups`: the state_dict of a PyTorch optimizer is expected"));
    }
    let state = objects.get(root, "the file", "state")?;
    let groups = groups(objects, objects.get(root, "the file", "param_groups")?)?;
    // Every state with its number and the settings of its group.
    let list = objects.items(objects.get(root, "the file", "param_groups")?, "param_groups")?;
    let numbers: Vec<(usize, Value)> =
        groups.iter().zip(list).flat_map(|(group, &setting)| group.numbers.iter().map(move |&number| (number, setting))).collect();
    if numbers.len() != layout.parameters().len() {
        let problem = format!("it has {} parameters, and the network {}", numbers.len(), layout.parameters().len());
        return Err(OptimizerError::Mismatch { path: objects.path.to_owned(), problem });
    }
    // One pass over the dictionary: looking every number up would take quadratic time.
    let mut by_number: HashMap<usize, Value> = HashMap::new();
    let named: HashMap<&str, usize> =
        groups.iter().flat_map(|group| group.keys.iter().map(String::as_str).zip(group.numbers.iter().copied())).collect();
    for &(key, value) in objects.entries(state, "state")? {
        let number = match key {
            Value::Int(key) if named.is_empty() => usize::try_from(key).ok(),
            Value::Text(key) => named.get(key).copied(),
            _ => None,
        };
        if let Some(number) = number {
            by_number.insert(number, value);
        }
    }
    let mut stored: Vec<Option<Stored>> = Vec::with_capacity(numbers.len());
    let mut steps = 0;
    for (number, setting) in &numbers {
        let state = by_number.get(number).copied();
        stored.push(state.map(|state| objects.moments(state, &format!("state.{number}"))).transpose()?);
        if state.is_some() {
            // The steps of a parameter that was frozen for a while are fewer.
            steps = steps.max(objects.steps_of(&[state, Some(*setting)])?);
        }
    }
    let shapes: Vec<Option<&[usize]>> = stored.iter().map(|stored| stored.as_ref().map(|stored| stored.first.shape.as_slice())).collect();
    let order = match names(&groups) {
        Some(names) => by_name(objects, layout, &names, &shapes)?,
        None => by_groups(objects, layout, &groups, &shapes)?,
    };
    let mut places: Vec<Option<usize>> = vec![None; layout.parameters().len()];
    order.iter().enumerate().for_each(|(place, &parameter)| places[parameter] = Some(place));
    let mut missing = Vec::new();
    let mut found = Vec::with_capacity(places.len());
    for (parameter, place) in layout.parameters().iter().zip(places) {
        match place.and_then(|place| stored[place].take()) {
            Some(state) => found.push(state),
            None => missing.push(parameter.name.clone()),
        }
    }
    if missing.is_empty() {
        Ok((found, steps))
    } else {
        Err(OptimizerError::Missing { path: objects.path.to_owned(), parameters: missing })
    }
}

fn groups(objects: &Objects, value: Value) -> Result<Vec<Group>, OptimizerError> {
    let mut seen = HashSet::new();
    let mut groups = Vec::new();
    for &group in objects.items(value, "param_groups")? {
        let (mut numbers, mut keys) = (Vec::new(), Vec::new());
        for &item in objects.items(objects.get(group, "param_groups", "params")?, "params")? {
            let number = match item {
                Value::Int(number) => {
                    usize::try_from(number).map_err(|_| objects.fault(format!("its `params` have the number {number}")))?
                }
                Value::Text(key) => {
                    keys.push(key.to_owned());
                    seen.len()
                }
                _ => return Err(objects.fault("its `params` are neither numbers nor names of states")),
            };
            if !seen.insert(number) {
                return Err(objects.fault(format!("its groups have the state {number} twice")));
            }
            numbers.push(number);
        }
        if !keys.is_empty() && keys.len() != numbers.len() {
            return Err(objects.fault("its `params` are numbers and names of states, mixed"));
        }
        let names = match objects.find(group, "param_names") {
            None => (!keys.is_empty()).then(|| keys.clone()),
            Some(names) => {
                let text = |value: &Value| if let Value::Text(text) = value { Some((*text).to_owned()) } else { None };
                let names: Option<Vec<String>> = objects.items(names, "param_names")?.iter().map(text).collect();
                names.filter(|names| names.len() == numbers.len())
            }
        };
        let weight_decay = match objects.find(group, "weight_decay") {
            Some(Value::Float(decay)) => Some(decay),
            Some(Value::Int(decay)) => Some(decay as f64),
            _ => None,
        };
        groups.push(Group { numbers, keys, names, weight_decay });
    }
    Ok(groups)
}

/// The names of all parameters, when every group has them.
fn names(groups: &[Group]) -> Option<Vec<&String>> {
    groups.iter().map(|group| group.names.as_ref()).collect::<Option<Vec<_>>>().map(|names| names.into_iter().flatten().collect())
}

/// The parameter of every state, by the names that torch kept; wrappers put words before them.
fn by_name(
    objects: &Objects,
    layout: &ParameterLayout,
    names: &[&String],
    shapes: &[Option<&[usize]>],
) -> Result<Vec<usize>, OptimizerError> {
    let mismatch = |problem: String| OptimizerError::Mismatch { path: objects.path.to_owned(), problem };
    let known: HashMap<&str, usize> =
        layout.parameters().iter().enumerate().map(|(index, parameter)| (parameter.name.as_str(), index)).collect();
    let mut order = Vec::with_capacity(names.len());
    for (name, shape) in names.iter().zip(shapes) {
        let mut bare = name.as_str();
        while let Some(rest) = ["module.", "_orig_mod."].iter().find_map(|wrapper| bare.strip_prefix(wrapper)) {
            bare = rest;
        }
        let parameter = known.get(bare).copied();
        let parameter = parameter.ok_or_else(|| mismatch(format!("it has `{}`, which the network does not have", printable(name))))?;
        let expected = &layout.parameters()[parameter].shape;
        if let Some(shape) = shape.filter(|shape| shape != expected) {
            return Err(mismatch(format!("the state of `{bare}` has shape {shape:?}: expected {expected:?}")));
        }
        order.push(parameter);
    }
    let mut sorted = order.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != order.len() {
        return Err(mismatch("it names a parameter twice".to_owned()));
    }
    Ok(order)
}

/// Which parameters programs leave without weight decay, from the name and the number of dimensions.
const CONVENTIONS: [fn(&str, usize) -> bool; 4] = [
    // Trainer: biases and the weights of norms.
    |name, _| is_bias(name) || is_norm(name),
    // Trainer, where it does not take a family's norms for such: biases only.
    |name, _| is_bias(name),
    // Vectors.
    |_, dimensions| dimensions < 2,
    // Also embeddings.
    |name, dimensions| dimensions < 2 || name.contains("embed") || name.ends_with("wte.weight") || name.ends_with("wpe.weight"),
];

fn is_bias(name: &str) -> bool {
    name.contains("bias")
}

fn is_norm(name: &str) -> bool {
    name.contains("norm") || name.split('.').any(|part| part.starts_with("ln_"))
}

/// The parameter of every state, by the order of the groups and the shapes.
fn by_groups(
    objects: &Objects,
    layout: &ParameterLayout,
    groups: &[Group],
    shapes: &[Option<&[usize]>],
) -> Result<Vec<usize>, OptimizerError> {
    let parameters = layout.parameters();
    let mismatch = |problem: String| OptimizerError::Mismatch { path: objects.path.to_owned(), problem };
    let all: Vec<usize> = (0..parameters.len()).collect();
    let fits = |order: &[usize]| {
        order.iter().zip(shapes).all(|(&parameter, shape)| shape.is_none_or(|shape| shape == parameters[parameter].shape))
    };
    let filled: Vec<&Group> = groups.iter().filter(|group| !group.numbers.is_empty()).collect();
    let mut orders: Vec<Vec<usize>> = Vec::new();
    if let [first, second] = filled[..] {
        // The group without decay comes last, unless the decays say otherwise.
        let swapped = first.weight_decay == Some(0.0) && second.weight_decay.is_some_and(|decay| decay > 0.0);
        for plain in CONVENTIONS {
            let is_plain = |&index: &usize| plain(&parameters[index].name, parameters[index].shape.len());
            let (last, decayed): (Vec<usize>, Vec<usize>) = all.iter().partition(|index| is_plain(index));
            let (front, back) = if swapped { (last, decayed) } else { (decayed, last) };
            let order = [front.as_slice(), &back].concat();
            if front.len() == first.numbers.len() && fits(&order) && !orders.contains(&order) {
                orders.push(order);
            }
        }
        if orders.is_empty() {
            orders = splits(layout, shapes, first.numbers.len());
        }
    } else if fits(&all) {
        orders.push(all.clone());
    }
    match orders.as_slice() {
        [order] => Ok(order.clone()),
        [] => {
            let problem = match filled.len() {
                1 => first_difference(layout, shapes),
                2 => "no split of the parameters into two groups, each in the network's order, gives the shapes of its states".to_owned(),
                count => format!(
                    "its parameters are in {count} groups that do not follow the network's order: one group, or one with weight decay and \
                     one without, are read"
                ),
            };
            Err(mismatch(problem))
        }
        [one, other, ..] => {
            let place = one.iter().zip(other).position(|(a, b)| a != b).unwrap_or(0);
            let (one, other) = (&parameters[one[place]].name, &parameters[other[place]].name);
            let number = groups.iter().flat_map(|group| &group.numbers).nth(place).copied().unwrap_or(place);
            let problem = format!("its state {number} may be that of `{one}` or that of `{other}`, which have the same shape");
            Err(OptimizerError::Ambiguous { path: objects.path.to_owned(), problem })
        }
    }
}

fn first_difference(layout: &ParameterLayout, shapes: &[Option<&[usize]>]) -> String {
    let mut pairs = layout.parameters().iter().zip(shapes).enumerate();
    let different =
        pairs.find_map(|(number, (parameter, shape))| Some((number, parameter, shape.filter(|shape| *shape != parameter.shape)?)));
    match different {
        Some((number, parameter, shape)) => {
            format!("its state {number} has shape {shape:?}, but `{}`, which stands there, has {:?}", parameter.name, parameter.shape)
        }
        None => "its groups are empty".to_owned(),
    }
}

/// The ways to split the parameters into two groups, each in the layout's order, so that the shapes fit: at most two of them.
fn splits(layout: &ParameterLayout, shapes: &[Option<&[usize]>], first: usize) -> Vec<Vec<usize>> {
    let parameters = layout.parameters();
    let count = parameters.len();
    let fits = |place: usize, parameter: usize| shapes[place].is_none_or(|shape| shape == parameters[parameter].shape);
    // ways[i][k]: in how many ways (0, 1, 2 or more) the parameters from `i` on can go, when `k` of those before went to the first group.
    let mut ways = vec![vec![0u8; first + 1]; count + 1];
    ways[count][first] = 1;
    for index in (0..count).rev() {
        for taken in 0..=first.min(index) {
            let other = index - taken;
            let mut sum = 0;
            if taken < first && fits(taken, index) {
                sum += ways[index + 1][taken + 1];
            }
            if first + other < count && fits(first + other, index) {
                sum += ways[index + 1][taken];
            }
            ways[index][taken] = sum.min(2);
        }
    }
    let follow = |prefer_first: bool| {
        let mut order = vec![0; count];
        let mut taken = 0;
        for index in 0..count {
            let to_first = taken < first && fits(taken, index) && ways[index + 1][taken + 1] > 0;
            let other = index - taken;
            let to_second = first + other < count && fits(first + other, index) && ways[index + 1][taken] > 0;
            if to_first && (prefer_first || !to_second) {
                order[taken] = index;
                taken += 1;
            } else {
                order[first + other] = index;
            }
        }
        order
    };
    match ways[0][0] {
        0 => Vec::new(),
        1 => vec![follow(true)],
        _ => vec![follow(true), follow(false)],
    }
}
