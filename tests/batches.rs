//! Order of training: a function of the seed, the number of examples, the batch size and the step.

use std::collections::HashSet;

use maxmargin::data::Batches;

/// Concatenated batches of an epoch.
fn order(batches: &mut Batches, epoch: u32) -> Vec<u32> {
    let steps = batches.steps_per_epoch() as u32;
    (epoch * steps..(epoch + 1) * steps).flat_map(|step| batches.at(step).to_vec()).collect()
}

#[test]
fn every_epoch_visits_every_example_once() {
    for (n, batch) in [(1, 1), (1, 50), (7, 7), (103, 10), (103, 103), (103, 1000), (6000, 50)] {
        let mut batches = Batches::new(0, n, batch);
        for epoch in [0, 1, 2, 1000] {
            let mut visited = order(&mut batches, epoch);
            visited.sort_unstable();
            assert!(visited.iter().copied().eq(0..n as u32), "{n} in batches of {batch}, epoch {epoch}");
        }
    }
}

#[test]
fn each_epoch_and_each_seed_has_its_own_order() {
    let orders: HashSet<Vec<u32>> = [0, 1, 2, 1 << 32]
        .into_iter()
        .flat_map(|seed| (0..5).map(move |epoch| order(&mut Batches::new(seed, 100, 10), epoch)))
        .collect();
    assert_eq!(orders.len(), 20);
    assert!(!orders.contains(&(0..100).collect::<Vec<u32>>()));
}

#[test]
fn a_batch_depends_on_its_step_alone() {
    let mut straight = Batches::new(7, 45, 10);
    let all: Vec<Vec<u32>> = (0..23).map(|step| straight.at(step).to_vec()).collect();
    for (step, batch) in all.iter().enumerate().rev() {
        assert_eq!(Batches::new(7, 45, 10).at(step as u32), batch);
        assert_eq!(straight.at(step as u32), batch);
    }
}

#[test]
fn the_last_partial_batch_is_kept() {
    let mut batches = Batches::new(0, 45_000, 128);
    assert_eq!(batches.steps_per_epoch(), 352);
    assert_eq!((batches.at(0).len(), batches.at(350).len(), batches.at(351).len()), (128, 128, 72));
    assert_eq!([0, 351, 352, 703, 704].map(|step| batches.epoch_of(step)), [0, 0, 1, 1, 2]);
    assert_eq!([0, 1, 351, 352, 353].map(|steps| batches.visited(steps)), [0, 128, 44_928, 45_000, 45_128]);
}

#[test]
fn every_example_comes_first_about_equally_often() {
    let mut batches = Batches::new(3, 10, 10);
    let mut first = [0; 10];
    for epoch in 0..10_000 {
        first[batches.at(epoch)[0] as usize] += 1;
    }
    // The standard deviation is 30; five of them are allowed.
    assert!(first.iter().all(|&times| (850..=1150).contains(&times)), "{first:?}");
}
