//! What goes wrong, drawn from the seed's plan. The *atlas* keeps the sum survivable: disks that damage what they have
//! stored stay fewer than what a majority can lose, so that every failure is a defect of the code.

use crate::coverage;
use crate::disk::{Crash, Failure};
use crate::network::Host;
use crate::plan::Weights;
use crate::redis::Kill;
use crate::simulation::{Event, Simulation};
use redisraft::node::bridge::ToRaft;
use redisraft::node::settings::Settings;
use std::sync::Arc;

type Fault = fn(&mut Simulation, Host);

fn table(weights: &Weights) -> [(u64, Fault); 26] {
    [
        (weights.crash, |simulation, host| simulation.crash(host)),
        (weights.crash_inside, Simulation::crash_inside),
        (weights.power_loss, Simulation::crash_several),
        (weights.partition, Simulation::partition),
        (weights.reconnect, |simulation, _| simulation.reconnect()),
        (weights.pause, Simulation::pause),
        (weights.stall_main, Simulation::stall_main),
        (weights.clock, Simulation::disturb_clock),
        (weights.cut_feed, |simulation, host| simulation.cut_local(host, Kill::Feed)),
        (weights.cut_capture, |simulation, host| simulation.cut_local(host, Kill::Capture)),
        (weights.false_hint, Simulation::false_hint),
        (weights.slow_disk, Simulation::slow_disk),
        (weights.disk_error, Simulation::disk_error),
        (weights.disk_full, Simulation::disk_full),
        (weights.damage, Simulation::damage),
        (weights.reconfigure, Simulation::reconfigure),
        (weights.refuse_promotion, Simulation::refuse_promotion),
        (weights.transfer, Simulation::transfer),
        (weights.compact, Simulation::compact),
        (weights.refuse_fork, Simulation::refuse_fork),
        (weights.remove, Simulation::remove_nodes),
        (weights.rolling_restart, |simulation, _| simulation.restart_all()),
        (weights.chain, Simulation::chain),
        (weights.bridge, Simulation::bridge),
        (weights.half_open, Simulation::half_open),
        (weights.stale_segment, Simulation::put_segment_back),
    ]
}

impl Simulation {
    /// One fault, and the time of the next.
    pub fn fault(&mut self) {
        if self.healed {
            return;
        }
        let period_us = self.faults.below(2 * self.plan.fault_period_us);
        self.queue.after(period_us, Event::Fault);
        let table = table(&self.plan.weights);
        let mut drawn = self.faults.below(table.iter().map(|(weight, _)| weight).sum());
        // Leaders are hit more often: what they alone hold is what can go wrong.
        let anybody = self.faults.index(self.machines.len());
        let host = self.leader().filter(|_| self.faults.chance(400)).unwrap_or(anybody);
        for (weight, fault) in table {
            if drawn < weight {
                return fault(self, host);
            }
            drawn -= weight;
        }
    }

    /// The process dies between two calls of one of its next turns.
    fn crash_inside(&mut self, host: Host) {
        let calls = self.faults.between(1, 12);
        if self.faults.chance(150) {
            self.machines[host].crash_in_recovery = true;
        }
        if self.machines[host].in_memory {
            return; // it may die only where the atlas allows it
        }
        if let Some(process) = &mut self.machines[host].process {
            process.world.calls_left.set(Some(calls));
        }
    }

    /// The lights go out, for some or for all.
    fn crash_several(&mut self, host: Host) {
        let all = self.faults.chance(300);
        for other in 0..self.machines.len() {
            if other == host || all || self.faults.chance(300) {
                self.crash_as(other, Crash::Power);
            }
        }
        coverage::mark(if all { "all machines lost power" } else { "some machines lost power" });
    }

