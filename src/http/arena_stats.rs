//! What `/stats` says of arenas.

use crate::pool::{ArenaStats, Profile, Tag};
use serde::Serialize;
use utoipa::ToSchema;

/// Arenas: those that are open, and what became of the others.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ArenasBlock {
    /// Open arenas.
    active: u64,
    /// Arenas ever made.
    created: u64,
    /// Arenas that were committed.
    commits: u64,
    /// Arenas that were rolled back, with their parent or by themselves.
    rollbacks: u64,
    /// Arenas that their lease ended.
    expirations: u64,
    /// Times that an arena was emptied and stayed open.
    resets: u64,
    /// Live allocations in arenas, kept ones included.
    allocations: u64,
    /// Bytes that allocations took in open arenas.
    used_bytes: u64,
    /// Bytes of memory that arenas hold in chunks, for kept allocations too; part of what is in use.
    chunk_bytes: u64,
    /// Each profile, smallest first.
    profiles: Vec<ProfileBlock>,
    /// Tags, and no tag, whose arenas have a history: what an arena gets that says nothing of its size.
    learned: Vec<LearnedBlock>,
    /// Bytes that blocks of their own would have taken beyond what small allocations in arenas took, since the start.
    fragmentation_avoided_bytes: u64,
}

/// One profile.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProfileBlock {
    /// `tiny`, `small`, `medium`, `large` or `huge`.
    profile: &'static str,
    /// Arenas ever made with it.
    created: u64,
}

/// What was learned of one tag.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LearnedBlock {
    /// Null for arenas without a tag.
    #[schema(required)]
    tag: Option<String>,
    /// The smallest profile that nine in ten of them fitted into.
    profile: &'static str,
}

impl ArenasBlock {
    pub(super) fn new(stats: &ArenaStats) -> ArenasBlock {
        let profile = |(profile, created): (&Profile, &u64)| ProfileBlock {
            profile: profile.name(),
            created: *created,
        };
        let learned = |(tag, profile): &(Option<Tag>, Profile)| LearnedBlock {
            tag: tag.as_ref().map(Tag::to_string),
            profile: profile.name(),
        };
        ArenasBlock {
            active: stats.active,
            created: stats.created,
            commits: stats.commits,
            rollbacks: stats.rollbacks,
            expirations: stats.expirations,
            resets: stats.resets,
            allocations: stats.allocations,
            used_bytes: stats.used_bytes,
            chunk_bytes: stats.chunk_bytes,
            profiles: Profile::ALL.iter().zip(&stats.per_profile).map(profile).collect(),
            learned: stats.learned.iter().map(learned).collect(),
            fragmentation_avoided_bytes: stats.fragmentation_avoided_bytes,
        }
    }
}
