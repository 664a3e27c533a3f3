//! Every layout against the state that torch wrote in all of them, and every fault.

use std::fs;

use half::{bf16, f16};
use serde_json::Value as Json;

use super::*;
use crate::arch::from_config;
use crate::weights::{BindOptions, TensorStore, bind};

mod pickled;

use pickled::{Object, dict, int, list, write};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/optimizer")).join(name)
}

/// A network of the fixtures: layout, weights, and Adam's moments.
struct Network {
    layout: ParameterLayout,
    weights: Vec<f32>,
    moments: Moments,
}

fn network(family: &str) -> Network {
    let config: Json = serde_json::from_slice(&fs::read(golden(family).join("config.json")).unwrap()).unwrap();
    let layout = from_config(&config).unwrap().layout();
    let store = TensorStore::open(&golden(family).join("model.safetensors")).unwrap();
    let center = bind(&store, &layout, &str::to_owned, &BindOptions::default()).unwrap();
    let mut weights = vec![0.0; layout.dimension()];
    center.fill(0..weights.len(), &mut weights);
    let expected = TensorStore::open(&golden(family).join("expected.safetensors")).unwrap();
    let all = |prefix: &str| {
        let mut values = vec![f32::NAN; layout.dimension()];
        for parameter in layout.parameters() {
            expected.read_f32(&format!("{prefix}.{}", parameter.name), 0..parameter.len(), &mut values[parameter.range()]).unwrap();
        }
        values
    };
    let moments = Moments { first: all("exp_avg"), second: all("exp_avg_sq"), step: 5 };
    Network { layout, weights, moments }
}

fn read_with(path: &Path, layout: &ParameterLayout, weights: &[f32]) -> Result<Option<Moments>, OptimizerError> {
    read(path, layout, &|range, out| out.copy_from_slice(&weights[range]))
}

fn assert_fault(result: Result<Option<Moments>, OptimizerError>, file: &str, problem: &str) {
    let message = result.expect_err(problem).to_string();
    for part in [file, problem] {
        assert!(message.contains(part), "`{message}` should contain `{part}`");
    }
    assert!(!message.contains('\n') && message.len() < 1000, "{message}");
}

#[test]
fn every_layout_holds_the_moments_of_its_training() {
    for (family, layouts) in [
        ("gpt_neox", &["trainer", "trainer_equal", "named", "single", "deepspeed", "zero", "zero/global_step5"][..]),
        ("qwen2", &["trainer", "trainer_equal", "named", "single", "zero"]),
    ] {
        let Network { layout, weights, moments } = network(family);
        assert!(moments.second.iter().any(|&value| value > 0.0));
        for name in layouts {
            let found = read_with(&golden(family).join(name), &layout, &weights);
            let found = found.unwrap_or_else(|error| panic!("{family}/{name}: {error}"));
            assert!(found.as_ref() == Some(&moments), "{family}/{name}");
        }
    }
}

#[test]
fn a_single_file_may_be_given() {
    let Network { layout, weights, moments } = network("gpt_neox");
    for name in
        ["trainer/optimizer.pt", "deepspeed/mp_rank_00_model_states.pt", "zero/global_step5/zero_pp_rank_1_mp_rank_00_optim_states.pt"]
    {
        assert_eq!(read_with(&golden("gpt_neox").join(name), &layout, &weights).unwrap(), Some(moments.clone()), "{name}");
    }
    assert_fault(read_with(Path::new("absent.pt"), &layout, &weights), "absent.pt", "cannot read");
    assert_eq!(read_with(&golden(""), &layout, &weights).unwrap(), None);
}

#[test]
fn flat_groups_are_found_by_weights_of_half_precision_too() {
    let Network { layout, weights, moments } = network("gpt_neox");
    let half: Vec<f32> = weights.iter().map(|&weight| f16::from_f32(weight).to_f32()).collect();
    let brain: Vec<f32> = weights.iter().map(|&weight| bf16::from_f32(weight).to_f32()).collect();
    for name in ["deepspeed", "zero"] {
        for center in [&half, &brain] {
            assert_eq!(read_with(&golden("gpt_neox").join(name), &layout, center).unwrap(), Some(moments.clone()));
        }
        // The weights of another step.
        let other: Vec<f32> = weights.iter().map(|weight| weight * 1.01).collect();
        assert_fault(
            read_with(&golden("gpt_neox").join(name), &layout, &other),
            "states.pt",
            "no parameter of the network (compared by value)",
        );
        let last = layout.parameters().len() - 1;
        let mut changed = weights.clone();
        changed[layout.parameters()[last].range()].fill(0.25);
        assert_fault(
            read_with(&golden("gpt_neox").join(name), &layout, &changed),
            "states.pt",
            "in its flat group 0 after `gpt_neox.layers.1.",
        );
    }
}

