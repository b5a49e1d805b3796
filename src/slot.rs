//! Slots: as many as there are CPUs, one for each thread, so that threads rarely write the same cache line.
//!
//! A thread gets its slot at first use: the one that fewest threads have. Two threads may share one; whatever is kept per
//! slot is therefore guarded or atomic, and a slot only makes contention unlikely.
//!
//! Where the machine has several nodes, each has a run of the slots, and a thread's slot is one of the node that it
//! runs on at that moment: what lies in a slot was last touched near its memory. There a thread's slot changes with its
//! node.

use crate::topology::Topology;
use crossbeam_utils::CachePadded;
#[cfg(not(feature = "shuttle"))]
use std::cell::Cell;
use std::ops::Range;
use std::sync::OnceLock;
#[cfg(not(feature = "shuttle"))]
use std::sync::atomic::{AtomicUsize, Ordering};

/// Slots at most: enough for every machine we have seen, and it bounds what is kept per slot.
pub const SLOTS_MAX: usize = 256;

/// Number of slots: CPUs of this process when first asked, at most [`SLOTS_MAX`].
pub fn count() -> usize {
    layout().count
}

/// The calling thread's slot, below [`count`]. Under shuttle, whose threads are one thread, by their number there.
#[cfg(feature = "shuttle")]
pub fn current() -> usize {
    usize::from(shuttle::current::me()) % count()
}

/// The calling thread's slot, below [`count`].
#[cfg(not(feature = "shuttle"))]
#[inline]
pub fn current() -> usize {
    /// The thread has no slot yet, or there are several nodes, so that it has to be looked up each time.
    const NONE: usize = usize::MAX;
    thread_local!(static SLOT: Cell<usize> = const { Cell::new(NONE) });
    fn choose() -> usize {
        let layout = layout();
        if layout.node_of_cpu.is_empty() {
            let slot = Seat::take(layout.count);
            SLOT.set(slot);
            return slot;
        }
        layout.slot_on(rustix::thread::sched_getcpu(), thread_number())
    }
    let slot = SLOT.with(Cell::get);
    if slot == NONE { choose() } else { slot }
}

/// All other slots, in the order in which to look for what this one lacks: its own node's first.
pub fn near(slot: usize) -> impl Iterator<Item = usize> {
    layout().near(slot)
}

/// A thread's place at a slot, until the thread ends.
#[cfg(not(feature = "shuttle"))]
struct Seat(Cell<Option<usize>>);

#[cfg(not(feature = "shuttle"))]
impl Seat {
    /// Takes the slot that fewest threads have, so that those that live side by side are apart as far as they can be:
    /// in turn alone, two that work could share a slot while those of others, long gone or idle, stand empty.
    fn take(count: usize) -> usize {
        thread_local!(static SEAT: Seat = const { Seat(Cell::new(None)) });
        let slot = (0..count).min_by_key(|slot| THREADS[*slot].load(Ordering::Relaxed)).unwrap_or(0);
        // Where the thread is ending already nobody counts it: it will not be there for long.
        let _ = SEAT.try_with(|seat| {
            if seat.0.replace(Some(slot)).is_none() {
                THREADS[slot].fetch_add(1, Ordering::Relaxed);
            }
        });
        slot
    }
}

#[cfg(not(feature = "shuttle"))]
impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            THREADS[slot].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Threads that have each slot.
#[cfg(not(feature = "shuttle"))]
static THREADS: [AtomicUsize; SLOTS_MAX] = [const { AtomicUsize::new(0) }; SLOTS_MAX];

/// The calling thread's number: threads are counted as they first ask for a slot.
#[cfg(not(feature = "shuttle"))]
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}

/// How slots are spread over nodes; the same as long as the process lives.
#[derive(Debug)]
#[cfg_attr(feature = "shuttle", allow(dead_code))] // there threads have slots by their number
struct Layout {
    count: usize,
    /// The slots of each node; all of them where there is one. Together they are all slots, in order. A slot serves
    /// two nodes only where there are fewer slots than nodes.
    slots_of_node: Vec<Range<usize>>,
    /// The node of each CPU. Empty where there is one node.
    node_of_cpu: Vec<u16>,
}

fn layout() -> &'static Layout {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    LAYOUT.get_or_init(|| {
        if cfg!(feature = "shuttle") {
            return Layout::new(&Topology::one_node(), 2); // the same on every machine
        }
        let count = std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(SLOTS_MAX));
        Layout::new(&Topology::of_this_process(), count)
    })
}

#[cfg_attr(feature = "shuttle", allow(dead_code))]
impl Layout {
    /// Spreads `count` slots, at least one, over the nodes by their number of CPUs.
    fn new(topology: &Topology, count: usize) -> Layout {
        let nodes = topology.several_nodes();
        if nodes.is_empty() {
            return Layout { count, slots_of_node: vec![0..count; 1], node_of_cpu: Vec::new() };
        }
        let cpus: usize = nodes.iter().map(Vec::len).sum();
        let mut node_of_cpu = vec![0; nodes.iter().flatten().max().map_or(0, |highest| highest + 1)];
        let mut slots_of_node = Vec::with_capacity(nodes.len());
        let mut before = 0;
        for (number, node) in nodes.iter().enumerate() {
            let start = before * count / cpus;
            before += node.len();
            slots_of_node.push(start..(before * count / cpus).max(start + 1));
            let number = u16::try_from(number).expect("there are at most 1024 nodes");
            node.iter().for_each(|cpu| node_of_cpu[*cpu] = number);
        }
        Layout { count, slots_of_node, node_of_cpu }
    }

