//! One run: a fresh cluster, clients, rounds of faults, and what must hold after each.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redisraft_sim::random::Random;

use crate::client::{Client, Habit};
use crate::cluster::damage;
use crate::fleet::Fleet;
use crate::nemesis::{not_alive, Nemesis};
use crate::observer::Observer;
use crate::plan::{Event, Plan};
use crate::record::Record;
use crate::session::Session;
use crate::summary::Summary;
use crate::violation::{Result, Violation};
use crate::workload::{Kind, Workload};

/// Replies for which a client waits for so long, each client one of them: a patient one meets a leader that stood still.
const REPLY_TIMEOUTS_MS: [u64; 3] = [700, 3_000, 8_000];
/// Answers after the faults that show that the cluster serves again.
const SERVED: u64 = 100;

/// A run that has failed.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub violation: Violation,
    /// Where the plan, the history, the servers' logs and their directories are kept.
    pub kept: PathBuf,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { seed, violation, kept } = self;
        write!(formatter, "seed {seed} FAILED: {violation}\nhistory, logs and plan: {}", kept.display())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a plan in a new directory below `parent`, which is removed if nothing is found.
///
/// # Errors
/// What was found.
pub fn run(plan: &Plan, parent: &Path, bound: Duration, summary: &mut Summary) -> RunResult {
    let kept = parent.join(format!("chaos-{}-{}", plan.seed, std::process::id()));
    let failed = |violation| Failure { seed: plan.seed, violation, kept: kept.clone() };
    let made = fs::create_dir_all(&kept);
    made.map_err(|error| failed(Violation::Setup(format!("{}: {error}", kept.display()))))?;
    let mut fleet = Fleet::start(&kept, plan).map_err(failed)?;
    let record = Arc::<Mutex<Record>>::default();
    let result = Run::new(plan, &record, bound, summary).perform(&mut fleet);
    fleet.kill_all();
    if let Err(violation) = result {
        fleet.keep_logs(&kept);
        // What cannot be kept is missing; the run has failed already.
        let _ = fs::write(kept.join("plan.txt"), plan.to_string());
        let _ = fs::write(kept.join("history.txt"), lock(&record).text());
        let _ = fs::write(kept.join("failure.txt"), violation.to_string());
        return Err(failed(violation));
    }
    drop(fleet);
    // Leftovers are in nobody's way.
    let _ = fs::remove_dir_all(&kept);
    Ok(())
}

type RunResult = std::result::Result<(), Failure>;

struct Run<'a> {
    plan: &'a Plan,
    record: &'a Arc<Mutex<Record>>,
    workload: Arc<Mutex<Workload>>,
    bound: Duration,
    summary: &'a mut Summary,
}

/// Clients at work.
struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Crowd {
    fn is_over(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Ends them; what the first of them that met something that may not be has met.
    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let results: Vec<Result<()>> =
            self.threads.into_iter().map(|thread| thread.join().expect("a client failed")).collect();
        results.into_iter().collect()
    }
}

