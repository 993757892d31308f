//! The `maxmargin` program: calls [`maxmargin::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    maxmargin::cli::main(std::env::args_os())
}
