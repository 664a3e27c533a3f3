//! What training tools put into the names of a network's tensors.
//!
//! `torch.compile` makes `_orig_mod.lm_head.weight` of `lm_head.weight`, `DistributedDataParallel` makes `module.lm_head.weight`, a module of
//! Lightning that keeps the network in `self.model` makes `model.lm_head.weight`; and they stand inside each other. Parts of a network that
//! are wrapped by themselves have the word inside their names: `model.layers.0._orig_mod.mlp.up_proj.weight`.

use std::collections::BTreeMap;

/// The prefixes, and who puts them there.
const WRAPPERS: [(&str, &str); 4] = [
    ("_orig_mod.", "torch.compile"),
    ("module.", "DistributedDataParallel"),
    ("_fsdp_wrapped_module.", "FullyShardedDataParallel"),
    ("model.", "a module that holds the network"),
];

/// Words that no network has in its own names, wherever they stand in one.
const INNER: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// A way to read names: without a prefix that all of them carry, and without the words inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrapper {
    prefix: String,
    /// The word inside some names.
    inner: Option<&'static str>,
}

impl Wrapper {
    /// The ways to read these names, the least change first; the first is none at all. `model.` is also the beginning of some networks' own
    /// names: which prefixes are a wrapper's, only the network tells.
    pub(super) fn candidates<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<Self> {
        let mut prefixes = vec![String::new()];
        let carried = |longer: &String| {
            // A name that is nothing but prefixes is the name of no tensor.
            names.clone().all(|name| name.len() > longer.len() && name.starts_with(longer)) && names.clone().next().is_some()
        };
        while let Some(next) = WRAPPERS.iter().map(|(wrapper, _)| format!("{}{wrapper}", prefixes[prefixes.len() - 1])).find(carried) {
            prefixes.push(next);
        }
        let wrap = |prefix: String| {
            let inner = INNER.into_iter().find(|word| names.clone().any(|name| has_inside(&name[prefix.len()..], word)));
            Self { prefix, inner }
        };
        let wrapped = prefixes.into_iter().map(wrap);
        std::iter::once(Self { prefix: String::new(), inner: None }).chain(wrapped.filter(|wrapper| !wrapper.is_none())).collect()
    }

    pub(super) fn is_none(&self) -> bool {
        self.prefix.is_empty() && self.inner.is_none()
    }

    /// The tensors under the names of the network; None when two would have the same.
    pub(super) fn unwrapped<T: Clone>(&self, tensors: &BTreeMap<String, T>) -> Option<BTreeMap<String, T>> {
        let name = |name: &str| {
            let rest = name.strip_prefix(self.prefix.as_str()).unwrap_or(name);
            let first = rest.split('.').next();
            // Whatever stands first is no inner word: it would have to stand before every name.
            let others = rest.split('.').skip(1).filter(|part| !INNER.contains(part));
            first.into_iter().chain(others).collect::<Vec<_>>().join(".")
        };
        let renamed: BTreeMap<String, T> = tensors.iter().map(|(old, tensor)| (name(old), tensor.clone())).collect();
        (renamed.len() == tensors.len()).then_some(renamed)
    }
}

/// Whether a word stands between two dots of a name.
fn has_inside(name: &str, word: &str) -> bool {
    name.split('.').skip(1).any(|part| part == word)
}

/// What is taken off: "`_orig_mod.` of torch.compile".
impl std::fmt::Display for Wrapper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let who: Vec<&str> = WRAPPERS.iter().filter(|(wrapper, _)| self.prefix.contains(wrapper)).map(|(_, who)| *who).collect();
        match (self.prefix.as_str(), self.inner) {
            ("", inner) => write!(f, "`{}`", inner.unwrap_or_default()),
            (prefix, None) => write!(f, "the prefix `{prefix}` of {}", who.join(" and ")),
            (prefix, Some(inner)) => write!(f, "the prefix `{prefix}` of {}, and `{inner}`", who.join(" and ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(names: &[&str]) -> Vec<String> {
        Wrapper::candidates(names.iter().copied()).iter().skip(1).map(ToString::to_string).collect()
    }

    #[test]
    fn prefixes_are_what_all_names_carry() {
        assert_eq!(told(&["_orig_mod.a.w", "_orig_mod.b"]), ["the prefix `_orig_mod.` of torch.compile"]);
        let nested = told(&["module._orig_mod.model.a", "module._orig_mod.b"]);
        assert_eq!(nested.len(), 3, "{nested:?}");
        assert_eq!(nested[2], "the prefix `module._orig_mod.` of torch.compile and DistributedDataParallel");
        for names in [&["model.a", "module.b"][..], &["module.", "module.a"], &["_orig_mod.a", "b"], &[]] {
            assert!(told(names).is_empty(), "{names:?}");
        }
    }

    #[test]
    fn words_inside_are_taken_out_where_no_names_collide() {
        let tensors = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), ())).collect::<BTreeMap<_, _>>();
        let given = tensors(&["model.layers.0._orig_mod.w", "model.layers.1._orig_mod._checkpoint_wrapped_module.w", "lm_head.w"]);
        let candidates = Wrapper::candidates(given.keys().map(String::as_str));
        assert_eq!(candidates.len(), 2);
        assert_eq!(candidates[1].unwrapped(&given), Some(tensors(&["model.layers.0.w", "model.layers.1.w", "lm_head.w"])));
        let twice = tensors(&["a._orig_mod.w", "a.w"]);
        assert_eq!(Wrapper::candidates(twice.keys().map(String::as_str))[1].unwrapped(&twice), None);
    }
}
