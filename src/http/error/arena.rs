//! What goes wrong with arenas, as clients are told.

use super::{Asked, Code, Problem, Refusal, refused};
use crate::pool::{ArenaAllocateError, ArenaError};

impl From<ArenaError> for Problem {
    fn from(error: ArenaError) -> Problem {
        match error {
            ArenaError::NotFound(id) => {
                let detail = format!(
                    "there is no arena with the id {id}: it was never given out, or has ended and is forgotten"
                );
                Problem::new(Code::NotFound, detail)
            }
            ArenaError::Ended { id, state } => {
                let detail = format!("the arena {id} has ended: its state is {}", state.name());
                Problem::new(Code::ArenaEnded, detail)
            }
            ArenaError::KeepInChild(id) => {
                let detail = format!(
                    "keep is given, but the arena {id} has a parent; only an arena without one can keep allocations"
                );
                Problem::new(Code::InvalidField, detail)
            }
            ArenaError::NotAMember { id, allocation } => {
                let detail =
                    format!("keep names {allocation}, which is no live allocation of the arena {id}");
                Problem::new(Code::InvalidField, detail)
            }
        }
    }
}

/// A refusal to make an arena, or to allocate in one, as the client that asked is told; `refusal` as in [`refused`].
pub(crate) fn arena_refused(
    error: &ArenaAllocateError,
    asked: Asked,
    refusal: &dyn Fn(Option<(u64, u64)>, &'static str) -> Refusal,
) -> Problem {
    match error {
        ArenaAllocateError::Arena(error) => (*error).into(),
        ArenaAllocateError::Allocate(error) => refused(error, asked, refusal),
        ArenaAllocateError::Exhausted { id, requested_bytes, used_bytes, limit_bytes } => {
            let left = limit_bytes.saturating_sub(*used_bytes);
            let detail = format!(
                "{asked}, which take {requested_bytes}, but {used_bytes} of the {limit_bytes} of the arena {id} are used and {left} are left"
            );
            Problem::new(Code::ArenaExhausted, detail)
                .with_refusal(refusal(Some((*used_bytes, *limit_bytes)), "arena"))
        }
        ArenaAllocateError::TooDeep { depth_max } => {
            let detail = format!(
                "parent is {depth_max} arenas deep, and that is as deep as they can stand within each other"
            );
            Problem::new(Code::InvalidField, detail)
        }
        ArenaAllocateError::TooManyArenas { arenas_max } => {
            let detail = format!("{arenas_max} arenas are open, as many as can be; end one");
            Problem::new(Code::TableFull, detail).with_refusal(refusal(None, "arenas"))
        }
        ArenaAllocateError::PoolTooSmall { page_bytes, limit_bytes } => {
            let detail =
                format!("an arena takes at least {page_bytes}, and the pool has {limit_bytes} in all");
            Problem::new(Code::SizeTooLarge, detail)
        }
        ArenaAllocateError::EstimateTooLarge { estimate_bytes, limit_bytes } => {
            let detail = format!(
                "estimated_size_bytes is {estimate_bytes}, more than the {limit_bytes} that the pool has in all"
            );
            Problem::new(Code::SizeTooLarge, detail)
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::pool::{AllocateError, ArenaState, Unavailable};

    #[test]
    fn each_error_has_its_code_and_each_refusal_says_who_refused() {
        let id = "20000000-0000-8000-8000-000000000000".parse().expect("an id");
        let allocation = "00000000-0000-8000-8000-000000000000".parse().expect("an id");
        let exhausted =
            ArenaAllocateError::Exhausted { id, requested_bytes: 112, used_bytes: 900, limit_bytes: 1000 };
        let full = crate::memory::AllocateError::Exhausted {
            requested_bytes: 4096,
            in_use_bytes: 9000,
            limit_bytes: 10_240,
        };
        for (error, code, detail, by) in [
            (ArenaError::NotFound(id).into(), Code::NotFound, "no arena with the id 2000", None),
            (
                ArenaError::Ended { id, state: ArenaState::RolledBack }.into(),
                Code::ArenaEnded,
                "its state is rolled_back",
                None,
            ),
            (ArenaError::KeepInChild(id).into(), Code::InvalidField, "has a parent", None),
            (
                ArenaError::NotAMember { id, allocation }.into(),
                Code::InvalidField,
                "keep names 00000000-0000-8000-8000-000000000000",
                None,
            ),
            (exhausted, Code::ArenaExhausted, "900 of the 1000 of the arena 2000", Some("arena")),
            (ArenaAllocateError::TooDeep { depth_max: 16 }, Code::InvalidField, "16 arenas deep", None),
            (
                ArenaAllocateError::TooManyArenas { arenas_max: 16_384 },
                Code::TableFull,
                "16384 arenas are open",
                Some("arenas"),
            ),
            (
                ArenaAllocateError::EstimateTooLarge { estimate_bytes: 2000, limit_bytes: 1000 },
                Code::SizeTooLarge,
                "estimated_size_bytes is 2000, more than the 1000",
                None,
            ),
            (
                ArenaAllocateError::PoolTooSmall { page_bytes: 4096, limit_bytes: 1000 },
                Code::SizeTooLarge,
                "an arena takes at least 4096, and the pool has 1000",
                None,
            ),
            (
                ArenaAllocateError::Allocate(full.into()),
                Code::PoolExhausted,
                "an arena was asked for, which takes 4096 at first, but 9000 of 10240",
                Some("pool"),
            ),
            (
                ArenaAllocateError::Allocate(AllocateError::Unavailable(Unavailable)),
                Code::Stopping,
                "stopping",
                Some("stopping"),
            ),
        ] {
            let who = std::cell::Cell::new(None);
            let refusal = |numbers: Option<(u64, u64)>, by| {
                who.set(Some(by));
                Refusal::new(None, numbers.unwrap_or_default(), Some, by)
            };
            let problem = arena_refused(&error, Asked::Arena, &refusal);
            assert_eq!((problem.code, who.get()), (code, by), "{error}");
            assert!(problem.detail.contains(detail), "{}", problem.detail);
        }
    }
}
