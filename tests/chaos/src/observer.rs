//! Looks at all nodes all the time: who leads, and that no term has two leaders.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cluster::parse_info;
use crate::session::{ask, Roster};
use crate::violation::Violation;

const PERIOD: Duration = Duration::from_millis(50);
/// A node that takes longer is passed over.
const PATIENCE: Duration = Duration::from_millis(200);

/// What has been seen so far.
#[derive(Default)]
pub struct View {
    /// The leader of each term, by its id.
    leaders: BTreeMap<u64, u64>,
    /// The id of each node that has one.
    pub ids: BTreeMap<usize, u64>,
    /// Who said last that it leads.
    pub leader: Option<usize>,
    violation: Option<Violation>,
}

impl View {
    /// How often another node, or the same one again, has come to lead.
    pub fn leader_changes(&self) -> u64 {
        (self.leaders.len() as u64).saturating_sub(1)
    }

    fn note(&mut self, node: usize, text: &str) {
        let info = parse_info(text);
        let number = |name: &str| info.get(name).and_then(|value| value.parse::<u64>().ok());
        let (Some(id), Some(term)) = (number("raft_node_id"), number("raft_current_term")) else { return };
        if id == 0 {
            return;
        }
        self.ids.insert(node, id);
        if info.get("raft_role").is_none_or(|role| role != "leader") {
            return;
        }
        let first = *self.leaders.entry(term).or_insert(id);
        if first != id {
            self.violation.get_or_insert(Violation::TwoLeaders { term, first, second: id });
        }
        if self.leaders.keys().next_back() == Some(&term) {
            self.leader = Some(node);
        }
    }
}

/// A thread that looks, until it is dropped.
pub struct Observer {
    view: Arc<Mutex<View>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    pub fn start(roster: Roster) -> Observer {
        let (view, stop) = (Arc::<Mutex<View>>::default(), Arc::<AtomicBool>::default());
        let thread = {
            let (view, stop) = (Arc::clone(&view), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for (node, port) in roster.ports().into_iter().enumerate() {
                        if let Some(reply) = ask(port, "INFO raft", PATIENCE) {
                            view.lock().unwrap_or_else(PoisonError::into_inner).note(node, &reply.text());
                        }
                    }
                    std::thread::sleep(PERIOD);
                }
            })
        };
        Observer { view, stop, thread: Some(thread) }
    }

    pub fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// When what was seen may not be.
    pub fn check(&self) -> Result<(), Violation> {
        self.view().violation.clone().map_or(Ok(()), Err)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does nothing that could fail.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_of_a_term_are_noticed_and_one_after_the_other_is_fine() {
        let said = |id: u64, term: u64, role: &str| {
            format!("raft_node_id:{id}\r\nraft_current_term:{term}\r\nraft_role:{role}\r\n")
        };
        let mut view = View::default();
        view.note(0, &said(7, 1, "leader"));
        view.note(1, &said(8, 2, "leader"));
        view.note(2, &said(9, 2, "follower"));
        view.note(0, &said(7, 1, "leader"));
        assert!(view.violation.is_none() && view.leader == Some(1) && view.leader_changes() == 1);
        view.note(2, &said(9, 2, "leader"));
        assert!(matches!(view.violation, Some(Violation::TwoLeaders { term: 2, first: 8, second: 9 })));
    }
}