#[test]
fn our_own_files_are_read() {
    let Network { layout, weights, moments } = network("gpt_neox");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optimizer.safetensors");
    let write = |layout: &ParameterLayout, moments: &Moments, metadata: &[(&str, String)]| {
        let groups = [("exp_avg.", moments.first.as_slice()), ("exp_avg_sq.", &moments.second)];
        crate::checkpoint::tensors::write(&path, layout, &groups, metadata).unwrap();
    };
    let step = [("step", "5".to_owned())];
    write(&layout, &moments, &step);
    // Before any other layout in the same folder.
    fs::write(folder.path().join("optimizer.pt"), "nonsense").unwrap();
    assert_eq!(read_with(folder.path(), &layout, &weights).unwrap(), Some(moments.clone()));
    assert_eq!(read_with(&path, &layout, &weights).unwrap(), Some(moments.clone()));
    write(&layout, &moments, &[]);
    assert_fault(read_with(&path, &layout, &weights), "optimizer.safetensors", "its metadata lacks `step`");
    let mut negative = moments.clone();
    negative.second[0] = -1.0;
    write(&layout, &negative, &step);
    assert_fault(read_with(&path, &layout, &weights), "gpt_neox.embed_in.weight", "has exp_avg_sq -1 at element 0: a mean of squares");
    write(&layout, &moments, &step);
    type Tensors = Vec<(String, Vec<usize>)>;
    let change = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = layout.parameters().iter().map(|parameter| (parameter.name.clone(), parameter.shape.clone())).collect();
        change(&mut tensors);
        ParameterLayout::new(tensors)
    };
    let larger = change(&|tensors| tensors.push(("more.weight".to_owned(), vec![1])));
    assert_fault(read_with(&path, &larger, &weights), "optimizer.safetensors", "lacks parameter `more.weight`");
    let smaller = change(&|tensors| _ = tensors.pop());
    assert_fault(read_with(&path, &smaller, &weights), "it has tensor `exp_avg.embed_out.weight`", "that the network does not use");
    let other = change(&|tensors| tensors[0].1 = vec![8, 11]);
    assert_fault(read_with(&path, &other, &weights), "`exp_avg.gpt_neox.embed_in.weight` has shape [11, 8]", "expected [8, 11]");
}

#[test]
fn states_of_other_networks_are_refused() {
    let Network { layout, weights, .. } = network("gpt_neox");
    assert_fault(read_with(&golden("qwen2/trainer"), &layout, &weights), "optimizer.pt", "it has 26 parameters, and the network 28");
    assert_fault(read_with(&golden("qwen2/named"), &layout, &weights), "optimizer.pt", "it has 26 parameters, and the network 28");
    assert_fault(read_with(&golden("qwen2/zero"), &layout, &weights), "states.pt", "flat group 0 at its start is no parameter");
    let mut tensors: Vec<_> = layout.parameters().iter().map(|parameter| (parameter.name.clone(), parameter.shape.clone())).collect();
    tensors[5].1.reverse();
    let name = tensors[5].0.clone();
    let shape = tensors[5].1.clone();
    let other = ParameterLayout::new(tensors.clone());
    let expected = format!("has shape {:?}, but `{name}`, which stands there, has {shape:?}", layout.parameters()[5].shape);
    assert_fault(read_with(&golden("gpt_neox/single"), &other, &weights), "optimizer.bin", &expected);
    assert_fault(read_with(&golden("gpt_neox/named"), &other, &weights), "optimizer.pt", &format!("state of `{name}` has shape"));
    assert_fault(read_with(&golden("gpt_neox/trainer"), &other, &weights), "optimizer.pt", "no split of the parameters into two groups");
    tensors[5].1.reverse();
    tensors[0].0 = "another.weight".to_owned();
    let renamed = ParameterLayout::new(tensors.clone());
    assert_fault(
        read_with(&golden("gpt_neox/named"), &renamed, &weights),
        "has `module.gpt_neox.embed_in.weight`",
        "the network does not have",
    );
    // A network with one parameter more than the flat groups.
    tensors.push(("more.weight".to_owned(), vec![3]));
    let mut more = weights.clone();
    more.extend([7.0, 8.0, 9.0]);
    let larger = ParameterLayout::new(tensors);
    assert_fault(read_with(&golden("gpt_neox/zero"), &larger, &more), "lacks parameter `more.weight`", "it is incomplete");
}

