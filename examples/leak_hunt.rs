//! A leak hunt: a server keeps the ids of its sessions' slabs, and forgets to give some back. The allocator, told to
//! debug, knows where each live slab was allocated, and since when.
//!
//! ```text
//! cargo run --no-default-features --example leak_hunt
//! ```

use maas::slab::{LeakReport, SlabAllocator, SlabError, SlabId};
use std::collections::BTreeMap;
use std::error::Error;

/// What each session has in memory.
const SESSION_BYTES: u64 = 512;

fn main() -> Result<(), Box<dyn Error>> {
    // `leak_report` also logs the report when the allocator is closed or dropped, through `tracing`.
    let allocator = SlabAllocator::builder(SESSION_BYTES, 1000).debug(true).leak_report(true).build()?;
    let mut server = Server { allocator: &allocator, sessions: BTreeMap::new() };
    for user in 0..100 {
        if user % 10 == 0 {
            server.log_in_from_telephone(user)?;
        } else {
            server.log_in(user)?;
        }
    }
    for user in 0..100 {
        server.log_out(user)?;
    }
    println!("all have left, and {} slabs are in use", allocator.stats().used_slabs);

    let report = allocator.leaks();
    println!("{} slabs, {} bytes, {} of them by an id alone", report.slabs, report.bytes, report.detached);
    for (function, slabs) in by_function(&report) {
        println!("{slabs} of the oldest {} were allocated in {function}", report.oldest.len());
    }

    // A double free is an error of its own, not a slab of somebody else's.
    let id = allocator.allocate()?.detach()?;
    allocator.deallocate_id(id)?;
    println!("an id a second time: {}", message(allocator.deallocate_id(id)));

    let last = allocator.close()?;
    println!("closed, with {} slabs that nobody gave back", last.slabs);
    Ok(())
}

/// Sessions as foreign code has them: numbers in a table.
struct Server<'a> {
    allocator: &'a SlabAllocator,
    sessions: BTreeMap<u32, SlabId>,
}

impl Server<'_> {
    #[inline(never)] // its name is to be found in the backtrace, also of an optimised build
    fn log_in(&mut self, user: u32) -> Result<(), SlabError> {
        let session = self.allocator.allocate()?.detach()?;
        self.sessions.insert(user, session);
        Ok(())
    }

    /// The defect: a telephone's session gets a second slab, and the table has room for one.
    #[inline(never)]
    fn log_in_from_telephone(&mut self, user: u32) -> Result<(), SlabError> {
        for _ in 0..2 {
            let session = self.allocator.allocate()?.detach()?;
            self.sessions.insert(user, session);
        }
        Ok(())
    }

    fn log_out(&mut self, user: u32) -> Result<(), SlabError> {
        self.sessions.remove(&user).map_or(Ok(()), |session| self.allocator.deallocate_id(session))
    }
}

/// How many of the oldest leaked slabs come from which function of this program: the innermost one in the backtrace, in
/// which each function is followed by the line that it was at.
fn by_function(report: &LeakReport) -> BTreeMap<String, usize> {
    let mut slabs = BTreeMap::new();
    for site in &report.oldest {
        let trace = site.backtrace.to_string();
        let lines = trace.lines().zip(trace.lines().skip(1));
        let ours =
            lines.filter(|(_, at)| at.contains("examples/leak_hunt.rs")).map(|(function, _)| function).next();
        let name = ours.and_then(|function| function.rsplit([':', ' ']).next());
        *slabs.entry(name.unwrap_or("a function without a name").to_owned()).or_default() += 1;
    }
    slabs
}

fn message(outcome: Result<(), SlabError>) -> String {
    outcome.map_or_else(|error| error.to_string(), |()| "it was taken".to_owned())
}