    fn partition(&mut self, host: Host) {
        let count = self.machines.len();
        let other = self.faults.index(count);
        match self.faults.below(6) {
            0 => {
                coverage::mark("one machine cut off");
                (0..count).for_each(|peer| self.network.cut_pair(host, peer));
            }
            1 => {
                coverage::mark("one direction cut");
                self.network.cut_direction(host, other);
            }
            2 => {
                coverage::mark("one pair cut");
                self.network.cut_pair(host, other);
            }
            3 => {
                coverage::mark("machine cannot be heard");
                (0..count).for_each(|peer| self.network.cut_direction(host, peer));
            }
            4 => {
                coverage::mark("link flaps");
                for i in 0..self.faults.between(2, 6) {
                    self.hint_down(host, other);
                    self.queue.after(30_000 * i, Event::Reconnect { one: host, other });
                }
            }
            _ => {
                coverage::mark("two sides");
                let side = self.faults.draw();
                self.cut_in_two(side);
            }
        }
        // A broken connection is sometimes noticed, a silent one never.
        if self.faults.chance(300) {
            self.hint_down(other, host);
        }
    }

    /// Two sides that do not see each other: those whose bit is set, and the others.
    pub fn cut_in_two(&mut self, side: u64) {
        for one in 0..self.machines.len() {
            for other in 0..one {
                if side >> one & 1 != side >> other & 1 {
                    self.network.cut_pair(one, other);
                }
            }
        }
    }

    pub fn reconnect(&mut self) {
        for (one, other) in self.network.reconnect() {
            if one < other || self.faults.chance(500) {
                self.hint_up(one, other);
            }
        }
    }

    /// SIGSTOP, or a machine that is suspended: then its clock has gone on, too.
    fn pause(&mut self, host: Host) {
        coverage::mark("process paused");
        let typical_us = *self.faults.pick(&[20_000, 300_000, 2_000_000]);
        let pause_us = self.faults.below(2 * typical_us);
        self.machines[host].paused_until_us = self.now_us() + pause_us;
    }

    fn stall_main(&mut self, host: Host) {
        coverage::mark("main thread stalled");
        let typical_us = *self.faults.pick(&[5_000, 100_000, 1_000_000]);
        let stall_us = self.faults.below(2 * typical_us);
        self.machines[host].stalled_until_us = self.now_us() + stall_us;
    }

    fn disturb_clock(&mut self, host: Host) {
        coverage::mark("clock disturbed");
        let now_us = self.now_us();
        let machine = &mut self.machines[host];
        match self.faults.below(3) {
            // A lease stands on clocks that are not off by more than a tenth.
            1 if self.plan.read_lease => {}
            0 => machine.clock.set_rate(now_us, self.faults.between(900_000, 1_100_000)),
            1 => machine.clock.jump(now_us, self.faults.below(3_000_000)),
            _ => machine.wall_skew_ms = self.faults.below(10_000),
        }
        self.plan_turns(host);
    }

    /// `CLIENT KILL TYPE master` or `TYPE replica`.
    pub fn cut_local(&mut self, host: Host, kill: Kill) {
        if let Some(process) = &mut self.machines[host].process {
            process.cut_local(kill, &mut self.faults);
            self.plan_turns(host);
        }
    }

    fn false_hint(&mut self, host: Host) {
        coverage::mark("false hint of a dead peer");
        let other = self.faults.index(self.machines.len());
        match self.faults.chance(700) {
            true => self.hint_down(host, other),
            false => self.hint_up(host, other),
        }
    }

    fn slow_disk(&mut self, host: Host) {
        let slow_us = *self.faults.pick(&[10_000, 200_000, 3_000_000]);
        coverage::mark(if slow_us > 1_000_000 { "disk hangs" } else { "disk is slow" });
        self.machines[host].slow_sync_us = slow_us;
        let for_us = self.faults.below(3_000_000);
        self.queue.after(for_us, Event::SlowDiskOver { host });
    }

    fn disk_error(&mut self, host: Host) {
        let failure = *self.faults.pick(&[Failure::Sync, Failure::Write, Failure::Read]);
        coverage::mark(match failure {
            Failure::Sync => "fsync fails",
            Failure::Write => "write fails",
            Failure::Read => "read fails",
        });
        if !self.machines[host].in_memory {
            self.machines[host].disk.fail_next(failure);
        }
    }

