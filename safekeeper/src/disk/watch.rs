//! [`DiskWatch`]: measures the disk each second, lets timelines give up old WAL when it is nearly full, and refills the
//! reserve.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use wal_store::Pressure;

use super::choice::{Holder, give_up};
use super::forecast::Forecast;
use super::level::{DiskLevel, DiskLimits, DiskState, DiskUse};
use crate::timeline::{Timeline, Timelines};

/// Interval of the measurements.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two choices: what was given up has to be removed before the next choice. Idle timelines have a tick each ten
/// seconds.
const CHOICE_INTERVAL: Duration = Duration::from_secs(12);

/// Measures the disk of one safekeeper.
#[derive(Debug)]
pub(crate) struct DiskWatch {
    pub(crate) state: Arc<DiskState>,
    pub(crate) timelines: Arc<Timelines>,
    pub(crate) limits: DiskLimits,
}

impl DiskWatch {
    /// Measures until `stop` is ready.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>) {
        let watch = Arc::new(self);
        let mut stop = std::pin::pin!(stop);
        let mut chosen_at: Option<Instant> = None;
        let mut forecast = Forecast::default();
        loop {
            let may_choose = chosen_at.is_none_or(|at| at.elapsed() >= CHOICE_INTERVAL);
            let measuring = Arc::clone(&watch);
            let measured = spawn_blocking(move || {
                let chosen = measuring.measure_once(may_choose, &mut forecast);
                (chosen, forecast)
            });
            // The runtime ends.
            let Ok((chosen, kept)) = measured.await else { return };
            forecast = kept;
            match chosen {
                Ok(true) => chosen_at = Some(Instant::now()),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "disk of the data directory cannot be measured"),
            }
            tokio::select! {
                () = &mut stop => return,
                () = sleep(MEASURE_INTERVAL) => {}
            }
        }
    }

    /// True when timelines were told to give up more.
    fn measure_once(&self, may_choose: bool, forecast: &mut Forecast) -> io::Result<bool> {
        let disk = self.measure()?;
        let before = self.state.level();
        let level = self.limits.next_level(before, &disk);
        self.state.record(&disk, level, forecast.observe(Instant::now(), &disk));
        if level != before {
            self.log(&disk, level);
        }
        self.timelines.refill_reserve();

        if level == DiskLevel::Normal {
            if before != DiskLevel::Normal {
                self.served().iter().for_each(|timeline| timeline.holds.set_pressure(Pressure::default()));
            }
            return Ok(false);
        }
        Ok(may_choose && self.choose(&disk, level))
    }

    fn measure(&self) -> io::Result<DiskUse> {
        let found = rustix::fs::statvfs(self.timelines.path())?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(DiskUse {
            used: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
            available: bytes(found.f_bavail),
        })
    }

    /// Lets the next timelines give up old WAL. True when there was one.
    fn choose(&self, disk: &DiskUse, level: DiskLevel) -> bool {
        let served = self.served();
        let holder = |timeline: &Arc<Timeline>| {
            let plan = timeline.holds.plan()?;
            Some((Arc::clone(timeline), Holder { pressure: timeline.holds.pressure(), plan }))
        };
        let (timelines, holders): (Vec<_>, Vec<_>) = served.iter().filter_map(holder).unzip();

        let chosen = give_up(&holders, level, &self.limits, disk);
        for (&index, &pressure) in &chosen {
            timelines[index].holds.set_pressure(pressure);
        }
        !chosen.is_empty()
    }

    fn served(&self) -> Vec<Arc<Timeline>> {
        self.timelines.all().into_iter().filter_map(|(_, timeline)| timeline.ok()).collect()
    }

    /// One line for each transition.
    fn log(&self, disk: &DiskUse, level: DiskLevel) {
        let (used_bytes, free_bytes) = (disk.used, disk.available);
        match level {
            DiskLevel::Normal => {
                tracing::info!(used_bytes, free_bytes, "disk has room again, old WAL is kept as before")
            }
            DiskLevel::High => tracing::warn!(
                used_bytes,
                free_bytes,
                disk_high_percent = self.limits.high_percent,
                "disk is nearly full, old WAL is given up that nothing needs, then what readers and members lack"
            ),
            DiskLevel::Stop => tracing::warn!(
                used_bytes,
                free_bytes,
                disk_stop_bytes = self.limits.stop_free(disk),
                "disk is full but for its last room, old WAL is given up that replication slots need: make room"
            ),
        }
    }
}
