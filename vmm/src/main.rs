//! The `scribe-vmm` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    scribe_vmm::cli::main()
}
