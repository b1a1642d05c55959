use isocenter_runtime::{clock::TestClock, random::Seeded};

use super::*;

fn queue(limit: usize) -> (Queue<u32>, TestClock) {
    let clock = TestClock::new(Time(1_000));
    (Queue::bounded(clock.shared(), limit), clock)
}

fn schedule() -> Schedule {
    Schedule::new(Duration::from_secs(1), Duration::from_secs(60))
}

#[test]
fn the_earliest_wish_wins_and_keys_are_held_once() {
    let (queue, clock) = queue(10);
    queue.wake_at(1, Time(3_000));
    queue.wake_at(1, Time(2_000));
    queue.wake_at(1, Time(9_000));
    assert_eq!((queue.len(), queue.depth(), queue.take()), (1, 0, None));
    clock.set(Time(2_000));
    assert_eq!((queue.depth(), queue.take(), queue.take()), (1, Some(1), None));
}

#[test]
fn a_key_of_another_process_is_not_taken_and_makes_room() {
    let (queue, _clock) = queue(2);
    queue.restrict(Arc::new(|key| key % 2 == 0));
    assert!(queue.wake(1) && queue.wake_at(3, Time(9_000)));
    assert!(!queue.wake(2), "full of keys that are not known to be another's yet");
    queue.prune();
    assert!(queue.is_empty() && queue.wake(2) && queue.wake(5));
    assert_eq!((queue.take(), queue.take()), (Some(2), None));
    queue.restrict(Arc::new(|_| false));
    queue.prune();
    assert_eq!(queue.len(), 1, "what runs is left alone");
    queue.finish(2, Some(Time(1_000)));
    assert_eq!((queue.take(), queue.len()), (None, 0), "and is not run again");
}

#[test]
fn a_key_woken_while_it_runs_runs_again_after_not_beside() {
    let (queue, _clock) = queue(10);
    queue.wake(1);
    assert_eq!(queue.take(), Some(1));
    queue.wake(1);
    assert_eq!(queue.take(), None);
    queue.finish(1, None);
    assert_eq!(queue.take(), Some(1));
    queue.finish(1, None);
    assert!(queue.is_empty());
}

#[test]
fn a_clock_that_is_set_back_takes_what_waits_with_it() {
    let (queue, clock) = queue(10);
    let hour = Duration::from_secs(3_600);
    clock.set(clock.now().plus(hour));
    queue.wake_at(1, clock.now().plus(Duration::from_secs(5)));
    queue.wake_at(2, clock.now().plus(Duration::from_secs(9)));
    clock.set(clock.now().minus(hour));
    assert_eq!((queue.take(), queue.next_in()), (None, Some(Duration::from_secs(5))));
    // An earlier wish still finds the later one, and takes its place.
    queue.wake_at(2, clock.now().plus(Duration::from_secs(1)));
    clock.advance(Duration::from_secs(5));
    assert_eq!((queue.take(), queue.take(), queue.take(), queue.len()), (Some(2), Some(1), None, 2));
}

#[test]
fn failures_wait_longer_each_time_and_a_success_forgets_them() {
    let (queue, clock) = queue(10);
    let mut waits = Vec::new();
    for expected in 1..=4 {
        queue.wake(7);
        clock.advance(Duration::from_secs(60));
        assert_eq!(queue.take(), Some(7));
        assert_eq!(queue.fail(7, &schedule()), expected);
        waits.push(queue.next_in().unwrap());
    }
    assert!(waits.is_sorted(), "{waits:?}");
    assert!(queue.resync(7) && queue.depth() == 0, "a resync does not shorten the wait");
    queue.wake(7);
    assert_eq!(queue.take(), Some(7));
    queue.finish(7, None);
    queue.wake(7);
    assert_eq!(queue.take(), Some(7));
    assert_eq!(queue.fail(7, &schedule()), 1);
}

#[tokio::test]
async fn a_full_queue_forgets_new_keys_knows_old_ones_and_tells_when_there_is_room() {
    let (queue, _clock) = queue(2);
    assert!(queue.wake(1) && queue.wake(2) && !queue.wake(3) && queue.wake(1));
    for _ in 0..2 {
        let key = queue.take().unwrap();
        queue.finish(key, None);
    }
    queue.room().await;
    assert!(queue.wake(3));
}

