//! The second budget: bytes of requests on their way. Apart from the pool, so that clients who send slowly or much
//! can neither grow the process without bound nor eat what others lease.

use crate::memory::Budget;
use std::sync::Arc;

/// How many bytes of requests and answers are in memory, and how many may be. A copy is the same budget.
#[derive(Clone, Debug)]
pub struct Inflight {
    budget: Arc<Budget>,
}

/// A part of the in-flight budget, given back when dropped. It may live longer than its request, as long as what it
/// is for: an answer goes on being sent when the handler is done.
#[derive(Debug)]
pub struct InflightCharge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Inflight {
    pub(super) fn new(bytes_max: u64) -> Inflight {
        Inflight { budget: Arc::new(Budget::new(bytes_max)) }
    }

    /// Takes `bytes` from the budget; none where they do not fit.
    pub fn charge(&self, bytes: u64) -> Option<InflightCharge> {
        // Lazily: a charge that was never granted must not be given back.
        self.budget.take(bytes).then(|| InflightCharge { budget: self.budget.clone(), bytes })
    }

    /// Makes `charge` one of `bytes` where it is of less; false, and nothing changed, where they do not fit.
    pub fn raise(&self, charge: &mut Option<InflightCharge>, bytes: u64) -> bool {
        let charged_bytes = charge.as_ref().map_or(0, |charge| charge.bytes);
        let Some(more) = bytes.checked_sub(charged_bytes).filter(|more| *more > 0) else { return true };
        let Some(mut taken) = self.charge(more) else { return false };
        match charge {
            // The bytes change hands, so that they are given back once.
            Some(charge) => charge.bytes += std::mem::take(&mut taken.bytes),
            None => *charge = Some(taken),
        }
        true
    }

    /// Bytes charged now.
    pub fn bytes(&self) -> u64 {
        self.budget.held()
    }

    /// Bytes that can be charged at most.
    pub fn bytes_max(&self) -> u64 {
        self.budget.limit()
    }
}

impl Drop for InflightCharge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}
