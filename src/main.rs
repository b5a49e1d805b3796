//! The `maas` program. Everything it does is in the library, so that tests and other programs can do it too:
//! start reading at `maas::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    maas::cli::main()
}
