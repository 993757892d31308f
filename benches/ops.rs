//! Times every op of a training step. Runs `maxmargin bench` with its flags.
//! `cargo bench --bench ops -- [--device cpu|cuda] [--only TEXT] [--json FILE] [--ceilings FILE] [--budget SECONDS]`.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Cargo adds its own flag.
    let given = std::env::args_os().skip(1).filter(|argument| argument != "--bench");
    maxmargin::cli::main(["maxmargin", "bench"].map(OsString::from).into_iter().chain(given))
}