#[test]
fn hostile_files_are_refused() {
    let Network { layout, weights, .. } = network("gpt_neox");
    let path = golden("hostile.pt");
    assert_fault(
        read_with(&path, &layout, &weights),
        "hostile.pt",
        "system`, which the state of an optimizer does not need: refused, nothing was",
    );
    assert!(!Path::new("basin-volume-was-fooled").exists());
    // What is passed over in an optimizer's file is still refused in one of weights.
    let file = golden("gpt_neox/zero/global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt");
    let message = TensorStore::open(&file).unwrap_err().to_string();
    assert!(message.contains("LossScaler`, which a file of weights does not need"), "{message}");
}

#[test]
fn incomplete_partitions_are_refused() {
    let Network { layout, weights, .. } = network("gpt_neox");
    let name = |rank: usize| format!("zero_pp_rank_{rank}_mp_rank_00_optim_states.pt");
    let with = |ranks: &[usize], extra: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        for &rank in ranks {
            fs::copy(golden("gpt_neox/zero/global_step5").join(name(rank)), folder.path().join(name(rank))).unwrap();
        }
        extra.iter().for_each(|name| fs::write(folder.path().join(name), "x").unwrap());
        read_with(folder.path(), &layout, &weights)
    };
    assert_fault(with(&[0, 2], &[]), "", "lacks the partition of rank 1 (zero_pp_rank_1_mp_rank_00_optim_states.pt)");
    assert_fault(with(&[0, 1], &[]), "zero_pp_rank_0", "it is one of 3 partitions, but 2 files are there");
    assert_fault(with(&[0, 1, 2], &["zero_pp_rank_0_mp_rank_01_optim_states.pt"]), "mp_rank_01", "split over several ranks");
    assert_fault(with(&[], &["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"]), "mp_rank_00", "split over several ranks");
    assert_fault(with(&[], &["mp_rank_00_model_states.pt"]), "mp_rank_00", "neither a zipped PyTorch file");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("latest"), "../elsewhere").unwrap();
    assert_fault(read_with(folder.path(), &layout, &weights), "latest", "does not hold the plain name of a folder");
}

/// A small network: a matrix, a bias, a norm of the same width, a matrix.
fn small() -> (ParameterLayout, Vec<f32>) {
    let shapes = [("a.weight", vec![2, 3]), ("a.bias", vec![2]), ("norm.weight", vec![2]), ("b.weight", vec![3, 2])];
    let layout = ParameterLayout::new(shapes.map(|(name, shape)| (name.to_owned(), shape)));
    let weights = (0..layout.dimension()).map(|index| 0.5 + index as f32).collect();
    (layout, weights)
}

/// The state of a parameter whose first moments are 10, 11, ... times `scale`.
fn state(scale: f32, shape: &[usize]) -> Object {
    let count = shape.iter().product::<usize>();
    let first = (0..count).map(|index| scale * (10 + index) as f32).collect::<Vec<_>>();
    let second = first.iter().map(|value| value * value).collect();
    dict([("step", int(3)), ("exp_avg", Object::Tensor(shape.to_vec(), first)), ("exp_avg_sq", Object::Tensor(shape.to_vec(), second))])
}

fn group(decay: f64, numbers: &[i64]) -> Object {
    dict([("weight_decay", Object::Float(decay)), ("params", list(numbers.iter().map(|&number| int(number))))])
}

fn adam(states: impl IntoIterator<Item = (i64, Object)>, groups: impl IntoIterator<Item = Object>) -> Object {
    let states = states.into_iter().map(|(number, state)| (int(number), state)).collect();
    dict([("state", Object::Dict(states)), ("param_groups", list(groups))])
}

fn read_small(name: &str, object: &Object) -> Result<Option<Moments>, OptimizerError> {
    let (layout, weights) = small();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, write(object)).unwrap();
    read_with(&path, &layout, &weights)
}

const SHAPES: [&[usize]; 4] = [&[2, 3], &[2], &[2], &[3, 2]];

/// The states 0, 1, 2, 3 with the shapes of the parameters in the given order; the scale of each is one more than the parameter's number.
fn states(order: [usize; 4]) -> Vec<(i64, Object)> {
    order.iter().enumerate().map(|(number, &parameter)| (number as i64, state(1.0 + parameter as f32, SHAPES[parameter]))).collect()
}

