//! `train lm`: a small language model with its tokenizer.

use basin_volume_engine::digits::ended;
use basin_volume_engine::error::Error;
use basin_volume_engine::request::Machine;
use basin_volume_models::checkpoint::TrainingRecord;
use basin_volume_models::train::{Duration, LanguageModelSpec, TextSource, train_language_model};

use crate::args::TrainLmArgs;
use crate::commands::{Context, print};

pub fn run(args: &TrainLmArgs, context: &Context) -> Result<(), Error> {
    let source = TextSource { path: args.text.clone(), text_key: args.text_key.clone() };
    let session = context.session(Machine::default(), context.screen());
    let checkpoint = ended(train_language_model(&spec(args), &source, &args.out, &mut session.training()), &session)?;
    let training = checkpoint.training.as_ref().and_then(TrainingRecord::language_model);
    let training = training.ok_or_else(|| Error::failed(format!("the checkpoint {} lost its training record", args.out.display())))?;
    print(&format!(
        "Trained {} weights into {}\n\
         {} tokens of {} documents, {} training sequences of {} tokens, {} held out\n\
         train loss {:.4} nats per token, held-out loss {:.4} nats per token after {} steps\n\
         (entropy of the tokens {:.4} nats, given the token before {:.4} nats)",
        checkpoint.parameters.dimension(),
        args.out.display(),
        training.tokens,
        training.documents,
        training.train_sequences,
        training.max_seq_len,
        training.held_out_sequences,
        training.train_loss,
        training.held_out_loss,
        training.step,
        training.unigram_entropy,
        training.bigram_entropy,
    ))
}

fn spec(args: &TrainLmArgs) -> LanguageModelSpec {
    LanguageModelSpec {
        hidden_size: args.hidden_size,
        layers: args.layers,
        heads: args.heads,
        vocab_size: args.vocab_size,
        max_seq_len: args.max_seq_len,
        batch_size: args.batch_size,
        duration: args.epochs.map_or(Duration::Steps(args.steps), Duration::Epochs),
        learning_rate: args.learning_rate,
        warmup_steps: args.warmup_steps,
        weight_decay: args.weight_decay,
        gradient_clip: args.gradient_clip,
        held_out: args.held_out,
        seed: args.seed,
        save_steps: !args.no_checkpoints,
        ..LanguageModelSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command, Recipe};

    #[test]
    fn the_flags_have_the_defaults_of_the_library() {
        let cli = Cli::try_parse_from(["basin-volume", "train", "lm", "--text", "a.txt", "--out", "b"]).unwrap();
        let Command::Train { recipe: Recipe::Lm(args) } = cli.command else { panic!("not `train lm`") };
        assert_eq!(spec(&args), LanguageModelSpec::default());
    }
}
