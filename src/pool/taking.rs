//! The calls at the door that take memory: each is asked about first, where the doorkeeper wants to be.

use super::admission::Trial;
use super::deposit::Deposit;
use super::local::{Local, Started};
use super::{AllocateError, AllocateRequest, Allocation, Engine, Pool, Priority};
use crate::clock::Now;
use std::time::Duration;

impl Pool {
    /// Makes an allocation, waiting for room up to `wait` where there is none.
    ///
    /// # Errors
    /// [`AllocateError`], with the numbers; nothing was changed then.
    pub async fn allocate(
        &self,
        request: &AllocateRequest,
        wait: Duration,
        now: Now,
    ) -> Result<Allocation, AllocateError> {
        let Engine::Local(local) = &self.engine;
        let is_asked_about = local.doorkeeper().asks(request.priority);
        let mut _trial = None;
        if is_asked_about {
            _trial = local.ask_about(std::slice::from_ref(request), now)?;
        } else {
            match self.calls.should_time() {
                None => {
                    if let Some(made) = local.allocate_at_once(request, now) {
                        return Ok(made);
                    }
                }
                Some(weight) => {
                    if let Some(made) = self.allocate_at_once_timed(request, weight, now) {
                        return Ok(made);
                    }
                }
            }
        }
        let refused = |error| self.refused(1, error, now);
        let timing = self.calls.begin();
        match local.allocate(request, now) {
            Ok(Started::Made(made)) => {
                self.calls.end(timing);
                if is_asked_about {
                    local.doorkeeper().served(made.actual_size_bytes);
                }
                Ok(made)
            }
            Ok(Started::Claimed(mut plan)) => {
                let made = local.fulfil(&mut plan, now).await.map_err(refused)?;
                self.calls.end_planned(timing, plan.handed_over());
                Ok(local.served(made).into_iter().next().expect("as many as were asked for"))
            }
            Err(error) if !wait.is_zero() && error.may_pass() => {
                // In a box: who waits can pay for it. As a part of everybody's future it cost those who are served at
                // once a tenth of their time.
                let turn = Box::pin(local.allocate_in_turn(std::slice::from_ref(request), wait, now, error));
                let made = turn.await.map_err(refused)?;
                Ok(local.served(made).into_iter().next().expect("as many as were asked for"))
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// Makes all of these allocations or none, in the order asked. It waits for room as one.
    ///
    /// # Errors
    /// [`AllocateError`], with the numbers; nothing was changed then.
    pub async fn allocate_batch(
        &self,
        requests: &[AllocateRequest],
        wait: Duration,
        now: Now,
    ) -> Result<Vec<Allocation>, AllocateError> {
        let Engine::Local(local) = &self.engine;
        self.calls.count_batch_allocation();
        let _trial = local.ask_about(requests, now)?;
        let outcome = match local.allocate_all(requests, now).await {
            Err(error) if !wait.is_zero() && error.may_pass() => {
                local.allocate_in_turn(requests, wait, now, error).await
            }
            outcome => outcome,
        };
        outcome.map(|made| local.served(made)).map_err(|error| self.refused(requests.len(), error, now))
    }

    /// Begins an allocation whose content comes with it, waiting for room up to `wait`. Nobody can find it before it is
    /// complete.
    ///
    /// # Errors
    /// [`AllocateError`], with the numbers; nothing was changed then.
    pub async fn deposit(
        &self,
        request: &AllocateRequest,
        wait: Duration,
        now: Now,
    ) -> Result<Deposit<'_>, AllocateError> {
        let Engine::Local(local) = &self.engine;
        let _trial = local.ask_about(std::slice::from_ref(request), now)?;
        let timing = self.calls.begin();
        let outcome = match local.deposit(request, now).await {
            Err(error) if !wait.is_zero() && error.may_pass() => {
                local.deposit_in_turn(request, wait, now, error).await
            }
            outcome => {
                if let Ok(deposit) = &outcome {
                    self.calls.end_planned(timing, deposit.handed_over());
                }
                outcome
            }
        };
        outcome
            .inspect(|deposit| local.doorkeeper().served(deposit.actual_bytes()))
            .map_err(|error| self.refused(1, error, now))
    }

    /// So many blocks were refused for that reason, of a request that came at `now`.
    #[cold]
    pub(super) fn refused(&self, blocks: usize, error: AllocateError, now: Now) -> AllocateError {
        let Engine::Local(local) = &self.engine;
        local.doorkeeper().refused(local.heap(), &error, now);
        self.calls.refused(blocks, error)
    }
}

impl Local {
    /// Asks about a request for blocks, as one: it matters as much as the least of them, and takes what all of them do.
    #[cold]
    fn ask_about(&self, requests: &[AllocateRequest], now: Now) -> Result<Option<Trial<'_>>, AllocateError> {
        let Some(priority) = requests.iter().map(|request| request.priority).min() else { return Ok(None) };
        if !self.doorkeeper().asks(priority) || self.is_closed() {
            return Ok(None);
        }
        let mut bytes: u64 = 0;
        for request in requests {
            bytes = bytes.saturating_add(self.shape_for(request.size_bytes)?.1);
        }
        // What can never be had is not to come back later, which is what the doorkeeper would say.
        if bytes > self.heap().limit_bytes() {
            return Ok(None);
        }
        self.doorkeeper().admit(self.heap(), priority, bytes, now)
    }

    /// Asks about a request that turns out to take so many bytes.
    pub(super) fn ask_about_bytes(
        &self,
        priority: Priority,
        bytes: u64,
        now: Now,
    ) -> Result<Option<Trial<'_>>, AllocateError> {
        if self.doorkeeper().asks(priority) {
            return self.doorkeeper().admit(self.heap(), priority, bytes, now);
        }
        Ok(None)
    }

    /// These were made together.
    fn served(&self, made: Vec<Allocation>) -> Vec<Allocation> {
        self.doorkeeper().served(made.iter().map(|made| made.actual_size_bytes).sum());
        made
    }
}