    fn disk_full(&mut self, host: Host) {
        coverage::mark("disk full");
        self.machines[host].disk.set_full(!self.machines[host].in_memory);
        let for_us = self.faults.below(2_000_000);
        self.queue.after(for_us, Event::DiskFullOver { host });
    }

    /// Whether this machine's disk may damage what it stores: with all that did so far, a majority is sound.
    pub fn atlas_allows(&mut self, host: Host) -> bool {
        let damaged = self.machines.iter().filter(|machine| machine.may_be_damaged).count();
        let fits =
            host < self.plan.founders && self.plan.joiners == 0 && damaged < (self.plan.founders - 1) / 2;
        let machine = &mut self.machines[host];
        machine.may_be_damaged |= fits;
        machine.may_be_damaged
    }

    fn damage(&mut self, host: Host) {
        if !self.atlas_allows(host) {
            return;
        }
        let disk = &self.machines[host].disk;
        if self.faults.chance(300) {
            coverage::mark("disk loses writes");
            return disk.set_lying(100);
        }
        if let Some(damage) = disk.rot() {
            coverage::mark("stored bytes damaged");
            log::info!("machine {host}: {damage:?}");
        }
    }

    /// Takes a backup of a segment; or somebody puts it back, alone, while the process is down.
    fn put_segment_back(&mut self, host: Host) {
        if !self.atlas_allows(host) {
            return;
        }
        let Some((name, copy)) = self.machines[host].backup.take() else {
            self.machines[host].backup = self.machines[host].disk.copy_segment();
            return;
        };
        self.crash_as(host, Crash::Process);
        if self.machines[host].disk.put_back(&name, copy) {
            coverage::mark("stale segment put back");
            log::info!("machine {host}: {name} is put back from a backup");
        }
    }

    fn reconfigure(&mut self, host: Host) {
        let machine = &mut self.machines[host];
        let Some(process) = machine.process.as_mut().filter(|process| process.node.is_some()) else { return };
        coverage::mark("settings changed");
        let settings = Settings {
            append_req_max_count: self.faults.between(1, 16),
            election_timeout_ms: self.plan.request_timeout_ms * self.faults.between(3, 10),
            ..(*machine.settings).clone()
        };
        machine.settings = Arc::new(settings);
        process.world.bridge.tell_raft(ToRaft::Configure(machine.settings.clone()));
        self.plan_turns(host);
    }

    /// `RAFT.TRANSFER_LEADER`, to anybody or to somebody.
    fn transfer(&mut self, host: Host) {
        let target = match self.faults.chance(500) {
            true => None,
            false => self.machines[self.faults.index(self.machines.len())].node_id(),
        };
        let machine = &mut self.machines[host];
        if let Some(process) = machine.process.as_mut().filter(|process| process.node.is_some()) {
            let ticket = process.server.new_ticket();
            machine.transfers.insert(ticket);
            process.world.bridge.tell_raft(ToRaft::Transfer { ticket, target });
            self.plan_turns(host);
        }
    }

    /// `RAFT.DEBUG COMPACT`.
    fn compact(&mut self, host: Host) {
        let wait = self.faults.chance(500);
        let Some(process) = self.machines[host].process.as_mut().filter(|process| process.node.is_some())
        else {
            return;
        };
        coverage::mark("snapshot asked for");
        let ticket = process.server.new_ticket();
        process.world.bridge.tell_raft(ToRaft::Compact { ticket, wait });
        self.plan_turns(host);
    }

    /// The next fork of this server fails.
    fn refuse_fork(&mut self, host: Host) {
        if let Some(process) = &mut self.machines[host].process {
            process.server.saver.refuse = true;
        }
    }

    /// The next promotion of this server fails.
    fn refuse_promotion(&mut self, host: Host) {
        let machine = &mut self.machines[host];
        if let Some(process) = machine.process.as_mut().filter(|_| !machine.in_memory) {
            process.server.refuse_promotion = true;
        }
    }
}
