//! Members of one arena: what they are, in runs of 64 in the order in which they were made.
//!
//! Everything here is under the lock of the arena's family.

use super::directory::RUN_MEMBERS;
use super::space::ALIGN_BYTES;
use crate::pool::id::{AllocationId, Key};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Members that a run has room for at first; it grows by four where it has more, so that an arena of few costs little.
const FIRST_MEMBERS: usize = 4;

/// One allocation in the chunks of an arena.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// Lower word of the key; zero when it has ended.
    key_low: u64,
    key_high: u32,
    pub(super) size_bytes: u32,
    /// Where it begins in the arena's space.
    pub(super) place: u64,
    /// When it was made, in `Now` nanoseconds; no two of an arena are equal.
    pub(super) created: u64,
    /// Writes counted so far.
    pub(super) writes: u64,
}

const _: () = assert!(size_of::<Member>() <= 48, "records of members are promised to be small");

impl Member {
    pub(super) fn new(key: Key, size_bytes: u32, place: u64, created: u64) -> Member {
        Member { key_low: key.low, key_high: key.high, size_bytes, place, created, writes: 0 }
    }

    pub(super) fn is_live(&self) -> bool {
        self.key_low != 0
    }

    pub(super) fn key(&self) -> Key {
        Key { low: self.key_low, high: self.key_high }
    }

    /// Its id is dead from here on.
    pub(super) fn end(&mut self) {
        self.key_low = 0;
    }

    /// What it takes of the arena's space.
    pub(super) fn actual_bytes(&self) -> u64 {
        actual_bytes(u64::from(self.size_bytes))
    }

    /// The places that it takes.
    pub(super) fn range(&self) -> Range<u64> {
        self.place..self.place + self.actual_bytes()
    }
}

/// What a member of that size takes.
pub(super) fn actual_bytes(size_bytes: u64) -> u64 {
    size_bytes.next_multiple_of(ALIGN_BYTES)
}

/// Up to 64 members that follow each other.
#[derive(Debug)]
pub(super) struct Run {
    /// Its number in the directory.
    pub(super) number: u32,
    pub(super) live: u32,
    /// Made so far; one that has ended stays until all have.
    pub(super) members: Vec<Member>,
}

impl Run {
    fn is_full(&self) -> bool {
        self.members.len() == RUN_MEMBERS as usize
    }

    /// Entries of the table's budget that it holds: one for each member ever made in it.
    pub(super) fn entries(&self) -> u64 {
        self.members.len() as u64
    }

    pub(super) fn metadata_bytes(&self) -> u64 {
        (size_of::<Run>() + self.members.capacity() * size_of::<Member>()) as u64
    }

    /// The id of one of its members.
    pub(super) fn id(&self, at: usize) -> AllocationId {
        let at_number = u32::try_from(at).expect("a run has 64 members");
        AllocationId::of_member(self.number * RUN_MEMBERS + at_number, self.members[at].key())
    }
}

/// Members after a point in time.
#[derive(Debug)]
pub(super) struct After {
    pub(super) found: Vec<(u64, AllocationId)>,
    /// How many were looked at.
    pub(super) looks: usize,
    /// How far was looked: everything up to that creation time is in the result. None: to the end.
    pub(super) end: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// By the creation of their first member.
    runs: BTreeMap<u64, Run>,
    /// Live ones, what they take, and what was asked for.
    pub(super) live: u64,
    pub(super) actual_bytes: u64,
    pub(super) requested_bytes: u64,
    last_created: u64,
    /// Bytes of the records.
    pub(super) metadata_bytes: u64,
}

impl Members {
    /// A creation time for a member made at `now`: that, or just after the last one where the two are equal.
    pub(super) fn next_created(&self, now: u64) -> u64 {
        now.max(self.last_created + 1)
    }

    /// Whether the next member begins a run.
    pub(super) fn needs_run(&self) -> bool {
        self.runs.last_key_value().is_none_or(|(_, run)| run.is_full())
    }

    /// Begins a run with the next member.
    pub(super) fn add_run(&mut self, created: u64, number: u32) {
        let members = Vec::with_capacity(FIRST_MEMBERS);
        let run = Run { number, live: 0, members };
        self.metadata_bytes += run.metadata_bytes();
        self.runs.insert(created, run);
    }

