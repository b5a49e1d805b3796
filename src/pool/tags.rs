//! Tags: a component's name on an allocation, what each component holds, and the budget it may have.
//!
//! A name is entered once and has a number from then on, as long as any allocation carries it or a budget names it.
//! So an entry of the table stores four bytes, and totals are two atomics.
//!
//! A budget is met exactly: whoever takes from a tag that has one holds the tag's `takers` lock while it looks and
//! takes, so that nothing is ever taken for a moment and given back, which others could see as a budget in use.

use parking_lot::{Mutex, MutexGuard, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tags at once, at most: bounds what names cost.
pub const TAGS_MAX: usize = 4096;
/// Letters of a tag at most.
const LETTERS_MAX: usize = 64;

/// A component's name: 1 to 64 of `a` to `z`, `0` to `9`, `_`, `.` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Arc<str>);

/// The text is no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tag is 1 to 64 of the characters a-z, 0-9, _, . and -")]
pub struct ParseTagError;

impl Tag {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for Tag {
    type Err = ParseTagError;

    fn from_str(text: &str) -> Result<Tag, ParseTagError> {
        let is_letter =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte);
        let is_tag = (1..=LETTERS_MAX).contains(&text.len()) && text.bytes().all(is_letter);
        if is_tag { Ok(Tag(text.into())) } else { Err(ParseTagError) }
    }
}

/// What one tag holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagStats {
    /// Its name.
    pub tag: Tag,
    /// Live allocations.
    pub allocations: u64,
    /// Their actual bytes; in arenas those of the arenas' chunks.
    pub allocated_bytes: u64,
    /// What it may hold at most; none: as much as the pool has.
    pub budget_bytes: Option<u64>,
}

/// A tag by its number. What an entry stores is the number plus one; zero is no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TagNumber(u32);

impl TagNumber {
    /// What an entry stores.
    pub(super) fn word(number: Option<TagNumber>) -> u32 {
        number.map_or(0, |number| number.0 + 1)
    }

    /// What an entry says.
    pub(super) fn from_word(word: u32) -> Option<TagNumber> {
        word.checked_sub(1).map(TagNumber)
    }
}

/// Some bytes of one tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TagShare {
    pub(super) tag: TagNumber,
    pub(super) bytes: u64,
}

/// A budget leaves no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OverBudget {
    pub(super) tag: TagNumber,
    pub(super) requested_bytes: u64,
    pub(super) in_use_bytes: u64,
    pub(super) budget_bytes: u64,
}

#[derive(Debug)]
struct Account {
    /// Live allocations, and blocks that are being asked for; while there are any, the number stays the name's.
    /// Counted up under the registry's lock, down by anyone.
    blocks: AtomicU64,
    /// Live allocations, and their actual bytes.
    live: AtomicU64,
    live_bytes: AtomicU64,
    /// What was taken from the budget: by live allocations, by requests that are about to make some, and set aside.
    bytes: AtomicU64,
    budget_bytes: Option<u64>,
    /// Held while bytes are taken under a budget.
    takers: Mutex<()>,
}

/// All tags.
#[derive(Debug)]
pub(super) struct Tags {
    registry: RwLock<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    numbers: HashMap<Tag, TagNumber>,
    /// By number; a number without a name is vacant.
    accounts: Vec<(Option<Tag>, Arc<Account>)>,
}

impl Account {
    fn new(budget_bytes: Option<u64>) -> Account {
        let zero = || AtomicU64::new(0);
        Account {
            blocks: zero(),
            live: zero(),
            live_bytes: zero(),
            bytes: zero(),
            budget_bytes,
            takers: Mutex::new(()),
        }
    }
}

impl Tags {
    /// Tags with the budgets that are configured.
    pub(super) fn new(budgets: &BTreeMap<Tag, u64>) -> Tags {
        let mut registry = Registry::default();
        for (tag, bytes) in budgets {
            registry.add(tag.clone(), Some(*bytes));
        }
        Tags { registry: RwLock::new(registry) }
    }