#[test]
fn groups_are_matched_by_order_and_shape() {
    // What the first moment of every parameter begins with.
    let starts = |object: &Object| {
        let (layout, _) = small();
        let moments = read_small("optimizer.pt", object).unwrap().unwrap();
        assert_eq!(moments.step, 3);
        layout.parameters().iter().map(|parameter| moments.first[parameter.offset] / 10.0).collect::<Vec<_>>()
    };
    let right = [1.0, 2.0, 3.0, 4.0];
    // Decay first; no decay first, as the decays say; all in one; an empty group between; biases alone without decay.
    assert_eq!(starts(&adam(states([0, 3, 1, 2]), [group(0.1, &[0, 1]), group(0.0, &[2, 3])])), right);
    assert_eq!(starts(&adam(states([1, 2, 0, 3]), [group(0.0, &[0, 1]), group(0.1, &[2, 3])])), right);
    assert_eq!(starts(&adam(states([0, 1, 2, 3]), [group(0.1, &[0, 1, 2, 3])])), right);
    assert_eq!(starts(&adam(states([0, 3, 1, 2]), [group(0.1, &[0, 1]), group(0.1, &[]), group(0.0, &[2, 3])])), right);
    assert_eq!(starts(&adam(states([0, 2, 3, 1]), [group(0.1, &[0, 1, 2]), group(0.0, &[3])])), right);
    // No convention, but the shapes leave no choice: the last matrix alone.
    assert_eq!(starts(&adam(states([0, 1, 2, 3]), [group(0.1, &[0, 1, 2]), group(0.0, &[3])])), right);
    // One group per parameter, in the network's order.
    let single = (0..4).map(|number| group(0.1, &[number]));
    assert_eq!(starts(&adam(states([0, 1, 2, 3]), single)), right);
    // Inside another dictionary, as some training scripts save it.
    assert_eq!(starts(&dict([("optimizer", adam(states([0, 1, 2, 3]), [group(0.1, &[0, 1, 2, 3])]))])), right);
}

#[test]
fn states_under_names_are_read() {
    // A state that was gathered from shards has the parameters' names for numbers, in any order.
    let names = ["norm.weight", "_orig_mod.module.b.weight", "a.weight", "a.bias"];
    let order = [2usize, 3, 0, 1];
    let with = |names: [&str; 4]| {
        let states = names.iter().zip(order).map(|(name, index)| (pickled::text(name), state(1.0 + index as f32, SHAPES[index]))).collect();
        let group = |names: &[&str]| dict([("params", list(names.iter().map(|name| pickled::text(name))))]);
        read_small(
            "optimizer.bin",
            &dict([("state", Object::Dict(states)), ("param_groups", list([group(&names[..1]), group(&names[1..])]))]),
        )
    };
    let (layout, _) = small();
    let found = with(names).unwrap().unwrap();
    let starts: Vec<f32> = layout.parameters().iter().map(|parameter| found.first[parameter.offset] / 10.0).collect();
    assert_eq!(starts, [1.0, 2.0, 3.0, 4.0]);
    assert_fault(
        with(["norm.weight", "b.weight", "a.weight", "c.bias"]),
        "optimizer.bin",
        "it has `c.bias`, which the network does not have",
    );
    assert_fault(
        with(["norm.weight", "b.weight", "a.bias", "a.weight"]),
        "optimizer.bin",
        "the state of `a.bias` has shape [2, 3]: expected [2]",
    );
    assert_fault(with(["norm.weight", "b.weight", "a.weight", "norm.weight"]), "optimizer.bin", "names a parameter twice");
    let mixed = adam(states([0, 1, 2, 3]), [dict([("params", list([int(0), pickled::text("a.bias"), int(2), int(3)]))])]);
    assert_fault(read_small("optimizer.bin", &mixed), "optimizer.bin", "numbers and names of states, mixed");
}

