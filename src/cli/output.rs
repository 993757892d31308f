//! Results, errors and exit codes of commands.

use std::io::{ErrorKind, Write as _};
use std::path::Path;

use crate::error::Signal;
use crate::evaluate::folder::is_file_of_evaluation;
use crate::record::OutputFile;
use crate::{Error, Result};

/// Result of a command that ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command has done its work: exit code 0.
    Done,
    /// A required check failed: exit code 1.
    CheckFailed,
    /// A signal stopped the command, and a message has said what remains: the signal's exit code.
    Stopped(Signal),
}

/// Says on the standard error that a signal stopped the command, and `remains`, what is left of its work.
pub fn stopped(signal: Signal, remains: &str) -> Outcome {
    print_message(&format!("stopped by {signal}; {remains}"));
    Outcome::Stopped(signal)
}

/// Command line of this process, as it is typed into a shell.
pub fn this_command() -> String {
    let arguments: Vec<_> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    shell_command(&arguments)
}

/// Command line of the program with `arguments`, as it is typed into a shell.
pub fn shell_command(arguments: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c);
    let quoted = |word: &String| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    let words: Vec<String> = arguments.iter().map(quoted).collect();
    format!("maxmargin {}", words.join(" "))
}

/// Writes `text` to the standard output. A reader that went away (`| head -1`) is not an error.
///
/// # Errors
/// The output cannot be written for another reason, such as a full disk.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(source) if source.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io(Path::new("standard output"), "write", source))
        }
        _ => Ok(()),
    }
}

/// Writes a line to the standard error. Nothing is done if that fails: there is no other place for a message.
pub fn print_message(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes `error` and its causes to the standard error.
pub fn print_error(error: &Error) {
    let mut text = format!("error: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Some messages already end with their cause's.
        if !text.contains(&inner_text) {
            text.push_str(&format!("\n  caused by: {inner_text}"));
        }
        cause = inner.source();
    }
    print_message(&text);
}

/// Checks the file `path` of `flag`, before anything is computed for it. `inputs` are files that the command reads.
///
/// # Errors
/// Those of [`OutputFile::check`]; or it is a file of an evaluation's folder.
pub fn output_file(flag: &'static str, path: &Path, inputs: &[&Path]) -> Result<OutputFile> {
    let file = OutputFile::check(flag, path, inputs)?;
    match is_file_of_evaluation(path) {
        true => Err(Error::usage(format!(
            "{flag} {}: expected a file of its own; found a file of an evaluation, which would be lost",
            path.display()
        ))),
        false => Ok(file),
    }
}

/// Writes `text` to the standard output; to the standard error if one of `files` takes the standard output for itself.
///
/// # Errors
/// Those of [`print`].
pub fn print_beside<'a>(files: impl IntoIterator<Item = &'a OutputFile>, text: &str) -> Result<()> {
    match files.into_iter().any(OutputFile::is_standard_output) {
        true => {
            print_message(text.strip_suffix('\n').unwrap_or(text));
            Ok(())
        }
        false => print(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_quoted_where_a_shell_would_read_it_otherwise() {
        let words = ["train", "--resume", "runs/my run", "--data", "it's", ""].map(str::to_owned);
        assert_eq!(shell_command(&words), r"maxmargin train --resume 'runs/my run' --data 'it'\''s' ''");
    }
}
