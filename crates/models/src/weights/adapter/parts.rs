//! The tensors of an adapter by what they do: factors of a product that is added, or a whole tensor that takes the place of the base's.

use std::collections::BTreeMap;
use std::path::Path;

use super::AdapterError;
use crate::weights::bind::BindOptions;
use crate::weights::file::read_file;
use crate::weights::printable;
use crate::weights::stored::{MappedFile, StoredTensor};
use crate::weights::wrapper::Wrapper;

/// The path of the base in a `PeftModel`.
const PREFIX: &str = "base_model.model.";

/// What is added to the weight of one module.
#[derive(Debug, Clone, Default)]
pub(super) struct Product {
    /// `[rank, inputs]`; of an embedding `[rank, tokens]`.
    pub(super) a: Option<StoredTensor>,
    /// `[outputs, rank]`.
    pub(super) b: Option<StoredTensor>,
    /// Whether the module looks rows up instead of multiplying: then the product is transposed.
    pub(super) is_embedding: bool,
}

/// What an adapter changes.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// By the module's name.
    pub(super) products: BTreeMap<String, Product>,
    /// By the tensor's name in the network.
    pub(super) whole: BTreeMap<String, StoredTensor>,
}

impl Parts {
    pub(super) fn read(path: &Path) -> Result<Self, AdapterError> {
        let file = MappedFile::open(path)?;
        let tensors = read_file(&file)?;
        let wrapped = Wrapper::candidates(tensors.keys().map(String::as_str));
        // `model.` is no wrapper here: `base_model.model.` stands first where nothing else does.
        let unwrapped = wrapped.iter().filter_map(|wrapper| wrapper.unwrapped(&tensors));
        let tensors = unwrapped.into_iter().find(|tensors| tensors.keys().all(|name| name.starts_with(PREFIX))).unwrap_or(tensors);
        if tensors.is_empty() {
            // torch.compile and sharded trainings have left such files.
            let problem = "it has no tensors: it was saved from a model whose state was empty".to_owned();
            return Err(AdapterError::Mismatch { path: path.to_owned(), problem });
        }
        let mut parts = Self::default();
        for (name, tensor) in tensors {
            // A model that was wrapped twice has it twice.
            parts.add(name.trim_start_matches(PREFIX), tensor).map_err(|problem| AdapterError::Unsupported {
                path: path.to_owned(),
                problem: format!("its tensor `{}` {problem}", printable(&name)),
            })?;
        }
        Ok(parts)
    }

    fn add(&mut self, name: &str, tensor: StoredTensor) -> Result<(), &'static str> {
        if tensor.len() == 0 {
            return Err("is empty: shards were not gathered before it was saved (DeepSpeed's ZeRO 3, FSDP)");
        }
        let words: Vec<&str> = name.split('.').collect();
        let place = |word: &str| words.iter().position(|other| *other == word);
        let before = |place: usize| words[..place].join(".");
        for (word, is_a, is_embedding) in
            [("lora_A", true, false), ("lora_B", false, false), ("lora_embedding_A", true, true), ("lora_embedding_B", false, true)]
        {
            let Some(at) = place(word) else { continue };
            // The name of the adapter may follow: `lora_A.default.weight`.
            if !is_embedding && words.last() != Some(&"weight") {
                return Err("is a bias of a product");
            }
            let product = self.products.entry(before(at)).or_default();
            product.is_embedding |= is_embedding;
            let side = if is_a { &mut product.a } else { &mut product.b };
            return if side.replace(tensor).is_some() { Err("occurs for two adapters") } else { Ok(()) };
        }
        if words.iter().any(|word| word.starts_with("lora_magnitude_vector")) {
            return Err("is that of DoRA, which scales the merged rows");
        }
        if words.iter().any(|word| word.starts_with("lora_") || word.starts_with("trainable_tokens") || *word == "token_adapter") {
            return Err("is none of a plain LoRA");
        }
        // A module that was trained as a whole, or saved as it is: `lm_head.modules_to_save.default.weight`, `embed_tokens.base_layer.weight`.
        let last = words.last().copied().unwrap_or_default();
        if place("original_module").is_some() {
            // The base's own, kept beside.
            return Ok(());
        }
        let module = before(place("modules_to_save").or_else(|| place("base_layer")).unwrap_or(words.len() - 1));
        let whole = if module.is_empty() { last.to_owned() } else { format!("{module}.{last}") };
        if self.whole.insert(whole, tensor).is_some() { Err("occurs twice") } else { Ok(()) }
    }

    /// Whether something is changed of a tensor whose name is one of these.
    fn changes(&self, is_wanted: &dyn Fn(&str) -> bool) -> bool {
        self.products.keys().any(|module| is_wanted(&format!("{module}.weight"))) || self.whole.keys().any(|name| is_wanted(name))
    }

    /// Whether all products are zero, as they are before a training: then nothing is added.
    pub(super) fn adds_nothing(&self) -> bool {
        let is_zero = |tensor: &StoredTensor| {
            let mut values = vec![0.0; if tensor.element.block().is_some() { tensor.len() } else { 0 }];
            tensor.read(0..values.len(), &mut values);
            values.iter().all(|&value| value == 0.0)
        };
        let product_is_zero = |product: &Product| [&product.a, &product.b].iter().any(|side| side.as_ref().is_some_and(is_zero));
        self.whole.is_empty() && self.products.values().all(product_is_zero)
    }

    /// Whether head and embedding, tied in the base, are no longer the same.
    pub(super) fn unties(&mut self, options: &BindOptions, keeps_ties: bool, path: &Path) -> Result<bool, AdapterError> {
        let (is_head, is_embedding) = (|name: &str| options.is_head(name), |name: &str| options.is_embedding(name));
        let (head, embedding) = (self.changes(&is_head), self.changes(&is_embedding));
        if !head && !embedding {
            return Ok(false);
        }
        let has_products = |is_wanted: &dyn Fn(&str) -> bool| self.products.keys().any(|module| is_wanted(&format!("{module}.weight")));
        if has_products(&is_head) && keeps_ties {
            let problem = "it ties the products of head and embedding (`ensure_weight_tying`)".to_owned();
            return Err(AdapterError::Unsupported { path: path.to_owned(), problem });
        }
        let whole = |is_wanted: &dyn Fn(&str) -> bool| self.whole.iter().find(|(name, _)| is_wanted(name)).map(|(_, tensor)| tensor);
        let no_products = !has_products(&is_head) && !has_products(&is_embedding);
        let same = match (whole(&is_head), whole(&is_embedding)) {
            (Some(head), Some(embedding)) => no_products && is_same(head, embedding),
            (None, Some(_)) => keeps_ties,
            (None, None) => keeps_ties,
            (Some(_), None) => false,
        };
        if same {
            // One of the two is enough: the network has only one.
            self.whole.retain(|name, _| !is_head(name));
        }
        Ok(!same)
    }
}

/// Whether two tensors have the same values.
fn is_same(one: &StoredTensor, other: &StoredTensor) -> bool {
    const BLOCK: usize = 1 << 16;
    if one.shape != other.shape || one.element.block().is_none() || other.element.block().is_none() {
        return false;
    }
    let (mut a, mut b) = (vec![0.0f32; BLOCK], vec![0.0f32; BLOCK]);
    (0..one.len()).step_by(BLOCK).all(|start| {
        let range = start..(start + BLOCK).min(one.len());
        let count = range.len();
        one.read(range.clone(), &mut a[..count]);
        other.read(range, &mut b[..count]);
        a[..count] == b[..count]
    })
}
