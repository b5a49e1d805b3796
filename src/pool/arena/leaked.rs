//! Members in chunks, as a look for leaks comes by them: of arenas that nothing ends, and what was kept of those that
//! ended.

use super::members::Member;
use super::tree::{Node, Tree};
use crate::clock::Now;
use crate::pool::Allocation;
use crate::pool::id::{AllocationId, ArenaId};
use crate::pool::leaks::{Look, STEP_LOOKS};
use crate::pool::local::Local;
use crate::pool::tags::TagNumber;
use std::collections::HashSet;
use std::ops::Bound;

/// Arenas whose numbers are taken from the index at a time.
const NUMBERS_TAKEN: usize = 256;
/// What finding an arena counts as, beside its members.
const ARENA_LOOKS: usize = 8;

/// Some members of an arena that nothing ends.
struct Slice {
    members: Vec<(AllocationId, Member)>,
    /// How far was looked; none: to the end.
    end: Option<u64>,
    touched: Now,
    tag: Option<TagNumber>,
    /// None where they were kept.
    arena: Option<ArenaId>,
    /// When the arena was made.
    created: Now,
}

impl Local {
    /// Adds the members in chunks that are old enough, of arenas without a lease.
    pub(in crate::pool) async fn look_at_members(&self, look: &mut Look) {
        let mut last = None;
        // One that is committed meanwhile is found again among the kept.
        let mut seen = HashSet::new();
        loop {
            let start = last.map_or(Bound::Unbounded, Bound::Excluded);
            let open: Vec<(u64, u32)> = {
                let index = self.arenas().index();
                let old = index.open.range((start, Bound::Unbounded));
                old.take_while(|(created, _)| *created <= look.newest).take(NUMBERS_TAKEN).copied().collect()
            };
            for (created, number) in &open {
                let is_it = |node: &Node| node.kept.is_none() && node.created.0 == *created;
                self.look_at_arena(*number, look, &mut seen, is_it).await;
            }
            let Some(end) = open.last() else { break };
            last = Some(*end);
        }
        let mut last = None;
        loop {
            let kept = self.arenas().index().kept.page(last, NUMBERS_TAKEN);
            for (_, (first, number)) in &kept {
                let is_it = |node: &Node| node.kept.is_some_and(|span| span.0 == *first);
                self.look_at_arena(*number, look, &mut seen, is_it).await;
            }
            let Some(end) = kept.last() else { break };
            last = Some(*end);
        }
    }

    async fn look_at_arena(
        &self,
        number: u32,
        look: &mut Look,
        seen: &mut HashSet<(u32, Now)>,
        is_it: impl Fn(&Node) -> bool,
    ) {
        let mut after = Some(0);
        look.looked_at(ARENA_LOOKS).await;
        while let Some(from) = after {
            let Some(family) = self.arenas().family(number) else { return };
            let slice = family.lock().slice(number, from, &is_it);
            let Some(slice) = slice else { return };
            if from == 0 && !seen.insert((number, slice.created)) {
                return;
            }
            let is_last = slice.members.last().is_some_and(|(_, member)| member.created > look.newest);
            after = slice.end.filter(|_| !is_last);
            let (tag, looks) = (look.name(self, slice.tag), slice.members.len());
            for (id, member) in slice.members {
                if member.created > look.newest {
                    break;
                }
                let allocation = Allocation {
                    id,
                    size_bytes: u64::from(member.size_bytes),
                    actual_size_bytes: member.actual_bytes(),
                    created: Now(member.created),
                    deadline: None,
                    tag: tag.clone(),
                    arena: slice.arena,
                };
                look.add(allocation, slice.touched.max(Now(member.created)));
            }
            look.looked_at(looks).await;
        }
    }
}

impl Tree {
    /// The next members of an arena after `created`; none where it is not the one that is meant, or something ends it.
    fn slice(&self, number: u32, created: u64, is_it: impl Fn(&Node) -> bool) -> Option<Slice> {
        let node = self.nodes.get(&number).filter(|node| is_it(node))?;
        let is_kept = node.kept.is_some();
        if !is_kept && self.deadline(number).is_some() {
            return None;
        }
        let (members, end) = node.members.slice(created, STEP_LOOKS);
        Some(Slice {
            members,
            end,
            touched: node.touched,
            tag: node.tag,
            arena: (!is_kept).then(|| self.id(number)),
            created: node.created,
        })
    }
}
