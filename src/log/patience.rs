//! A full disk is waited out: what was acknowledged is safe, and what waits is acknowledged when there is space again.
//!
//! Only what can be tried again comes here: making and growing a segment that is not in use, and writing the index
//! file. Records go into space that is there already, so they never meet a full disk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::disk::Disk;
use super::error::LogError;

/// Pause before a full disk is tried again.
const PAUSE: Duration = Duration::from_millis(100);

pub struct Patience {
    disk: Arc<dyn Disk>,
    /// The log is being closed: nobody waits for what waits here.
    closing: Arc<AtomicBool>,
    wait: bool,
}

impl Patience {
    /// `wait`: false is no patience at all.
    pub fn new(disk: Arc<dyn Disk>, closing: Arc<AtomicBool>, wait: bool) -> Patience {
        Patience { disk, closing, wait }
    }

    /// Does `work`, again and again while it fails for want of space. Any other error is returned; that one, too, when
    /// the log is being closed, or the disk is one that nobody can wait for.
    pub fn until_there_is_space<T>(
        &self,
        mut work: impl FnMut() -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let mut told = false;
        loop {
            match work() {
                Err(error) if error.is_for_want_of_space() && self.pause() => {
                    if !std::mem::replace(&mut told, true) {
                        ::log::error!("{error}; until then nothing new is acknowledged by this node");
                    }
                }
                result => {
                    if told && result.is_ok() {
                        ::log::warn!("there is space again: the log goes on");
                    }
                    return result;
                }
            }
        }
    }

    fn pause(&self) -> bool {
        self.wait && !self.closing.load(Ordering::Relaxed) && self.disk.pause(PAUSE)
    }
}
