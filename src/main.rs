//! The `maxmargin` program; all of it is in [`maxmargin::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    maxmargin::cli::main(std::env::args_os())
}