    /// Adds a member to the last run, which has room, and says what id it has.
    pub(super) fn add(&mut self, member: Member) -> AllocationId {
        self.live += 1;
        self.actual_bytes += member.actual_bytes();
        self.requested_bytes += u64::from(member.size_bytes);
        self.last_created = member.created;
        let mut last = self.runs.last_entry().expect("a run was added");
        let run = last.get_mut();
        if run.members.len() == run.members.capacity() {
            self.metadata_bytes -= run.metadata_bytes();
            let more = (3 * run.members.len()).min(RUN_MEMBERS as usize - run.members.len());
            run.members.reserve_exact(more);
            self.metadata_bytes += run.metadata_bytes();
        }
        run.live += 1;
        run.members.push(member);
        run.id(run.members.len() - 1)
    }

    /// The live member of that key at that place of that run.
    pub(super) fn find(&mut self, first_created: u64, number: u32, key: Key) -> Option<&mut Member> {
        let run = self.runs.get_mut(&first_created).filter(|run| run.number == number / RUN_MEMBERS)?;
        let member = run.members.get_mut((number % RUN_MEMBERS) as usize)?;
        (member.is_live() && member.key() == key).then_some(member)
    }

    /// Ends a member that was found there, and takes its run out if that was the last of it.
    pub(super) fn end(&mut self, first_created: u64, number: u32) -> Option<Run> {
        let run = self.runs.get_mut(&first_created).expect("a member was found in it");
        let member = &mut run.members[(number % RUN_MEMBERS) as usize];
        member.end();
        run.live -= 1;
        self.live -= 1;
        self.actual_bytes -= member.actual_bytes();
        self.requested_bytes -= u64::from(member.size_bytes);
        // One that has room is where the next member goes.
        let is_over = run.live == 0 && run.is_full();
        let run = is_over.then(|| self.runs.remove(&first_created)).flatten();
        self.metadata_bytes -= run.as_ref().map_or(0, Run::metadata_bytes);
        run
    }

    /// Takes all runs out.
    pub(super) fn take_all(&mut self) -> Vec<Run> {
        (self.live, self.actual_bytes, self.requested_bytes, self.metadata_bytes) = (0, 0, 0, 0);
        std::mem::take(&mut self.runs).into_values().collect()
    }

    /// Keeps those of a run for which a bit is set, all of which are live, ends all others, and takes out the runs of which
    /// nothing is kept, without a look at their members. Nothing is added after that.
    pub(super) fn retain(&mut self, masks: &HashMap<u32, u64>) -> Vec<Run> {
        let mut gone = Vec::new();
        (self.live, self.actual_bytes, self.requested_bytes, self.metadata_bytes) = (0, 0, 0, 0);
        for (first, mut run) in std::mem::take(&mut self.runs) {
            let mask = masks.get(&run.number).copied().unwrap_or(0);
            if mask == 0 {
                gone.push(run);
                continue;
            }
            for (at, member) in run.members.iter_mut().enumerate() {
                if mask >> at & 1 == 0 {
                    member.end();
                    continue;
                }
                self.actual_bytes += member.actual_bytes();
                self.requested_bytes += u64::from(member.size_bytes);
            }
            run.live = mask.count_ones();
            run.members.shrink_to_fit();
            self.live += u64::from(run.live);
            self.metadata_bytes += run.metadata_bytes();
            self.runs.insert(first, run);
        }
        gone
    }

    /// Takes out the runs of which no member is live. Nothing is added after that.
    pub(super) fn retain_live(&mut self) -> Vec<Run> {
        let gone: Vec<Run> = self.runs.extract_if(.., |_, run| run.live == 0).map(|(_, run)| run).collect();
        self.metadata_bytes -= gone.iter().map(Run::metadata_bytes).sum::<u64>();
        if let Some(mut last) = self.runs.last_entry() {
            self.metadata_bytes -= last.get().metadata_bytes();
            last.get_mut().members.shrink_to_fit();
            self.metadata_bytes += last.get().metadata_bytes();
        }
        gone
    }

    /// The live member that was made last.
    pub(super) fn last(&self) -> Option<&Member> {
        self.runs.values().rev().flat_map(|run| run.members.iter().rev()).find(|member| member.is_live())
    }

