//! Nodes that join: asking for an invitation, being invited, starting with an empty log.

use crate::coverage;
use crate::network::Host;
use crate::simulation::{Event, Simulation};
use redisraft::node::bridge::{Answer, ToRaft};
use redisraft::node::members::Members;
use redisraft::node::Fatal;

/// Pause before somebody else is asked.
const RETRY_US: u64 = 200_000;
/// An answer that has not come by then is not waited for.
const PATIENCE_US: u64 = 1_500_000;

impl Simulation {
    /// Plans the next question of a machine without a node, in place of any that was planned before.
    pub fn join_after(&mut self, delay_us: u64, host: Host, life: u64) {
        self.machines[host].join_at_us = self.now_us() + delay_us;
        self.queue.after(delay_us, Event::Join { host, life });
    }

    /// A machine without a log asks somebody for an invitation, again and again.
    pub fn join(&mut self, host: Host, life: u64) {
        let now_us = self.now_us();
        let Some(process) = self.machines[host].process_of(life) else { return };
        if process.node.is_some() || self.machines[host].join_at_us != now_us {
            return; // a member by now, or it was planned anew
        }
        let seeds: Vec<Host> = (0..self.machines.len()).filter(|other| *other != host).collect();
        let to = self.leader().filter(|_| self.random.chance(500)).unwrap_or(*self.random.pick(&seeds));
        if to != host {
            for at_us in self.network.arrivals(host, to, now_us).into_iter().take(1) {
                self.queue.at(at_us, Event::Invite { to, joiner: host, life });
            }
        }
        self.join_after(PATIENCE_US, host, life);
    }

    /// `RAFT.NODE INVITE` reaches a server.
    pub fn invite(&mut self, to: Host, joiner: Host, life: u64) {
        let (names, in_memory) = (self.machines[joiner].names.clone(), self.machines[joiner].in_memory);
        let machine = &mut self.machines[to];
        let Some(process) = machine.process.as_mut().filter(|process| process.node.is_some()) else { return };
        let ticket = process.server.new_ticket();
        machine.tickets.insert(ticket, (joiner, life));
        let (address, peer_address) = (names.address, names.peer_address);
        process.world.bridge.tell_raft(match in_memory {
            true => ToRaft::AddInMemory { ticket, address, peer_address },
            false => ToRaft::AddNode { ticket, id: 0, address, peer_address },
        });
        self.plan_turns(to);
    }

    /// What the cluster answered to a joiner.
    pub fn invited(&mut self, joiner: Host, life: u64, answer: Answer) {
        let machine = &mut self.machines[joiner];
        if machine.process_of(life).is_none_or(|process| process.node.is_some()) {
            return;
        }
        let Answer::Added { id, members, .. } = answer else {
            return self.join_after(RETRY_US, joiner, life);
        };
        crate::trace::set_machine(joiner);
        coverage::mark("node joined");
        if machine.in_memory && machine.last_id > 0 {
            coverage::mark("node in memory came back as another");
        }
        let now_us = self.queue.now_us();
        let created = machine.create_log(&self.plan, id, None).map_err(Into::into);
        let created = created.and_then(|mut store| Ok((machine.create_snapshots(&mut store)?, store)));
        let (snapshots, store) = match created {
            Ok(created) => created,
            Err(error) => {
                log::info!("cannot join: {}", Fatal::to_string(&error));
                machine.wipe();
                return self.join_after(RETRY_US, joiner, life);
            }
        };
        let local_us = machine.clock.local_us(now_us);
        let names = machine.names.clone();
        (machine.promise, machine.snapshot_index, machine.last_id) = (None, 0, id);
        let process = machine.process_of(life).expect("checked above");
        process.world.store = Some(store);
        process.world.replacing = None;
        process.world.snapshots = Some(snapshots);
        process.world.now_us = local_us;
        process.start_node(id, &names).expect("an empty log");
        let members = Members::decode(&members).expect("made by a node");
        process.node.as_mut().expect("just started").set_known_members(&mut process.world, members);
        if process.world.is_dead() {
            coverage::mark("crashed inside a turn");
            return self.crash(joiner);
        }
        let others: Vec<Host> = (0..self.machines.len()).filter(|other| *other != joiner).collect();
        others.into_iter().for_each(|other| self.hint_up(joiner, other));
        self.plan_turns(joiner);
    }
}
