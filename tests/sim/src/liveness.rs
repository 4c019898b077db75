//! The second phase: nothing goes wrong any more, and the cluster has to converge and serve within a bound.

use crate::client::Client;
use crate::linearizability::{judge, Verdict};
use crate::network::Host;
use crate::redis::Step;
use crate::simulation::{Event, Simulation};
use crate::{coverage, trace};

/// From the end of all faults to answers for everything that was ever asked.
const CONVERGE_US: u64 = 20_000_000;
/// Clients go on asking for so long.
const BUSY_US: u64 = 1_000_000;

impl Simulation {
    /// Runs the seed from its first event to the last question.
    pub fn run(&mut self) {
        let fault_us = self.plan.fault_us;
        self.run_until(fault_us, |_| false);
        self.heal();
        let healed_us = self.now_us().max(fault_us);
        self.run_until(healed_us + BUSY_US, |_| false);
        self.quiet = true;
        self.audit_from_us = self.now_us();
        self.to_audit = (0..self.workload.bundles()).collect();
        self.clients.push(Client::new());
        self.queue.after(0, Event::Audit);
        self.run_until(healed_us + CONVERGE_US, |simulation| simulation.unfinished().is_none());
        if let Some(missing) = self.unfinished() {
            panic!("no convergence within {CONVERGE_US} us after healing: {missing}\n{}", self.describe());
        }
        self.judge_history();
    }

    fn heal(&mut self) {
        self.healed = true;
        let now_us = self.plan.fault_us;
        self.network.heal();
        for one in 0..self.machines.len() {
            (0..one).for_each(|other| self.hint_up(one, other));
        }
        for host in 0..self.machines.len() {
            let machine = &mut self.machines[host];
            machine.disk.heal();
            machine.slow_sync_us = 0;
            machine.crash_in_recovery = false;
            machine.paused_until_us = machine.paused_until_us.min(now_us);
            machine.stalled_until_us = machine.stalled_until_us.min(now_us);
            match &mut machine.process {
                Some(process) => {
                    process.world.calls_left.set(None);
                    process.server.refuse_promotion = false;
                    process.server.saver.refuse = false;
                    process.world.crash_replacing_per_mille = 0;
                }
                None => self.queue.after(0, Event::Start { host }),
            }
            self.plan_turns(host);
        }
    }

    /// The last client reads every bundle once more.
    pub fn audit(&mut self) {
        let auditor = self.clients.len() - 1;
        let now_us = self.now_us();
        self.queue.after(100_000, Event::Audit);
        if self.clients[auditor].is_waiting() {
            return;
        }
        let left = self.to_audit.clone();
        self.to_audit =
            left.into_iter().filter(|bundle| !self.history.is_audited(*bundle, self.audit_from_us)).collect();
        let Some(bundle) = self.to_audit.first().copied() else { return };
        if self.clients[auditor].connection.is_none() {
            let address = self.leader().map(|host| self.machines[host].names.address.clone());
            if !self.connect(auditor, address.as_deref()) {
                return;
            }
        }
        let bundles: Vec<u32> = self.to_audit.iter().copied().filter(|b| *b < bundle + 50).collect();
        let requests = bundles
            .into_iter()
            .map(|bundle| self.clients[auditor].send(bundle, Step::ReadAll, now_us, None))
            .collect();
        self.send_requests(auditor, requests);
    }

    /// What has not converged yet.
    fn unfinished(&self) -> Option<String> {
        if self.clients.iter().any(Client::is_waiting) {
            return Some("clients wait for answers".into());
        }
        if !self.to_audit.is_empty() {
            return Some(format!("{} bundles were not read", self.to_audit.len()));
        }
        let Some(leader) = self.leader() else { return Some("nobody leads".into()) };
        let leading = self.machines[leader].process.as_ref()?.node.as_ref()?.raft();
        let last = leading.last().index;
        if last != self.judge.committed() {
            return Some("not all is committed".into());
        }
        for host in 0..self.machines.len() {
            let machine = &self.machines[host];
            if machine.refused {
                continue;
            }
            let Some(process) = &machine.process else { return Some(format!("machine {host} is down")) };
            let Some(node) = &process.node else {
                match machine.in_memory {
                    true => return Some(format!("machine {host} has not joined anew")),
                    false => continue,
                }
            };
            let raft = node.raft();
            let is_member = leading.membership().nodes().any(|id| id == node.id());
            let applied = process.world.bridge.applied();
            // Who was taken out before it got anything waits for somebody to write to it.
            let knows_itself = raft.membership().nodes().any(|id| id == node.id());
            if !is_member && knows_itself && self.judge.was_removed(node.id()) {
                return Some(format!("machine {host} does not know that node {} was removed", node.id()));
            }
            if is_member && (raft.term() != leading.term() || raft.commit() != last) {
                return Some(format!("machine {host} has committed {} of {last}", raft.commit()));
            }
            if is_member && host != leader && applied != last {
                return Some(format!("the server of machine {host} holds {applied} of {last}"));
            }
            if is_member && process.server.dataset.digest() != self.judge.digest(last) {
                return Some(format!("the server of machine {host} holds another dataset"));
            }
        }
        None
    }

    fn judge_history(&self) {
        for (bundle, events) in &self.history.bundles {
            match judge(events) {
                Verdict::Linearizable => coverage::mark("bundle is linearizable"),
                Verdict::Undecided => coverage::mark(coverage::UNDECIDED),
                Verdict::Impossible => {
                    let lines: Vec<String> = events.iter().map(|event| format!("  {event:?}")).collect();
                    panic!("bundle {bundle} is not linearizable:\n{}", lines.join("\n"));
                }
            }
        }
    }

    /// One line for each machine.
    pub fn describe(&self) -> String {
        trace::set_time(self.now_us());
        let line = |host: Host| {
            let machine = &self.machines[host];
            let Some(process) = &machine.process else {
                return format!("m{host}: down{}", if machine.refused { ", its log is refused" } else { "" });
            };
            let Some(node) = &process.node else { return format!("m{host}: no member") };
            let raft = node.raft();
            format!(
                "m{host}: node {} {:?} term {} leader {:?} commit {} durable {} last {:?} applied {} gate {} {:?}",
                node.id(),
                raft.role(),
                raft.term(),
                raft.leader(),
                raft.commit(),
                raft.durable(),
                raft.last(),
                process.world.bridge.applied(),
                process.server.gate_is_open(),
                raft.membership()
            )
        };
        (0..self.machines.len()).map(line).collect::<Vec<_>>().join("\n")
    }
}
