//! Requests that wait for their turn: the asynchronous half of the queue, one function for each kind of request.

use super::content::WriteError;
use super::deposit::Deposit;
use super::local::Local;
use super::plan::{ClaimError, Plan, Room};
use super::queue::{Need, Place, Turn};
use super::{AllocateError, AllocateRequest, Allocation, Unavailable};
use crate::clock::Now;
use crate::memory;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How a request that waited for a need came to what it wants.
#[derive(Debug)]
pub(super) enum Claimed<Found> {
    /// The need is its own. The time by then.
    Need(Now),
    /// It found it elsewhere. The time by then.
    Found(Found, Now),
}

/// How long a request has waited, and may.
#[derive(Clone, Copy, Debug)]
struct Wait {
    began: Instant,
    until: Instant,
    now: Now,
}

impl Wait {
    fn begin(length: Duration, now: Now) -> Wait {
        let began = Instant::now();
        Wait { began, until: began + length, now }
    }

    /// The time by now.
    fn now(&self) -> Now {
        self.now.after(self.began.elapsed())
    }

    fn waited_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Local {
    /// Makes all the allocations or none, when there is room. `refused` is why there is none now.
    pub(super) async fn allocate_in_turn(
        &self,
        requests: &[AllocateRequest],
        wait: Duration,
        now: Now,
        refused: AllocateError,
    ) -> Result<Vec<Allocation>, AllocateError> {
        let (mut plan, now) = self.in_turn(requests, wait, now, refused).await?;
        plan.fulfil(now).await
    }

    /// Begins a deposit when there is room. `refused` is why there is none now.
    pub(super) async fn deposit_in_turn(
        &self,
        request: &AllocateRequest,
        wait: Duration,
        now: Now,
        refused: AllocateError,
    ) -> Result<Deposit<'_>, AllocateError> {
        let (plan, _) = self.in_turn(std::slice::from_ref(request), wait, now, refused).await?;
        Deposit::begin(self, plan, request.size_bytes).await
    }

    /// Waits until the plan of these requests is claimed. Also returns the time by then.
    pub(super) async fn in_turn(
        &self,
        requests: &[AllocateRequest],
        wait: Duration,
        now: Now,
        refused: AllocateError,
    ) -> Result<(Plan<'_>, Now), AllocateError> {
        let mut plan = Plan::new(self, requests)?;
        if !plan.fits_budgets() {
            return Err(refused);
        }
        let wait = Wait::begin(wait, now);
        let mut place = Place::new(self, plan.need().clone(), false);
        let turn = timeout_at(wait.until, place.turn()).await;
        match turn {
            Ok(Turn::Granted) => plan.claimed(),
            Ok(Turn::Closed) => return Err(Unavailable.into()),
            // The last attempt is its own, and says what stands in the way now.
            Ok(Turn::Look) | Err(_) => {
                drop(place);
                plan.claim(wait.now()).map_err(|last| AllocateError::Waited {
                    waited_ms: wait.waited_ms(),
                    last: Box::new(last),
                })?;
            }
        }
        Ok((plan, wait.now()))
    }

    /// Takes a need from the pool when it is there. Also returns the time by then.
    pub(super) async fn claim_in_turn(
        &self,
        need: &Need,
        wait: Duration,
        now: Now,
    ) -> Result<Now, AllocateError> {
        let wait = Wait::begin(wait, now);
        let mut place = Place::new(self, need.clone(), false);
        let turn = timeout_at(wait.until, place.turn()).await;
        match turn {
            Ok(Turn::Granted) => {}
            Ok(Turn::Closed) => return Err(Unavailable.into()),
            // The last attempt is its own, and says what stands in the way now.
            Ok(Turn::Look) | Err(_) => {
                drop(place);
                let claimed = self.unless_due(wait.now(), || self.claim(need));
                claimed.map_err(|last| AllocateError::Waited {
                    waited_ms: wait.waited_ms(),
                    last: Box::new(self.refused(last)),
                })?;
            }
        }
        Ok(wait.now())
    }

    /// Takes a need from the pool for the arena of that number when it is there, or what `look` finds where it is asked
    /// whenever something of the arena was freed, and at last.
    pub(super) async fn claim_or_find<Found>(
        &self,
        need: &Need,
        arena: u32,
        wait: Duration,
        now: Now,
        look: impl FnMut(Now) -> Option<Found>,
    ) -> Result<Claimed<Found>, AllocateError> {
        let Err(error) = self.unless_due(now, || self.claim(need)) else { return Ok(Claimed::Need(now)) };
        if let ClaimError::Memory(_) = error {
            self.drains().memory_is_needed(self.heap());
        }
        let refused = self.refused(error);
        if wait.is_zero() || !refused.may_pass() {
            return Err(refused);
        }
        Box::pin(self.claim_or_find_in_turn(need, arena, wait, now, look)).await
    }

    async fn claim_or_find_in_turn<Found>(
        &self,
        need: &Need,
        arena: u32,
        wait: Duration,
        now: Now,
        mut look: impl FnMut(Now) -> Option<Found>,
    ) -> Result<Claimed<Found>, AllocateError> {
        let wait = Wait::begin(wait, now);
        let mut place = Place::in_arena(self, need.clone(), arena);
        loop {
            let turn = timeout_at(wait.until, place.turn()).await;
            match turn {
                Ok(Turn::Granted) => return Ok(Claimed::Need(wait.now())),
                Ok(Turn::Closed) => return Err(Unavailable.into()),
                Ok(Turn::Look) | Err(_) => {
                    if let Some(found) = look(wait.now()) {
                        return Ok(Claimed::Found(found, wait.now()));
                    }
                }
            }
            if turn.is_err() {
                break;
            }
        }
        // The last attempt is its own, and says what stands in the way now.
        drop(place);
        match self.unless_due(wait.now(), || self.claim(need)) {
            Ok(()) => Ok(Claimed::Need(wait.now())),
            Err(last) => {
                let last = Box::new(self.refused(last));
                Err(AllocateError::Waited { waited_ms: wait.waited_ms(), last })
            }
        }
    }

    /// Whether so many bytes would be free without readers of what is gone, and without what is set aside.
    pub(super) fn may_be_freed(&self, bytes: u64) -> bool {
        let passing = self.heap().draining_bytes() + self.queue().reserved_bytes();
        self.heap().in_use_bytes().saturating_sub(passing) + bytes <= self.heap().limit_bytes()
    }

    /// Tries a write again when there is room for a second version, which it is handed then, and whenever anything was
    /// freed that may let it go without.
    pub(super) async fn write_in_turn<'a, T, Attempt>(
        &'a self,
        requested_bytes: u64,
        wait: Duration,
        now: Now,
        write: impl Fn(Option<Room<'a>>, Now) -> Attempt,
    ) -> Result<T, WriteError>
    where
        Attempt: Future<Output = Result<T, WriteError>>,
    {
        let wait = Wait::begin(wait, now);
        let need = Need { bytes: requested_bytes, ..Need::default() };
        let mut place = Place::new(self, need, true);
        while let Ok(turn) = timeout_at(wait.until, place.turn()).await {
            let room = (turn == Turn::Granted).then(|| Room::granted(self.heap(), requested_bytes));
            match write(room, wait.now()).await {
                Err(WriteError::NoRoom(memory::AllocateError::Exhausted { .. })) if turn == Turn::Look => {}
                outcome => return outcome,
            }
        }
        Err(WriteError::Waited { waited_ms: wait.waited_ms() })
    }
}