    /// The slot of a thread with that number while it runs on that CPU. A CPU that was not ours at start, or was
    /// offline, counts as one of the first node.
    fn slot_on(&self, cpu: usize, thread: usize) -> usize {
        let node = self.node_of_cpu.get(cpu).copied().unwrap_or(0);
        let slots = &self.slots_of_node[usize::from(node)];
        slots.start + thread % slots.len()
    }

    fn near(&self, slot: usize) -> impl Iterator<Item = usize> + use<> {
        let of_its_node = self.slots_of_node.iter().find(|slots| slots.contains(&slot));
        let node = of_its_node.expect("every slot below the count belongs to a node").clone();
        let (start, end, count, length) = (node.start, node.end, self.count, node.len());
        let same_node = (1..length).map(move |step| start + (slot - start + step) % length);
        same_node.chain((0..count - length).map(move |step| (end + step) % count))
    }
}

/// One `T` for each slot, each on cache lines of its own; or fewer, which slots share.
#[derive(Debug)]
pub struct PerSlot<T>(Box<[CachePadded<T>]>);

impl<T> PerSlot<T> {
    /// Makes one value for each slot.
    pub fn new(make: impl FnMut(usize) -> T) -> PerSlot<T> {
        PerSlot::at_most(count(), make)
    }

    /// Makes one value for each slot, but at least one, and at most `values`.
    pub fn at_most(values: usize, mut make: impl FnMut(usize) -> T) -> PerSlot<T> {
        PerSlot((0..values.clamp(1, count())).map(|slot| CachePadded::new(make(slot))).collect())
    }

    /// The calling thread's value.
    #[inline]
    pub fn mine(&self) -> &T {
        self.of(current())
    }

    /// The value of one slot.
    #[inline]
    pub fn of(&self, slot: usize) -> &T {
        match self.0.get(slot) {
            Some(value) => value,
            None => self.shared(slot),
        }
    }

    /// The value that a slot shares with others.
    #[cold]
    fn shared(&self, slot: usize) -> &T {
        &self.0[slot % self.0.len()]
    }

    /// All values, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|value| &**value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_node_keep_their_slots_and_are_spread_over_all_of_them() {
        let one_node = layout().slots_of_node.len() == 1;
        // So many that they outweigh threads of other tests, whoever came and went before; all of them live at once.
        let threads = 32 * count();
        let start = std::sync::Barrier::new(threads);
        let slots: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let slot = current();
                        start.wait();
                        assert!(!one_node || slot == current());
                        slot
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("the thread does not panic")).collect()
        });
        assert!(slots.iter().all(|slot| *slot < count()));
        for slot in 0..count() {
            assert!(!one_node || slots.contains(&slot), "slot {slot} serves no thread");
            assert!(near(slot).all(|other| other < count() && other != slot));
        }
    }

    /// A machine of nodes with so many CPUs each, numbered one after the other.
    fn nodes(cpus: &[usize]) -> Topology {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let system = directory.path().join("sys/devices/system/node");
        let mut first = 0;
        for (node, cpus) in cpus.iter().enumerate() {
            let node = system.join(format!("node{node}"));
            std::fs::create_dir_all(&node).expect("a directory");
            std::fs::write(node.join("cpulist"), format!("{first}-{}", first + cpus - 1)).expect("a file");
            first += cpus;
        }
        std::fs::write(system.join("online"), format!("0-{}", cpus.len() - 1)).expect("a file");
        Topology::read(directory.path(), |_| true)
    }

    fn near_of(layout: &Layout, slot: usize) -> Vec<usize> {
        layout.near(slot).collect()
    }

    #[test]
    fn on_one_node_slots_are_tried_in_turn() {
        let layout = Layout::new(&Topology::one_node(), 4);
        assert_eq!(near_of(&layout, 2), [3, 0, 1]);
        assert_eq!(near_of(&Layout::new(&Topology::one_node(), 1), 0), [0; 0]);
    }

    #[test]
    fn slots_are_spread_over_nodes_by_their_cpus_and_those_of_one_node_come_first() {
        let layout = Layout::new(&nodes(&[4, 2]), 6);
        assert_eq!(layout.slots_of_node, [0..4, 4..6]);
        assert_eq!((layout.slot_on(1, 6), layout.slot_on(4, 6), layout.slot_on(5, 7)), (2, 4, 5));
        assert_eq!(layout.slot_on(99, 1), 1, "a CPU nobody knew counts as one of the first node");
        assert_eq!(near_of(&layout, 1), [2, 3, 0, 4, 5]);
        assert_eq!(near_of(&layout, 5), [4, 0, 1, 2, 3]);
    }

    #[test]
    fn every_node_has_a_slot_and_every_slot_a_node_whatever_their_numbers() {
        for cpus in [&[1, 1][..], &[1, 63], &[64, 64, 64, 64], &[1, 2, 3, 4, 5], &[128, 1, 1, 1]] {
            for count in (1..20).chain([SLOTS_MAX]) {
                let layout = Layout::new(&nodes(cpus), count);
                let mut served = vec![false; count];
                for cpu in 0..cpus.iter().sum() {
                    (0..count).for_each(|thread| served[layout.slot_on(cpu, thread)] = true);
                }
                assert_eq!(served, vec![true; count], "{count} slots on {cpus:?}");
                for slot in 0..count {
                    let mut others = near_of(&layout, slot);
                    others.sort_unstable();
                    let expected: Vec<usize> = (0..count).filter(|other| *other != slot).collect();
                    assert_eq!(others, expected, "{count} slots on {cpus:?}");
                }
            }
        }
    }
}
