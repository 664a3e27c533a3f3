//! Parts of a network by name: a layer, its attention, a head, the embedding, or some rows and columns of a tensor. A name becomes the set of
//! the coordinates that it means ([`Chosen`]), and a ray then moves those alone ([`crate::parameters::Moving::of`]).
//!
//! What a network has is declared once, by `tree` of its kind, from the places where its forward pass finds its tensors.

use serde::{Deserialize, Serialize};

use crate::arch::{Architecture, Network};
use crate::parameters::{Chosen, ParameterLayout};

mod convnextv2;
mod decoder;
mod names;
mod perceptron;
mod slices;
mod tree;

pub use names::split;
use names::{Step, steps};
use tree::Part;

/// Why a component cannot be chosen. Every message is one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ComponentError {
    /// The model has nothing of this name.
    #[error("the model has no `{name}`: its components are {known}, and its tensors by their names, with slices as in `{example}[0:8, :]`")]
    Unknown {
        /// What was given.
        name: String,
        /// What there is.
        known: String,
        /// A tensor of the model.
        example: String,
    },
    /// The weights belong to another component.
    #[error("`{name}` is tied to `{to}` in this model, the same weights are both: choose `{to}`")]
    Tied {
        /// What was given.
        name: String,
        /// Whose weights they are.
        to: &'static str,
    },
    /// A slice that the tensor does not have.
    #[error("`{name}`: {problem}")]
    Slice {
        /// What was given.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No name at all.
    #[error("no component is named")]
    Nothing,
    /// The network has none of a kind.
    #[error("the model has no {kind}: its components are {known}")]
    NoneOfKind {
        /// What was asked for.
        kind: &'static str,
        /// What there is.
        known: String,
    },
}

/// Kinds of components that can be compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The heads of every layer.
    Heads,
    /// The layers; of a network of images its blocks.
    Layers,
    /// The multilayer perceptron of every layer.
    Mlps,
}

/// The components of a network.
#[derive(Debug)]
pub struct Components {
    layout: ParameterLayout,
    parts: Vec<Part>,
}

impl Components {
    /// Those that a network declares.
    #[must_use]
    pub fn of(architecture: &dyn Architecture) -> Self {
        let layout = architecture.layout();
        let parts = match architecture.network() {
            Network::Perceptron(network) => perceptron::tree(network, &layout),
            Network::Images(network) => convnextv2::tree(network, &layout),
            Network::Tokens(model) => decoder::tree(model.decoder(), &layout),
        };
        Self { layout, parts }
    }

    /// What there is, in words.
    #[must_use]
    pub fn words(&self) -> String {
        tree::words(&self.parts)
    }

    /// The coordinates that some names mean together. Names may be joined by commas.
    ///
    /// # Errors
    /// When a name is not known, or means nothing of its own.
    pub fn chosen<N: AsRef<str>>(&self, names: &[N]) -> Result<Chosen, ComponentError> {
        let mut chosen = Chosen::default();
        let mut is_empty = true;
        for name in names.iter().flat_map(|name| split(name.as_ref())) {
            chosen.extend(&self.named(&name)?);
            is_empty = false;
        }
        if is_empty { Err(ComponentError::Nothing) } else { Ok(chosen) }
    }

    /// The names of all components of a kind, by layer.
    ///
    /// # Errors
    /// When the network has none.
    pub fn names_of(&self, kind: Kind) -> Result<Vec<String>, ComponentError> {
        let layers = self.parts.iter().filter(|part| part.number.is_some());
        let mut names = Vec::new();
        for layer in layers {
            let own = layer.title();
            let of_word = |word: &str| layer.children.iter().filter(|part| part.word == word).map(|part| part.title()).collect::<Vec<_>>();
            match kind {
                Kind::Heads => names.extend(of_word("h").into_iter().map(|head| format!("{own}{head}"))),
                Kind::Mlps => names.extend(of_word("mlp").into_iter().map(|mlp| format!("{own} {mlp}"))),
                Kind::Layers => match of_word("block") {
                    blocks if blocks.is_empty() => names.push(own),
                    blocks => names.extend(blocks.into_iter().map(|block| format!("{own} {block}"))),
                },
            }
        }
        let kind = match kind {
            Kind::Heads => "heads",
            Kind::Layers => "layers",
            Kind::Mlps => "multilayer perceptrons in its layers",
        };
        if names.is_empty() { Err(ComponentError::NoneOfKind { kind, known: self.words() }) } else { Ok(names) }
    }

    fn named(&self, name: &str) -> Result<Chosen, ComponentError> {
        if let Some(chosen) = slices::of_tensor(&self.layout, name)? {
            return Ok(chosen);
        }
        if name == "full" {
            return Ok(Chosen::of_names(&self.layout, |_| true));
        }
        let unknown = || ComponentError::Unknown {
            name: name.to_owned(),
            known: self.words(),
            example: self.layout.parameters().first().map_or_else(String::new, |parameter| parameter.name.clone()),
        };
        let path = steps(name).ok_or_else(unknown)?;
        match tree::find(&self.parts, &path) {
            tree::Found::Here(chosen) => Ok(chosen),
            tree::Found::Tied(to) => Err(ComponentError::Tied { name: name.to_owned(), to }),
            tree::Found::Nothing => Err(unknown()),
        }
    }
}

/// A component's name in the one form that records have: `L3.Attn` and `l3attn` are `l3 attn`. What is no such name stays as it is.
#[must_use]
pub fn plain_name(name: &str) -> String {
    let name = name.trim();
    if name.contains('[') {
        return name.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    match steps(name) {
        Some(path) if path.iter().all(Step::is_usual) => path.iter().fold(String::new(), |text, step| step.after(text)),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
