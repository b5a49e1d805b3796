//! Deposits: a block that is allocated and written in one go, whole or not at all.
//!
//! The memory is taken first, the content goes into it as it comes, and only then is it entered into the table. So
//! nobody ever sees a part of it, and one that breaks off leaves nothing behind.

use super::content::WriteError;
use super::local::Local;
use super::object::Segments;
use super::place::Place;
use super::plan::Plan;
use super::{AllocateError, AllocateRequest, Allocation, Unavailable};
use crate::clock::Now;
use crate::latency::Stopwatch;
use crate::memory::{Backed, Edit, SlabLocation};

/// A block on its way in. Dropped before [`Deposit::commit`] it leaves no trace.
#[derive(Debug)]
pub struct Deposit<'a> {
    local: &'a Local,
    plan: Plan<'a>,
    /// What is filled; none once it is the table's, or was given back.
    target: Option<Target>,
    size_bytes: u64,
    received_bytes: u64,
}

/// Where the content of a deposit goes.
#[derive(Debug)]
enum Target {
    Slab(SlabLocation),
    Run(Segments),
}

impl Local {
    pub(super) async fn deposit(
        &self,
        request: &AllocateRequest,
        now: Now,
    ) -> Result<Deposit<'_>, AllocateError> {
        if self.is_closed() {
            return Err(Unavailable.into());
        }
        let mut plan = Plan::new(self, std::slice::from_ref(request))?;
        plan.claim(now)?;
        let deposit = Deposit::begin(self, plan, request.size_bytes).await?;
        self.passed_waiters();
        Ok(deposit)
    }
}

impl<'a> Deposit<'a> {
    /// A deposit with the room of a claimed plan of one block.
    pub(super) async fn begin(
        local: &'a Local,
        mut plan: Plan<'a>,
        size_bytes: u64,
    ) -> Result<Deposit<'a>, AllocateError> {
        let target = match plan.back().await?.pop().expect("a plan of one block makes one") {
            Backed::Slab(segment) => Target::Slab(segment),
            run @ Backed::Run(_) => Target::Run(Segments::of(local.objects().upkeep(), 0, size_bytes, [run])),
        };
        Ok(Deposit { local, plan, target: Some(target), size_bytes, received_bytes: 0 })
    }

    /// Bytes of its block.
    pub(super) fn actual_bytes(&self) -> u64 {
        self.plan.need().bytes
    }

    /// As [`Plan::handed_over`].
    pub(super) fn handed_over(&self) -> Option<Stopwatch> {
        self.plan.handed_over()
    }

    /// Takes the next piece of the content.
    ///
    /// # Errors
    /// [`WriteError::PastEnd`] where the content is longer than the block.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), WriteError> {
        let end_bytes = self.received_bytes + piece.len() as u64;
        if end_bytes > self.size_bytes {
            return Err(WriteError::PastEnd { end_bytes, size_bytes: self.size_bytes });
        }
        let edit = Edit { offset: self.received_bytes, pieces: &[piece], ..Edit::default() };
        match self.target.as_ref().expect("it is there until the deposit ends") {
            Target::Slab(segment) => {
                self.local.heap().edit(*segment, &edit).expect("nobody else knows the segment");
            }
            Target::Run(segments) => segments.fill(self.received_bytes, piece),
        }
        self.received_bytes = end_bytes;
        Ok(())
    }

    /// Makes it an allocation. Its content is what was pushed, and is its first version; what was not is zeros. A lease
    /// counts from now.
    ///
    /// # Errors
    /// [`AllocateError::Unavailable`]; nothing is left then.
    pub fn commit(mut self, now: Now) -> Result<Allocation, AllocateError> {
        if self.local.is_closed() {
            return Err(Unavailable.into());
        }
        let place = match self.target.take().expect("it is there until the deposit ends") {
            Target::Slab(segment) => {
                let counted = Edit { writes: Some(1), ..Edit::default() };
                self.local.heap().edit(segment, &counted).expect("nobody else knows the segment");
                Place::of_slab(segment)
            }
            Target::Run(segments) => self.local.objects().enter(segments, 1),
        };
        let made = self.plan.publish(&[place], now);
        Ok(made.into_iter().next().expect("a plan of one block makes one allocation"))
    }
}

impl Drop for Deposit<'_> {
    fn drop(&mut self) {
        match self.target.take() {
            Some(Target::Slab(segment)) => {
                self.local.heap().check_slack(segment, self.size_bytes);
                self.local.heap().free(segment);
            }
            Some(Target::Run(segments)) => segments.check_slack(),
            None => {}
        }
    }
}
