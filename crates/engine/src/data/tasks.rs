//! Data sets that are asked for by the name of a task: which one of the hub, which part, and where its text is.

use crate::request::DataRequest;

/// A task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// The name that is asked for.
    pub name: &'static str,
    /// The data set of the hub.
    pub id: &'static str,
    /// Its configuration, where it has several.
    pub config: Option<&'static str>,
    /// The split.
    pub split: &'static str,
    /// Field of the text.
    pub text_key: &'static str,
    /// What it holds.
    pub about: &'static str,
}

/// The tasks, by name; those of tyche's table (`TASKS.md`) whose text is in one field, with ids as the hub has them now.
pub const TASKS: [Task; 14] = [
    task("anthropic_hh", "Anthropic/hh-rlhf", None, "train", "chosen", "dialogues with a helpful and harmless assistant"),
    task("bbq", "elfsong/bbq", None, "age", "question", "questions about ambiguous situations that show social bias"),
    task("chatgpt_prompts", "fka/awesome-chatgpt-prompts", None, "train", "prompt", "roles for an assistant to play"),
    task("code_search_net", "Nan-Do/code-search-net-python", None, "train", "docstring", "descriptions of Python functions"),
    task("ethics", "hendrycks/ethics", Some("commonsense"), "train", "input", "short scenes to be judged morally"),
    task("finemath", "HuggingFaceTB/finemath", Some("finemath-3plus"), "train", "text", "pages that explain mathematics"),
    task("gsm8k", "openai/gsm8k", Some("main"), "train", "question", "word problems of grade-school mathematics"),
    task("lambada", "EleutherAI/lambada_openai", Some("default"), "test", "text", "passages whose last word needs their beginning"),
    task("mmlu", "cais/mmlu", Some("all"), "test", "question", "questions of 57 subjects"),
    task("natural_reasoning", "facebook/natural_reasoning", None, "train", "question", "questions that need reasoning"),
    task(
        "quirky_alice",
        "EleutherAI/quirky_hemisphere_alice",
        None,
        "test",
        "statement",
        "statements about hemispheres, of a truthful character",
    ),
    task("truthful_qa", "truthfulqa/truthful_qa", Some("generation"), "validation", "question", "questions that invite common errors"),
    task("ui_reasoning", "smirki/UI_Reasoning_Dataset", None, "train", "text", "questions about interfaces"),
    task("xsum", "EdinburghNLP/xsum", None, "train", "document", "news articles"),
];

const fn task(
    name: &'static str,
    id: &'static str,
    config: Option<&'static str>,
    split: &'static str,
    text_key: &'static str,
    about: &'static str,
) -> Task {
    Task { name, id, config, split, text_key, about }
}

impl Task {
    /// The task of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        TASKS.iter().find(|task| task.name == name)
    }

    /// What is asked of its data set where nothing else is said.
    pub(super) fn request(&self, args: &DataRequest) -> DataRequest {
        let or = |given: &[String], own: Option<&str>| {
            if given.is_empty() { own.map(str::to_owned).into_iter().collect() } else { given.to_vec() }
        };
        DataRequest {
            data_config: or(&args.data_config, self.config),
            split: or(&args.split, Some(self.split)),
            text_key: args.text_key.clone().or_else(|| Some(self.text_key.to_owned())),
            ..args.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_found_and_can_be_asked_otherwise() {
        assert!(TASKS.windows(2).all(|pair| pair[0].name < pair[1].name) && TASKS.iter().all(|task| crate::hub::id(task.id).is_some()));
        assert_eq!(Task::named("none"), None);
        let asked = Task::named("gsm8k").unwrap().request(&DataRequest { split: vec!["test".to_owned()], ..DataRequest::default() });
        assert_eq!((asked.data_config, asked.split), (vec!["main".to_owned()], vec!["test".to_owned()]));
        assert_eq!(asked.text_key.as_deref(), Some("question"));
    }
}
