//! Settings in the words of the command line.
//!
//! The libraries name settings in backticks, as `damping=auto`; here they are flags, `--damping auto`, or what `--set` takes.

use basin_volume::spec::{AnnealedSpec, LlcSpec, RadialSpec, SpectralSpec, settings};
use clap::{Command, CommandFactory};

use crate::args::Cli;

/// Says settings as flags of one command.
#[derive(Clone)]
pub struct Words {
    /// Long flags of the command.
    own: Vec<String>,
    /// Those of `estimate` and of `precondition`, which sentences of other commands point to.
    of_estimate: Vec<String>,
    of_precondition: Vec<String>,
}

fn longs(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned);
    own.chain(command.get_subcommands().flat_map(longs)).collect()
}

impl Words {
    /// The words of a command.
    pub fn of(command: &str) -> Self {
        let cli = Cli::command();
        let of = |command: &str| cli.find_subcommand(command).map_or_else(Vec::new, longs);
        Self { own: of(command), of_estimate: of("estimate"), of_precondition: of("precondition") }
    }

    /// The text with its settings as flags. What stands in backticks and is no setting stays.
    pub fn say(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('`') {
            let Some((quoted, behind)) = after.split_once('`') else { break };
            out.push_str(before);
            match self.flag(quoted) {
                Some(flag) => out.push_str(&flag),
                None => {
                    out.push('`');
                    out.push_str(quoted);
                    out.push('`');
                }
            }
            rest = behind;
        }
        out + rest
    }

    fn flag(&self, quoted: &str) -> Option<String> {
        let (name, value) = quoted.split_once('=').map_or((quoted, None), |(name, value)| (name, Some(value)));
        let long = name.replace('_', "-");
        let is_setting = || {
            let known = [
                settings::names::<RadialSpec>(),
                settings::names::<SpectralSpec>(),
                settings::names::<AnnealedSpec>(),
                settings::names::<LlcSpec>(),
            ];
            known.concat().contains(&name)
        };
        let value = value.map_or_else(String::new, |value| format!(" {value}"));
        if self.own.contains(&long) || self.of_estimate.contains(&long) {
            Some(format!("--{long}{value}"))
        } else if is_setting() {
            Some(format!("--set {quoted}"))
        } else if self.of_precondition.contains(&long) {
            Some(format!("--{long}{value}"))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_flags_of_the_command() {
        let words = Words::of("estimate");
        for (text, expected) in [
            ("`l2_reg` is -1: expected more", "--l2-reg is -1: expected more"),
            ("`damping=auto` needs `prior=gaussian`", "--damping auto needs --prior gaussian"),
            ("raise `trajectories`, or `set=ladder=temperature`", "raise --set trajectories, or --set ladder=temperature"),
            ("`steps` is 0", "--set steps is 0"),
            ("take fewer with `chains=1`", "take fewer with --set chains=1"),
            ("precondition `rank`", "precondition --rank"),
            ("the key `text` of `a b`, and `", "the key `text` of `a b`, and `"),
            ("`continue` adds one", "--continue adds one"),
        ] {
            assert_eq!(words.say(text), expected);
        }
        assert_eq!(Words::of("precondition").say("`steps` is 0"), "--steps is 0");
        // What one command says about another's run is said in that one's flags.
        assert_eq!(Words::of("report").say("`set_kind=star` measures that"), "--set-kind star measures that");
    }
}
