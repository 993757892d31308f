//! Spellings of flags and values that every command accepts.

use clap::Command;

/// Accepts every flag with underscores, as the released program writes it, and names of values in any case. Negative
/// numbers are read as values, so that the message about them names the range.
pub fn released_spellings(command: Command) -> Command {
    command.mut_args(|arg| {
        let longs = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
        let underscored: Vec<_> = longs.filter(|long| long.contains('-')).map(|long| long.replace('-', "_")).collect();
        let takes_value = arg.get_action().takes_values();
        arg.aliases(underscored).ignore_case(takes_value).allow_negative_numbers(takes_value)
    })
}