    /// The number of a name, for one block that will carry it. None where there are as many tags as can be.
    pub(super) fn begin_block(&self, tag: &Tag) -> Option<TagNumber> {
        {
            let registry = self.registry.read();
            if let Some(number) = registry.numbers.get(tag) {
                registry.account(*number).blocks.fetch_add(1, Ordering::Relaxed);
                return Some(*number);
            }
        }
        let mut registry = self.registry.write();
        let number = match registry.numbers.get(tag) {
            Some(number) => *number,
            None => {
                if registry.numbers.len() >= TAGS_MAX {
                    registry.forget_unused();
                }
                if registry.numbers.len() >= TAGS_MAX {
                    return None;
                }
                registry.add(tag.clone(), None)
            }
        };
        registry.account(number).blocks.fetch_add(1, Ordering::Relaxed);
        Some(number)
    }

    /// As [`Tags::begin_block`], of a number that a block of the caller's keeps.
    pub(super) fn begin_another_block(&self, number: TagNumber) {
        self.registry.read().account(number).blocks.fetch_add(1, Ordering::Relaxed);
    }

    /// A block of the tag ends, whose bytes were given back or never taken.
    pub(super) fn end_block(&self, number: TagNumber) {
        self.registry.read().account(number).blocks.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes all shares, each within its tag's budget, if `granted` does not fail in between: it is called when all
    /// budgets have room, and stand still. Shares are sorted by tag, one for each.
    pub(super) fn take<T, E: From<OverBudget>>(
        &self,
        shares: &[TagShare],
        granted: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        debug_assert!(shares.windows(2).all(|pair| pair[0].tag < pair[1].tag), "locked in one order");
        let accounts: Vec<Arc<Account>> = {
            let registry = self.registry.read();
            shares.iter().map(|share| registry.account(share.tag).clone()).collect()
        };
        let mut locks: Vec<MutexGuard<'_, ()>> = Vec::new();
        for (share, account) in shares.iter().zip(&accounts) {
            let Some(budget_bytes) = account.budget_bytes else { continue };
            locks.push(account.takers.lock());
            let in_use_bytes = account.bytes.load(Ordering::Relaxed);
            if in_use_bytes.saturating_add(share.bytes) > budget_bytes {
                return Err(OverBudget {
                    tag: share.tag,
                    requested_bytes: share.bytes,
                    in_use_bytes,
                    budget_bytes,
                }
                .into());
            }
        }
        let value = granted()?;
        for (share, account) in shares.iter().zip(&accounts) {
            account.bytes.fetch_add(share.bytes, Ordering::Relaxed);
        }
        Ok(value)
    }

    /// Takes what its budget leaves of a share, for somebody who gathers room, and returns how much that was.
    pub(super) fn take_some(&self, share: TagShare) -> u64 {
        let account = self.registry.read().account(share.tag).clone();
        let _alone = account.takers.lock();
        let in_use_bytes = account.bytes.load(Ordering::Relaxed);
        let left =
            account.budget_bytes.map_or(u64::MAX, |budget_bytes| budget_bytes.saturating_sub(in_use_bytes));
        let some = share.bytes.min(left);
        account.bytes.fetch_add(some, Ordering::Relaxed);
        some
    }

    /// Gives bytes of a tag back.
    pub(super) fn give_back(&self, share: TagShare) {
        self.registry.read().account(share.tag).bytes.fetch_sub(share.bytes, Ordering::Relaxed);
    }

    /// An allocation of the tag begins, whose bytes were taken before.
    pub(super) fn begin_allocation(&self, share: TagShare) {
        let registry = self.registry.read();
        let account = registry.account(share.tag);
        account.live.fetch_add(1, Ordering::Relaxed);
        account.live_bytes.fetch_add(share.bytes, Ordering::Relaxed);
    }

    /// An allocation of the tag ends, and with it its bytes.
    pub(super) fn end_allocation(&self, share: TagShare) {
        let registry = self.registry.read();
        let account = registry.account(share.tag);
        account.live.fetch_sub(1, Ordering::Relaxed);
        account.live_bytes.fetch_sub(share.bytes, Ordering::Relaxed);
        account.bytes.fetch_sub(share.bytes, Ordering::Relaxed);
        account.blocks.fetch_sub(1, Ordering::Relaxed);
    }

    /// Bytes of the tag, which were taken before, are an arena's chunk.
    pub(super) fn begin_chunk(&self, share: TagShare) {
        self.registry.read().account(share.tag).live_bytes.fetch_add(share.bytes, Ordering::Relaxed);
    }

    /// An arena's chunks end, and with them their bytes.
    pub(super) fn end_chunk(&self, share: TagShare) {
        let registry = self.registry.read();
        let account = registry.account(share.tag);
        account.live_bytes.fetch_sub(share.bytes, Ordering::Relaxed);
        account.bytes.fetch_sub(share.bytes, Ordering::Relaxed);
    }

    /// Allocations of the tag begin in chunks.
    pub(super) fn begin_members(&self, number: TagNumber, count: u64) {
        self.registry.read().account(number).live.fetch_add(count, Ordering::Relaxed);
    }

    /// Allocations in chunks end.
    pub(super) fn end_members(&self, number: TagNumber, count: u64) {
        self.registry.read().account(number).live.fetch_sub(count, Ordering::Relaxed);
    }

    /// The budget of a tag, if it has one.
    pub(super) fn budget_bytes(&self, number: TagNumber) -> Option<u64> {
        self.registry.read().account(number).budget_bytes
    }

    /// The number of a name that is in use.
    pub(super) fn find(&self, tag: &Tag) -> Option<TagNumber> {
        self.registry.read().numbers.get(tag).copied()
    }

    /// The name of a number that is in use.
    pub(super) fn name(&self, number: TagNumber) -> Option<Tag> {
        self.registry.read().accounts.get(number.0 as usize).and_then(|(tag, _)| tag.clone())
    }

    /// Every tag that has an allocation or a budget, by name.
    pub(super) fn stats(&self) -> Vec<TagStats> {
        let registry = self.registry.read();
        let mut stats: Vec<TagStats> = registry
            .accounts
            .iter()
            .filter_map(|(tag, account)| {
                let tag = tag.clone()?;
                let allocations = account.live.load(Ordering::Relaxed);
                let allocated_bytes = account.live_bytes.load(Ordering::Relaxed);
                let is_used = allocations > 0 || allocated_bytes > 0;
                (is_used || account.budget_bytes.is_some()).then(|| TagStats {
                    tag,
                    allocations,
                    allocated_bytes,
                    budget_bytes: account.budget_bytes,
                })
            })
            .collect();
        stats.sort_unstable_by(|left, right| left.tag.cmp(&right.tag));
        stats
    }
}

impl Registry {
    fn account(&self, number: TagNumber) -> &Arc<Account> {
        &self.accounts[number.0 as usize].1
    }

    fn add(&mut self, tag: Tag, budget_bytes: Option<u64>) -> TagNumber {
        let vacant = self.accounts.iter().position(|(tag, _)| tag.is_none());
        let account = (Some(tag.clone()), Arc::new(Account::new(budget_bytes)));
        let at = match vacant {
            Some(at) => {
                self.accounts[at] = account;
                at
            }
            None => {
                self.accounts.push(account);
                self.accounts.len() - 1
            }
        };
        let number = TagNumber(u32::try_from(at).expect("there are at most TAGS_MAX"));
        self.numbers.insert(tag, number);
        number
    }

    /// Forgets names that nobody uses and no budget names.
    fn forget_unused(&mut self) {
        for (name, account) in &mut self.accounts {
            let unused = account.blocks.load(Ordering::Relaxed) == 0 && account.budget_bytes.is_none();
            if unused && let Some(tag) = name.take() {
                self.numbers.remove(&tag);
            }
        }
    }
}
