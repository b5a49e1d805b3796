//! Free runs against a twin that remembers each page by itself.

use super::*;
use proptest::prelude::*;

const PAGES: u64 = 64;

/// What a page is, in the words of a twin that remembers each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Used,
    Held,
    Hole,
}

#[derive(Clone, Debug)]
enum Action {
    Take(u64, u64),
    TakeOne(u64, u64),
    Free(usize),
    Reclaim(u64),
    Look(u64, u64),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        3 => (1..20_u64, 0..40_u64).prop_map(|(pages, budget)| Action::Take(pages, budget)),
        2 => (1..20_u64, 0..40_u64).prop_map(|(pages, budget)| Action::TakeOne(pages, budget)),
        4 => any::<usize>().prop_map(Action::Free),
        1 => (1..10_u64).prop_map(Action::Reclaim),
        1 => (0..PAGES, 1..10_u64).prop_map(|(page, pages)| Action::Look(page, pages)),
    ];
    prop::collection::vec(action, 1..80)
}

fn fit() -> impl Strategy<Value = Fit> {
    prop_oneof![Just(Fit::Best), Just(Fit::First), Just(Fit::Worst)]
}

fn span(pages: &Range<u64>) -> Range<usize> {
    usize::try_from(pages.start).expect("small")..usize::try_from(pages.end).expect("small")
}

/// The runs of one kind: maximal ranges of such pages.
fn runs_of(twin: &[Page], kind: Page) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (at, page) in (0..).zip(twin) {
        match runs.last_mut() {
            Some(run) if *page == kind && run.end == at => run.end += 1,
            _ if *page == kind => runs.push(at..at + 1),
            _ => {}
        }
    }
    runs
}

/// The run that a strategy takes of those that are long enough.
fn fitting(runs: &[Range<u64>], pages: u64, fit: Fit) -> Option<Range<u64>> {
    let long_enough = runs.iter().filter(|run| run.end - run.start >= pages);
    let chosen = match fit {
        Fit::Best => long_enough.min_by_key(|run| (run.end - run.start, run.start)),
        Fit::First => long_enough.min_by_key(|run| run.start),
        Fit::Worst => long_enough.max_by_key(|run| (run.end - run.start, run.start)),
    };
    chosen.map(|run| run.start..run.start + pages)
}

proptest! {
    #[test]
    fn runs_agree_with_a_twin_that_remembers_each_page(actions in actions(), fit in fit()) {
        let mut runs = Runs::new(PAGES, fit, 1);
        let mut twin = vec![Page::Hole; usize::try_from(PAGES).expect("small")];
        let mut used: Vec<Range<u64>> = Vec::new();
        for action in actions {
            match action {
                Action::Take(pages, budget) | Action::TakeOne(pages, budget) => {
                    let one = matches!(action, Action::TakeOne(..));
                    let may_take = |fresh: u64| fresh <= budget;
                    let taken = match one {
                        true => runs.take_one(pages, may_take).map(|taken| vec![taken]),
                        false => runs.take(pages, usize::MAX, may_take),
                    };
                    let held = runs_of(&twin, Page::Held);
                    let holes = runs_of(&twin, Page::Hole);
                    let in_one = fitting(&held, pages, fit)
                        .map(|pages| Taken { pages, held: true })
                        .or_else(|| {
                            let hole = fitting(&holes, pages, fit).filter(|_| pages <= budget)?;
                            Some(Taken { pages: hole, held: false })
                        });
                    let held_pages: u64 = held.iter().map(|run| run.end - run.start).sum();
                    let hole_pages: u64 = holes.iter().map(|run| run.end - run.start).sum();
                    let fresh = pages.saturating_sub(held_pages);
                    let can_be_had = in_one.is_some() || !one && fresh <= budget.min(hole_pages);
                    prop_assert_eq!(taken.is_some(), can_be_had, "{} pages of {:?}", pages, twin);
                    if let Some(in_one) = in_one {
                        prop_assert_eq!(taken.as_deref(), Some(&[in_one][..]));
                    }
                    for taken in taken.unwrap_or_default() {
                        let kind = if taken.held { Page::Held } else { Page::Hole };
                        prop_assert!(twin[span(&taken.pages)].iter().all(|page| *page == kind));
                        twin[span(&taken.pages)].fill(Page::Used);
                        used.push(taken.pages);
                    }
                    prop_assert_eq!(
                        used.iter().map(|run| run.end - run.start).sum::<u64>(),
                        twin.iter().filter(|page| **page == Page::Used).count() as u64
                    );
                }
                Action::Free(at) if !used.is_empty() => {
                    let run = used.swap_remove(at % used.len());
                    runs.free(run.clone());
                    twin[span(&run)].fill(Page::Held);
                }
                Action::Free(_) => {}
                Action::Look(page, pages_max) => {
                    let taken = runs.take_held_from(page, pages_max);
                    let first = (page..PAGES).find(|page| twin[span(&(*page..page + 1))] == [Page::Held]);
                    prop_assert_eq!(taken.as_ref().map(|run| run.start), first);
                    if let Some(pages) = taken {
                        prop_assert!(pages.end - pages.start <= pages_max && !pages.is_empty());
                        prop_assert!(twin[span(&pages)].iter().all(|page| *page == Page::Held));
                        runs.put_back(Taken { pages, held: true });
                    }
                }
                Action::Reclaim(pages_max) => {
                    let taken = runs.take_held(pages_max);
                    let last = runs_of(&twin, Page::Held).pop();
                    let expected = last.map(|run| run.end - (run.end - run.start).min(pages_max)..run.end);
                    prop_assert_eq!(taken.clone(), expected);
                    if let Some(run) = taken {
                        runs.add_hole(run.clone());
                        twin[span(&run)].fill(Page::Hole);
                    }
                }
            }
            runs.check();
            let held = runs_of(&twin, Page::Held);
            prop_assert_eq!(runs.held().count(), held.len() as u64);
            prop_assert_eq!(runs.held().longest(), held.iter().map(|run| run.end - run.start).max().unwrap_or(0));
        }
    }
}