#[test]
fn faults_of_states_are_named() {
    let whole = || group(0.1, &[0, 1, 2, 3]);
    let with = |number: usize, changed: Object| {
        let mut all = states([0, 1, 2, 3]);
        all[number].1 = changed;
        adam(all, [whole()])
    };
    let moments = |first: Vec<f32>, second: Vec<f32>| {
        dict([("step", int(1)), ("exp_avg", Object::Tensor(vec![2], first)), ("exp_avg_sq", Object::Tensor(vec![2], second))])
    };
    let mut incomplete = states([0, 1, 2, 3]);
    incomplete.remove(2);
    let cases = [
        (adam(incomplete, [whole()]), "lacks parameter `norm.weight`: it is incomplete"),
        (with(1, moments(vec![1.0, 2.0], vec![1.0, -2.0])), "parameter `a.bias` in"),
        (with(1, moments(vec![1.0, 2.0], vec![1.0, -2.0])), "has exp_avg_sq -2 at element 1: a mean of squares is never negative"),
        (with(2, moments(vec![f32::NAN, 2.0], vec![1.0, 2.0])), "has exp_avg NaN at element 0: every value must be finite"),
        (with(2, moments(vec![1.0, 2.0], vec![f32::INFINITY, 2.0])), "has exp_avg_sq inf at element 0"),
        (
            with(1, dict([("momentum_buffer", int(1))])),
            "has `momentum_buffer`, but no `exp_avg`: it is the state of another optimizer than Adam",
        ),
        (with(1, dict([("exp_avg", int(1)), ("exp_avg_sq", int(1))])), "its `state.1.exp_avg` is an integer instead of a tensor"),
        (with(1, int(4)), "its `state.1` is an integer instead of a dictionary"),
        (
            with(1, dict([("exp_avg", Object::Tensor(vec![2], vec![0.0; 2])), ("exp_avg_sq", Object::Tensor(vec![1], vec![0.0]))])),
            "an `exp_avg` of shape [2], but an `exp_avg_sq` of [1]",
        ),
        (with(0, state(1.0, &[3, 2])), "its state 0 has shape [3, 2], but `a.weight`, which stands there, has [2, 3]"),
        (adam(states([0, 1, 2, 3]), [group(0.1, &[0, 1, 2])]), "it has 3 parameters, and the network 4"),
        (adam(states([0, 1, 2, 3]), [group(0.1, &[0, 1, 2, 2])]), "its groups have the state 2 twice"),
        (adam(states([3, 2, 1, 0]), [group(0.1, &[0]), group(0.1, &[1]), group(0.1, &[2, 3])]), "its parameters are in 3 groups"),
        (adam(states([3, 0, 1, 2]), [group(0.1, &[0, 1]), group(0.0, &[2, 3])]), "no split of the parameters into two groups"),
        // The bias and the norm have the same shape, and either may be the one with decay.
        (adam(states([0, 1, 2, 3]), [group(0.1, &[0, 1]), group(0.0, &[2, 3])]), "may be that of `a.bias` or that of `norm.weight`"),
        (dict([("state", int(1))]), "it has no `state` and `param_groups`"),
        (int(7), "it has no `state` and `param_groups`"),
        (adam([(0, dict([("exp_avg", int(1))]))], [dict([("params", int(1))])]), "its `params` is an integer instead of a list"),
        (adam([], [dict([("lr", int(1))])]), "its `param_groups` lacks `params`"),
    ];
    for (object, problem) in cases {
        assert_fault(read_small("optimizer.pt", &object), "optimizer.pt", problem);
    }
    let stepless = |number: i64| {
        let Object::Dict(entries) = state(1.0, SHAPES[number as usize]) else { panic!("a dictionary") };
        (number, Object::Dict(entries.into_iter().skip(1).collect()))
    };
    assert_fault(read_small("optimizer.pt", &adam((0..4).map(stepless), [whole()])), "optimizer.pt", "it lacks `step`, the number of");
}

/// DeepSpeed's state with the parameters of the small network in the given order in one flat group.
fn flat_state(order: &[usize], weights: &[f32], padding: usize, moment: impl Fn(usize) -> f32) -> Object {
    let (layout, _) = small();
    let (mut master, mut first) = (Vec::new(), Vec::new());
    for &index in order {
        let range = layout.parameters()[index].range();
        first.extend(range.clone().map(&moment));
        master.extend_from_slice(&weights[range]);
    }
    for values in [&mut master, &mut first] {
        values.extend(std::iter::repeat_n(0.0, padding));
    }
    let flat = |values: Vec<f32>| Object::Tensor(vec![values.len()], values);
    let second = first.iter().map(|value| value * value).collect();
    let state = dict([("exp_avg", flat(first)), ("exp_avg_sq", flat(second))]);
    let inner = dict([("state", Object::Dict(vec![(int(0), state)])), ("param_groups", list([dict([("step", int(3))])]))]);
    dict([("optimizer", dict([("fp32_groups_flat", list([flat(master)])), ("optimizer_state_dict", inner)]))])
}

