//! What tags may have: the section `budgets`, whose keys are the tags themselves.

use super::{Access, Key, bytes};
use crate::config::checks::SIZE_BYTES_MAX;

/// In the order of `config.toml`.
pub(super) const KEYS: &[Key] = &[Key {
    name: "budgets.TAG",
    short: None,
    meaning: "Bytes that all allocations with this tag may have together, at actual size, at least 1. Without it: no \
              bound but the pool's.",
    access: Access::Tag { set: |raw| raw.size(1..=SIZE_BYTES_MAX), show: bytes },
}];