/// Random wakes, takes and ends against a model that is a plain map of wishes and a set of running keys.
#[test]
fn the_queue_agrees_with_its_model() {
    let mut rng = Seeded::fresh();
    let seed = rng.seed();
    let (queue, clock) = queue(1_000);
    let mut wishes = std::collections::BTreeMap::<u32, Time>::new();
    let mut running = std::collections::BTreeMap::<u32, Option<Time>>::new();
    for _ in 0..20_000 {
        let now = clock.now();
        let (key, at) = (
            u32::try_from(rng.range(0..20)).unwrap(),
            now.plus(rng.duration(Duration::ZERO..Duration::from_millis(5))),
        );
        match rng.range(0..4) {
            0 => {
                queue.wake_at(key, at);
                let earliest = |old: Option<Time>| Some(old.map_or(at, |old| old.min(at)));
                if let Some(wish) = running.get_mut(&key) {
                    *wish = earliest(*wish);
                } else {
                    wishes.insert(key, earliest(wishes.get(&key).copied()).unwrap());
                }
            }
            1 => {
                let first = wishes.iter().map(|(key, at)| (*at, *key)).min().filter(|(at, _)| *at <= now);
                assert_eq!(queue.take(), first.map(|(_, key)| key), "seed {seed}");
                if let Some((_, key)) = first {
                    wishes.remove(&key);
                    running.insert(key, None);
                }
            }
            2 => {
                if let Some((key, wish)) = running.pop_first() {
                    let again = rng.chance(0.5).then_some(at);
                    queue.finish(key, again);
                    if let Some(at) = wish.into_iter().chain(again).min() {
                        wishes.insert(key, at);
                    }
                }
            }
            _ => clock.advance(Duration::from_millis(1)),
        }
        assert_eq!(queue.len(), wishes.len() + running.len(), "seed {seed}");
    }
}

#[test]
fn what_is_woken_goes_before_a_resync_but_not_for_ever() {
    let (queue, clock) = queue(100);
    for key in 0..10 {
        assert!(queue.resync(key) && queue.resync(key));
    }
    assert_eq!((queue.len(), queue.depth(), queue.next_in()), (10, 10, Some(Duration::ZERO)));
    clock.advance(Duration::from_secs(1));
    // One of those that are listed has changed besides, and runs once for both.
    for key in (5..6).chain(50..50 + SWEPT_AFTER) {
        queue.wake(key);
    }
    let first: Vec<_> = (0..=SWEPT_AFTER).filter_map(|_| queue.take()).collect();
    assert_eq!((first.first(), first.last()), (Some(&5), Some(&0)), "{first:?}");
    let rest: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
    assert_eq!(rest, [50 + SWEPT_AFTER - 1, 1, 2, 3, 4, 6, 7, 8, 9]);
}

#[test]
fn a_resync_that_comes_before_the_last_one_was_through_does_not_begin_it_anew() {
    let (queue, _clock) = queue(10);
    let mut ran = Vec::new();
    for _ in 0..3 {
        for key in 0..4 {
            queue.resync(key);
        }
        for key in (0..2).filter_map(|_| queue.take()) {
            ran.push(key);
            queue.finish(key, None);
        }
    }
    assert_eq!(ran, [0, 1, 2, 3, 0, 1]);
}

#[test]
fn a_resync_asks_for_one_more_run_of_what_runs_and_for_none_of_what_failed() {
    let (queue, _clock) = queue(10);
    queue.resync(1);
    assert_eq!(queue.take(), Some(1));
    queue.resync(1);
    assert_eq!((queue.take(), queue.len()), (None, 1));
    queue.finish(1, None);
    assert_eq!(queue.take(), Some(1));
    queue.resync(1);
    queue.fail(1, &schedule());
    assert_eq!((queue.take(), queue.depth(), queue.len()), (None, 0, 1));
}

#[test]
fn a_resync_finds_what_waits_for_a_later_time_and_shards_that_left() {
    let (queue, clock) = queue(10);
    queue.wake_at(1, clock.now().plus(Duration::from_secs(60)));
    queue.resync(1);
    assert_eq!((queue.take(), queue.len()), (Some(1), 1));
    queue.finish(1, None);
    assert!(queue.is_empty());
    queue.resync(1);
    queue.resync(2);
    queue.wake(2);
    queue.restrict(Arc::new(|key| *key == 1));
    queue.prune();
    assert_eq!((queue.len(), queue.take(), queue.take()), (1, Some(1), None));
}