    /// All live members, in the order in which they were made.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.runs.values().flat_map(|run| &run.members).filter(|member| member.is_live())
    }

    /// Collects up to `count_max` members created after `created`, in order, looking at `looks_max` at most.
    ///
    pub(super) fn after(&self, created: u64, count_max: usize, looks_max: usize) -> After {
        let (mut found, mut looks) = (Vec::new(), 0);
        let first = self.runs.range(..=created).next_back().map_or(0, |(first, _)| *first);
        for run in self.runs.range(first..).map(|(_, run)| run) {
            let start = run.members.partition_point(|member| member.created <= created);
            for (at, member) in run.members.iter().enumerate().skip(start) {
                looks += 1;
                if member.is_live() {
                    found.push((member.created, run.id(at)));
                }
                if found.len() == count_max || looks == looks_max {
                    return After { found, looks, end: Some(member.created) };
                }
            }
        }
        After { found, looks, end: None }
    }

    /// The live ones of the next members after `created`, in order, of `looks_max` that are looked at; and how far was
    /// looked, none: to the end.
    pub(super) fn slice(&self, created: u64, looks_max: usize) -> (Vec<(AllocationId, Member)>, Option<u64>) {
        let (mut found, mut looks) = (Vec::new(), 0);
        let first = self.runs.range(..=created).next_back().map_or(0, |(first, _)| *first);
        for run in self.runs.range(first..).map(|(_, run)| run) {
            let start = run.members.partition_point(|member| member.created <= created);
            for (at, member) in run.members.iter().enumerate().skip(start) {
                looks += 1;
                if member.is_live() {
                    found.push((run.id(at), member.clone()));
                }
                if looks == looks_max {
                    return (found, Some(member.created));
                }
            }
        }
        (found, None)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    fn members(count: u32) -> (Members, Vec<AllocationId>) {
        let mut members = Members::default();
        let ids = (0..count)
            .map(|at| {
                let created = members.next_created(5);
                if members.needs_run() {
                    members.add_run(created, at / RUN_MEMBERS);
                }
                members.add(Member::new(Key::random(), 10 + at, u64::from(at) * 1024, created))
            })
            .collect();
        (members, ids)
    }

    #[test]
    fn members_are_found_by_their_ids_until_they_end_and_a_run_goes_with_its_last() {
        let (mut members, ids) = members(130);
        assert_eq!((members.live, members.iter().count()), (130, 130));
        let mut gone = 0;
        for (at, id) in ids.iter().enumerate() {
            let (number, key) = id.decode_member().expect("a member");
            assert_eq!(number as usize, at);
            let first = 5 + at as u64 / 64 * 64;
            assert_eq!(members.find(first, number, key).map(|member| member.size_bytes), Some(10 + number));
            assert!(members.find(first, number, Key::random()).is_none());
            gone += members.end(first, number).map_or(0, |run| run.entries());
            assert!(members.find(first, number, key).is_none());
        }
        assert_eq!((gone, members.live, members.actual_bytes, members.requested_bytes), (128, 0, 0, 0));
        assert_eq!(members.take_all().iter().map(Run::entries).sum::<u64>(), 2);
    }

    #[test]
    fn pages_of_any_length_show_every_live_member_once_in_order() {
        let (mut members, ids) = members(200);
        for at in (0..200).filter(|at| at % 3 == 0) {
            members.end(5 + at / 64 * 64, u32::try_from(at).expect("small"));
        }
        let expected: Vec<AllocationId> =
            ids.into_iter().enumerate().filter(|(at, _)| at % 3 != 0).map(|(_, id)| id).collect();
        for (count_max, looks_max) in [(1, 1), (7, 1000), (1000, 5), (1000, 1000)] {
            let (mut seen, mut after) = (Vec::new(), 0);
            loop {
                let After { found: page, looks, end } = members.after(after, count_max, looks_max);
                assert!(page.len() <= count_max && looks <= looks_max);
                seen.extend(page.into_iter().map(|(_, id)| id));
                match end {
                    Some(end) => after = end,
                    None => break,
                }
            }
            assert_eq!(seen, expected);
            let (mut seen, mut after) = (Vec::new(), Some(0));
            while let Some(from) = after {
                let (slice, end) = members.slice(from, looks_max);
                assert!(slice.len() <= looks_max);
                seen.extend(slice.into_iter().map(|(id, _)| id));
                after = end;
            }
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn what_is_not_kept_ends_and_runs_without_anything_kept_are_taken_out() {
        let (mut members, ids) = members(200);
        let records = members.metadata_bytes;
        assert!(
            members.retain_live().is_empty() && members.metadata_bytes < records,
            "the last run is full now"
        );
        let runs = members.retain(&HashMap::from([(0, 1 << 3), (3, 1 << 7)]));
        assert_eq!((runs.len(), members.live, members.iter().count()), (2, 2, 2));
        assert_eq!((members.actual_bytes, members.requested_bytes), (16 + 224, 13 + 209));
        assert_eq!(members.last().map(|member| member.size_bytes), Some(209));
        let left: u64 = members.runs.values().map(Run::metadata_bytes).sum();
        assert_eq!(members.metadata_bytes, left);
        assert!(members.find(5, 3, ids[3].decode_member().expect("a member").1).is_some());
    }
}