impl<'a> Run<'a> {
    fn new(
        plan: &'a Plan,
        record: &'a Arc<Mutex<Record>>,
        bound: Duration,
        summary: &'a mut Summary,
    ) -> Run<'a> {
        let workload = Arc::new(Mutex::new(Workload::new(plan.expiring_per_mille)));
        Run { plan, record, workload, bound, summary }
    }

    fn perform(&mut self, fleet: &mut Fleet) -> Result<()> {
        let observer = Observer::start(fleet.roster.clone());
        let mut nemesis = Nemesis::new(fleet, &observer);
        let mut result = Ok(());
        for (number, events) in self.plan.rounds.iter().enumerate() {
            result = self.round(number, events, &mut nemesis);
            if result.is_err() {
                break;
            }
        }
        self.summary.add_run(self.plan, &lock(self.record), &nemesis, observer.view().leader_changes());
        result?;
        drop(observer);
        fleet.kill_all();
        fleet.check_logs()?;
        compare_logs(&fleet.logs())
    }

    fn round(&mut self, number: usize, events: &[Event], nemesis: &mut Nemesis) -> Result<()> {
        let crowd = self.start_clients(number, nemesis.fleet);
        lock(self.record).start_listening();
        let played = nemesis.play(events, &|| crowd.is_over());
        let served = played.and_then(|()| self.serve(nemesis, &crowd));
        // What a client has met explains more than that the cluster does not serve.
        crowd.stop()?;
        served?;
        nemesis.finish_errands();
        self.audit(nemesis.fleet)?;
        self.converge(nemesis)?;
        self.summary.undecided += lock(self.record).judge()? as u64;
        Ok(())
    }

    fn start_clients(&self, round: usize, fleet: &Fleet) -> Crowd {
        let stop = Arc::<AtomicBool>::default();
        let threads = (0..self.plan.clients).map(|number| {
            let client = self.client(number, 100 * round + number, fleet, &stop);
            std::thread::spawn(move || client.work())
        });
        Crowd { threads: threads.collect(), stop }
    }

    fn client(&self, number: usize, purpose: usize, fleet: &Fleet, stop: &Arc<AtomicBool>) -> Client {
        let random = Random::new(self.plan.seed, 1000 + purpose as u64);
        let timeout = Duration::from_millis(REPLY_TIMEOUTS_MS[number / 3 % REPLY_TIMEOUTS_MS.len()]);
        let session = Session::new(fleet.roster.clone(), random, timeout, Arc::clone(stop));
        let reads = Habit::of(number) == Habit::Reader;
        Client {
            number,
            session: if reads { session.readonly() } else { session },
            record: Arc::clone(self.record),
            workload: Arc::clone(&self.workload),
            think_us: self.plan.think_us,
        }
    }

    /// All faults are over: the cluster must answer again.
    fn serve(&self, nemesis: &mut Nemesis, crowd: &Crowd) -> Result<()> {
        nemesis.heal();
        let goal = lock(self.record).answers() + SERVED;
        let deadline = Instant::now() + self.bound;
        while lock(self.record).answers() < goal && !crowd.is_over() {
            nemesis.tick()?;
            if Instant::now() > deadline {
                return Err(not_alive("service", self.bound, nemesis.fleet));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Reads everything: what was acknowledged must be there.
    fn audit(&self, fleet: &Fleet) -> Result<()> {
        let mut reader = self.client(3, 99, fleet, &Arc::default());
        let deadline = Instant::now() + self.bound;
        for bundle in 0..lock(&self.workload).bundles() {
            loop {
                let answered = match Kind::of(bundle) {
                    Kind::Data => reader.read_all(bundle)?,
                    Kind::Lock => reader.read(bundle)? && reader.read_members(bundle)?,
                };
                if answered {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(not_alive("answer to a last read", self.bound, fleet));
                }
            }
        }
        Ok(())
    }

    fn converge(&self, nemesis: &mut Nemesis) -> Result<()> {
        let mut deadline = Instant::now() + self.bound;
        while !nemesis.fleet.has_converged() {
            nemesis.tick()?;
            if Instant::now() > deadline {
                return Err(not_alive("agreement of all nodes", self.bound, nemesis.fleet));
            }
            nemesis.fleet.retire_removed();
            if nemesis.join_again() {
                deadline = Instant::now() + self.bound;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Every log is whole, and where two logs have entries in common, they are the same.
fn compare_logs(logs: &[PathBuf]) -> Result<()> {
    let run = |command: &str, directories: &[&PathBuf]| {
        let paths = directories.iter().map(|path| path.to_str().expect("paths of a test are UTF-8"));
        let arguments: Vec<&str> = std::iter::once(command).chain(paths).collect();
        let output = damage::raftlog_tool(&arguments);
        if output.status.success() {
            return Ok(());
        }
        let text = [output.stdout, output.stderr].concat();
        Err(Violation::Logs {
            command: arguments.join(" "),
            output: String::from_utf8_lossy(&text).into_owned(),
        })
    };
    logs.iter().try_for_each(|log| run("verify", &[log]))?;
    logs[1..].iter().try_for_each(|log| run("diff", &[&logs[0], log]))
}