#[test]
fn what_comes_back_is_joined_with_both_neighbours_and_counted() {
    let mut runs = Runs::new(PAGES, Fit::Best, 1);
    let taken: Vec<_> = (0..4).map(|_| runs.take_one(4, |_| true).expect("there are holes").pages).collect();
    assert_eq!(taken, [0..4, 4..8, 8..12, 12..16]);
    runs.free(taken[0].clone());
    runs.free(taken[2].clone());
    assert_eq!((runs.held().count(), runs.held().longest(), runs.held().pages()), (2, 4, 8));
    runs.free(taken[1].clone());
    assert_eq!((runs.held().count(), runs.held().longest(), runs.held().pages()), (1, 12, 12));
    let counts = runs.counts();
    assert_eq!((counts.frees, counts.coalesced_frees, counts.coalesces), (3, 1, 2));
    assert_eq!(runs.take_one(12, |_| false), Some(Taken { pages: 0..12, held: true }), "without the budget");
    assert_eq!((runs.counts().allocations, runs.counts().hits), (5, 1));
}

#[test]
fn where_no_run_is_long_enough_several_are_taken_and_no_more_fresh_pages_than_are_missing() {
    let mut runs = Runs::new(16, Fit::Best, 1);
    let taken: Vec<_> = (0..8).map(|_| runs.take_one(2, |_| true).expect("there are holes").pages).collect();
    assert_eq!(runs.take_one(1, |_| true), None, "all are used");
    for run in taken.iter().step_by(2) {
        runs.free(run.clone());
    }
    assert_eq!(runs.take(5, 2, |_| panic!("nothing is asked for")), None, "it takes three");
    let several = runs.take(5, 3, |_| panic!("nothing fresh is needed")).expect("8 pages are free");
    let pages: Vec<u64> = several.iter().map(|taken| taken.pages.end - taken.pages.start).collect();
    assert_eq!(pages, [2, 2, 1]);
    assert_eq!(runs.take(4, 9, |_| true), None, "there are no holes");
}

#[test]
fn a_part_is_as_few_runs_as_can_be_and_no_more_than_are_allowed() {
    let mut runs = Runs::new(16, Fit::Best, 1);
    let taken: Vec<_> = (0..8).map(|_| runs.take_one(2, |_| true).expect("there are holes").pages).collect();
    for run in taken.iter().step_by(2) {
        runs.free(run.clone());
    }
    let lengths = |part: Vec<Taken>| part.iter().map(|taken| taken.pages.end - taken.pages.start).collect();
    let first: Vec<u64> = lengths(runs.take_part(true, 7, 3));
    assert_eq!(first, [2, 2, 2], "three runs, and one page is missing");
    let second: Vec<u64> = lengths(runs.take_part(true, 1, 3));
    assert_eq!((second, runs.held().pages()), (vec![1], 1));
    assert_eq!((runs.take_part(false, 1, 3), runs.hole_pages()), (vec![], 0), "there are no holes");
    runs.check();
}

#[test]
fn the_low_water_mark_is_the_fewest_held_pages_since_the_last_look() {
    let mut runs = Runs::new(PAGES, Fit::Best, 1);
    let run = runs.take_one(10, |_| true).expect("a hole").pages;
    runs.free(run);
    assert_eq!(runs.take_low_water(), 0, "there were none at first");
    assert_eq!(runs.take_low_water(), 10);
    let part = runs.take_one(4, |_| false).expect("held ones").pages;
    runs.free(part);
    assert_eq!((runs.take_low_water(), runs.take_low_water()), (6, 10));
}

#[test]
fn long_runs_begin_at_huge_pages_where_they_can_and_short_ones_anywhere() {
    let mut runs = Runs::new(PAGES, Fit::Best, 8);
    let pages = |runs: &mut Runs, pages| runs.take_one(pages, |_| true).map(|taken| taken.pages);
    assert_eq!(pages(&mut runs, 3), Some(0..3));
    assert_eq!(pages(&mut runs, 8), Some(8..16), "what is left before it stays free");
    assert_eq!(pages(&mut runs, 5), Some(3..8));
    assert_eq!(pages(&mut runs, 44), Some(16..60));
    assert_eq!(pages(&mut runs, 2), Some(60..62));
    runs.free(5..8);
    runs.free(8..13);
    assert_eq!(pages(&mut runs, 8), Some(5..13), "where it cannot, it is had all the same");
    runs.check();
}