fn read_flat(object: &Object, weights: &[f32]) -> Result<Option<Moments>, OptimizerError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mp_rank_00_model_states.pt"), write(object)).unwrap();
    read_with(folder.path(), &small().0, weights)
}

#[test]
fn flat_groups_may_have_any_order_and_a_padding() {
    let (layout, weights) = small();
    let moment = |index: usize| index as f32 - 4.0;
    let expected: Vec<f32> = (0..layout.dimension()).map(moment).collect();
    for (order, padding) in [([0, 1, 2, 3], 0), ([3, 1, 0, 2], 5), ([2, 0, 3, 1], 1)] {
        let found = read_flat(&flat_state(&order, &weights, padding, moment), &weights).unwrap().unwrap();
        assert_eq!((found.first.as_slice(), found.step), (expected.as_slice(), 3));
    }
    assert_fault(read_flat(&flat_state(&[0, 1, 3], &weights, 0, moment), &weights), "mp_rank_00", "lacks parameter `norm.weight`");
    let file = "mp_rank_00_model_states.pt";
    assert_fault(read_flat(&dict([("optimizer", Object::None)]), &weights), file, "it has no `optimizer`: with ZeRO the state is in");
    assert_fault(read_flat(&dict([("optimizer", dict([("a", int(1))]))]), &weights), file, "its `optimizer` lacks `fp32_groups_flat`");
}

#[test]
fn partitions_may_be_of_any_number_of_ranks() {
    // Two ranks whose partitions are cut inside a parameter, without padding, and a list of the groups' states.
    let (layout, weights) = small();
    let folder = tempfile::tempdir().unwrap();
    let name = |rank: usize| folder.path().join(format!("zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"));
    let moments: Vec<f32> = (0..layout.dimension()).map(|index| index as f32 * 0.5).collect();
    let part = |values: &[f32], range: Range<usize>| Object::Tensor(vec![range.len()], values[range].to_vec());
    let rank = |range: Range<usize>, more: Vec<(Object, Object)>| {
        let state = dict([("exp_avg", part(&moments, range.clone())), ("exp_avg_sq", part(&moments, range.clone()))]);
        let Object::Dict(mut entries) = dict([
            ("base_optimizer_state", list([state])),
            ("base_optimizer_state_step", int(9)),
            ("single_partition_of_fp32_groups", list([part(&weights, range)])),
            ("partition_count", int(2)),
        ]) else {
            panic!("a dictionary")
        };
        entries.extend(more);
        write(&dict([("optimizer_state_dict", Object::Dict(entries))]))
    };
    fs::write(name(0), rank(0..9, Vec::new())).unwrap();
    fs::write(name(1), rank(9..16, Vec::new())).unwrap();
    let found = read_with(folder.path(), &layout, &weights).unwrap().unwrap();
    assert_eq!(found, Moments { first: moments.clone(), second: moments.clone(), step: 9 });
    fs::remove_file(name(1)).unwrap();
    fs::write(name(1), rank(9..16, vec![(pickled::text("fp32_flat_groups"), list([]))])).unwrap();
    assert_fault(read_with(folder.path(), &layout, &weights), "zero_pp_rank_1", "it is of ZeRO stage 3, which is not read");
}

#[test]
fn parameters_of_the_same_weights_are_told_apart_or_refused() {
    let (layout, mut weights) = small();
    let (bias, norm) = (layout.parameters()[1].range(), layout.parameters()[2].range());
    weights[bias.clone()].fill(1.0);
    weights[norm].fill(1.0);
    let order = [0, 1, 2, 3];
    let message = "`a.bias` and `norm.weight` begin with the same weights";
    assert_fault(read_flat(&flat_state(&order, &weights, 0, |index| index as f32), &weights), "mp_rank_00", message);
    // The same moments, too, as before the first step: nothing can be exchanged.
    let moment = |index: usize| if index < bias.start { index as f32 } else { 0.0 };
    let found = read_flat(&flat_state(&order, &weights, 0, moment), &weights).unwrap().unwrap();
    assert_eq!(found.first, (0..layout.dimension()).map(moment).collect::<Vec<_>>());
    // Two of different lengths that begin alike.
    let last = layout.parameters()[3].range();
    weights[last].fill(1.0);
    assert_fault(read_flat(&flat_state(&[0, 3, 1, 2], &weights, 0, |_| 0.0), &weights), "mp_rank_00", "`a.bias` and `b.weight` begin with");
}
