//! Crashes and faults at every step of a story: whatever the disk keeps, no promise is lost.

use wal_store::{Fault, ModelDisk};

use crate::common::random;
use crate::world::{Crashed, World};

/// Random outcomes of the power failure for each step.
const OUTCOMES: u64 = if cfg!(debug_assertions) { 1 } else { 20 };

type NewWorld = fn(ModelDisk) -> World;

/// A world that keeps all WAL, and one that removes what it can.
const WORLDS: [NewWorld; 2] = [World::new, World::removing];

/// A log over several segments that is truncated inside a segment, and over a boundary, and restarted.
fn story(world: &mut World) -> Result<(), Crashed> {
    world.create()?;
    world.lead(0)?;
    world.write(6, 700);
    world.send(9000)?;
    world.write(20, 1500);
    world.send(3333)?;
    // Parts of the log that no checksum covers.
    world.proposer.abort();
    world.write(2, 200);
    world.proposer.switch();
    world.send(5000)?;
    world.commit_all()?;
    world.idle()?;
    world.write(9, 2500);
    world.send(20_000)?;
    // Truncates inside the last segment.
    world.lead(2)?;
    world.write(14, 2500);
    world.send(7777)?;
    // Truncates over a segment boundary.
    world.lead(10)?;
    world.write(1, 40_000);
    world.send(16_000)?;
    world.reopen()?;
    world.lead(0)?;
    world.write(2, 5000);
    world.proposer.switch();
    world.write(1, 300);
    world.send(2000)?;
    world.commit_all()?;
    world.idle()?;
    world.write(1, 100);
    world.send(2000)?;
    world.lead(1)?;
    world.write(2, 100);
    world.send(2000)
}

fn operations_of_the_story(new: NewWorld) -> u64 {
    let mut world = new(ModelDisk::new());
    story(&mut world).unwrap();
    world.disk.operations()
}

#[test]
fn crash_at_any_step_keeps_promises() {
    for new in WORLDS {
        let operations = operations_of_the_story(new);
        assert!(operations > 150, "{operations}");
        for step in 0..=operations {
            for outcome in 0..OUTCOMES {
                let mut world = new(ModelDisk::new());
                world.disk.crash_after(step);
                let end = story(&mut world);
                assert_eq!(end.is_err(), step < operations || world.disk.has_crashed());
                world.check_after_crash(step * 1000 + outcome);
            }
        }
    }
}

/// Checks a fault at each operation of its kind, and a power failure at the end.
fn check_every_fault(fault: Fault) {
    let mut fired = 0;
    for after in 0.. {
        let mut world = WORLDS[after as usize % 2](ModelDisk::new());
        world.disk.fail(fault, after / 2);
        story(&mut world).unwrap();
        let recoveries = world.recoveries;
        world.check_after_crash(after);
        fired += u64::from(recoveries > 0);
        if recoveries == 0 && after > fired + 20 {
            break;
        }
    }
    assert!(fired >= 10, "{fault:?} was noticed {fired} times");
}

#[test]
fn failed_sync_keeps_promises() {
    check_every_fault(Fault::Sync);
}

#[test]
fn failed_write_keeps_promises() {
    check_every_fault(Fault::Write);
}

#[test]
fn failed_directory_sync_keeps_promises() {
    check_every_fault(Fault::SyncDir);
}

#[test]
fn failed_read_is_not_the_end_of_log() {
    check_every_fault(Fault::Read);
}

#[test]
fn faults_then_crash_keep_promises() {
    let mut random = random(7);
    let operations = operations_of_the_story(World::removing);
    for seed in 0..operations * OUTCOMES {
        let mut world = WORLDS[seed as usize % 2](ModelDisk::new());
        for _ in 0..=random() % 3 {
            let fault = [Fault::Sync, Fault::Write][random() as usize % 2];
            world.disk.fail(fault, random() % operations / 3);
        }
        world.disk.crash_after(random() % operations);
        // The story may end before the crash comes, or because of it.
        let _ = story(&mut world);
        world.check_after_crash(seed);
    }
}
