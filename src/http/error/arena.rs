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
        ArenaAllocateError::EstimateTooLarge { estimate_bytes, limit_bytes } => {
            let detail = format!(
                "estimated_size_bytes is {estimate_bytes}, more than the {limit_bytes} that the pool has in all"
            );
            Problem::new(Code::SizeTooLarge, detail)
        }
    }
}
