//! The allocator alone, as a program takes it that embeds it: it builds without the service, and brings few others along.

use std::collections::BTreeSet;
use std::process::{Command, Output};

/// Packages at most, ours included, that the library brings into a program. All of them are small; what makes macros is
/// built once and not part of the program.
const PACKAGES_MAX: usize = 24;

/// What belongs to the service.
const NEVER: [&str; 12] = [
    "axum",
    "clap",
    "config",
    "hyper",
    "prometheus",
    "reqwest",
    "rustls",
    "serde",
    "serde_json",
    "tokio",
    "tower",
    "uuid",
];

/// Runs cargo on this package without the service.
fn cargo(arguments: &[&str]) -> Output {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(arguments)
        .args(["--no-default-features", "--locked"]);
    let output = command.output().expect("cargo runs: it runs this test");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {errors}");
    output
}

#[test]
fn it_brings_few_packages_and_none_of_the_service() {
    let tree = cargo(&["tree", "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    let tree = String::from_utf8(tree.stdout).expect("names are text");
    let packages: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(packages.contains("maas") && packages.contains("bytes"), "{packages:?}");
    assert!(packages.len() <= PACKAGES_MAX, "{} packages: {packages:?}", packages.len());
    let of_the_service: Vec<_> = NEVER.iter().filter(|name| packages.contains(*name)).collect();
    assert!(of_the_service.is_empty(), "{of_the_service:?}");
}

#[test]
fn it_builds_without_the_service() {
    // A directory of its own: the features differ from those that this test was built with.
    let directory = concat!(env!("CARGO_TARGET_TMPDIR"), "/library");
    cargo(&["build", "--lib", "--target-dir", directory]);
}
