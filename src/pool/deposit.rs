//! Deposits: a block that is allocated and written in one go, whole or not at all.
//!
//! The memory is taken first, the content goes into it as it comes, and only then is it entered into the table. So
//! nobody ever sees a part of it, and one that breaks off leaves nothing behind.

use super::content::WriteError;
use super::local::Local;
use super::plan::Plan;
use super::{AllocateError, AllocateRequest, Allocation, Unavailable};
use crate::clock::Now;
use crate::latency::Stopwatch;
use crate::memory::{Edit, SlabLocation};

/// A block on its way in. Dropped before [`Deposit::commit`] it leaves no trace.
#[derive(Debug)]
pub struct Deposit<'a> {
    local: &'a Local,
    plan: Plan<'a>,
    /// The segment that is filled; none once it is the table's, or was given back.
    segment: Option<SlabLocation>,
    size_bytes: u64,
    received_bytes: u64,
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
        let segment = plan.back().await?.pop();
        Ok(Deposit { local, plan, segment, size_bytes, received_bytes: 0 })
    }

    /// As [`Plan::handed_over`].
    pub(super) fn handed_over(&self) -> Option<Stopwatch> {
        self.plan.handed_over()
    }

    fn segment(&self) -> SlabLocation {
        self.segment.expect("it is there until the deposit ends")
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
        self.local.heap().edit(self.segment(), &edit).expect("nobody else knows the segment");
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
        let segment = self.segment();
        let counted = Edit { writes: Some(1), ..Edit::default() };
        self.local.heap().edit(segment, &counted).expect("nobody else knows the segment");
        self.segment = None; // the table's from here on
        let made = self.plan.publish(&[segment], now);
        Ok(made.into_iter().next().expect("a plan of one block makes one allocation"))
    }
}

impl Drop for Deposit<'_> {
    fn drop(&mut self) {
        if let Some(segment) = self.segment.take() {
            self.local.heap().check_slack(segment, self.size_bytes);
            self.local.heap().free(segment);
        }
    }
}
