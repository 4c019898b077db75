//! Between clients and servers: connections, requests, replies, and the ends of all three.

use crate::client::Next;
use crate::coverage;
use crate::network::Host;
use crate::redis::{Delivery, Request};
use crate::simulation::{Event, Simulation};
use redisraft::node::bridge::Answer;

impl Simulation {
    /// A client may ask now.
    pub fn client_acts(&mut self, client: usize) {
        if self.quiet || self.clients[client].is_waiting() {
            return;
        }
        let now_us = self.now_us();
        if self.clients[client].connection.is_none() && !self.connect(client, None) {
            return self.queue.after(20_000, Event::ClientActs { client });
        }
        let requests =
            self.clients[client].ask(now_us, self.plan.pipeline, &mut self.workload, &mut self.asking);
        self.send_requests(client, requests);
    }

    /// Connects to the server of this address, or to any. False: nobody is there.
    pub fn connect(&mut self, client: usize, address: Option<&str>) -> bool {
        let anybody = self.asking.index(self.machines.len());
        let host = address
            .and_then(|address| self.machines.iter().position(|machine| machine.names.address == address))
            .unwrap_or(anybody);
        let machine = &mut self.machines[host];
        let Some(process) = &mut machine.process else { return false };
        self.connections_made += 1;
        process.server.connect(self.connections_made, self.clients[client].reads_anywhere);
        self.connections.insert(self.connections_made, (host, machine.life, client));
        self.clients[client].connection = Some((self.connections_made, host));
        true
    }

    pub fn send_requests(&mut self, client: usize, requests: Vec<Request>) {
        let (connection, host) = self.clients[client].connection.expect("connected");
        let life = self.connections[&connection].1;
        let request = self.clients[client].last_request();
        let delay_us = self.network.client_delay_us();
        self.queue.after(delay_us, Event::ToServer { host, life, connection, requests });
        let patience_us = 200_000 + self.asking.below(1_500_000);
        self.queue.after(patience_us, Event::ClientTimeout { client, connection, request });
    }

    pub fn reach_server(&mut self, host: Host, life: u64, connection: u64, requests: Vec<Request>) {
        let Some(process) = self.machines[host].process_of(life) else { return };
        for request in requests {
            if !process.server.receive(connection, request) {
                return; // closed by the server; the client hears of it
            }
        }
        self.plan_turns(host);
    }

    pub fn client_gone(&mut self, host: Host, life: u64, connection: u64) {
        if let Some(process) = self.machines[host].process_of(life) {
            process.server.client_closed(connection);
            self.plan_turns(host);
        }
    }

    /// The client has waited long enough: it closes, and does not know what became of its requests.
    pub fn client_timeout(&mut self, client: usize, connection: u64, request: u64) {
        let waits = self.clients[client].is_waiting() && self.clients[client].last_request() == request;
        if waits && self.clients[client].connection.is_some_and(|(own, _)| own == connection) {
            coverage::mark("client gave up waiting");
            self.disconnect(client);
            self.queue.after(self.plan.think_us, Event::ClientActs { client });
        }
    }

    fn disconnect(&mut self, client: usize) {
        if let Some((connection, _)) = self.clients[client].connection {
            if let Some((host, life, _)) = self.connections.remove(&connection) {
                let delay_us = self.network.client_delay_us();
                self.queue.after(delay_us, Event::ClientGone { host, life, connection });
            }
        }
        self.clients[client].disconnected(&mut self.history);
    }

    /// Of the clients of this machine only those stay that only read.
    pub fn send_writers_away(&mut self, host: Host) {
        let here = self.connections.values().filter(|to| to.0 == host).map(|to| to.2);
        let writers: Vec<usize> = here.filter(|client| !self.clients[*client].reads_anywhere).collect();
        for client in writers {
            let was_waiting = self.clients[client].is_waiting();
            self.disconnect(client);
            if was_waiting {
                self.queue.after(self.plan.think_us, Event::ClientActs { client });
            }
        }
    }

    /// All connections to a machine are reset; replies under way may still arrive.
    pub fn connections_broken(&mut self, host: Host) {
        let broken: Vec<(u64, usize)> =
            self.connections.iter().filter(|(_, to)| to.0 == host).map(|(id, to)| (*id, to.2)).collect();
        for (connection, client) in broken {
            let delay_us = self.network.client_delay_us();
            self.queue.after(delay_us, Event::ToClient { client, delivery: Delivery::Closed { connection } });
        }
    }

    /// Something leaves a server.
    pub fn deliver(&mut self, host: Host, delivery: Delivery) {
        let delay_us = self.network.client_delay_us();
        let connection = match &delivery {
            Delivery::Reply { connection, .. } | Delivery::Closed { connection } => *connection,
            Delivery::Answer { ticket, answer } => return self.answer(host, *ticket, answer.clone()),
        };
        if let Some((_, _, client)) = self.connections.get(&connection) {
            let client = *client;
            let at_us = (self.now_us() + delay_us).max(self.clients[client].last_delivery_us + 1);
            self.clients[client].last_delivery_us = at_us;
            self.queue.at(at_us, Event::ToClient { client, delivery });
        }
    }

    fn answer(&mut self, host: Host, ticket: u64, answer: Answer) {
        let now_us = self.now_us();
        if self.machines[host].transfers.remove(&ticket) {
            coverage::mark(if answer == Answer::Ok { "leadership handed over" } else { "transfer refused" });
        }
        if let Some(id) = self.machines[host].removals.remove(&ticket) {
            self.removal_answered(host, id, &answer);
        }
        let Some((joiner, life)) = self.machines[host].tickets.remove(&ticket) else { return };
        for at_us in self.network.arrivals(host, joiner, now_us).into_iter().take(1) {
            self.queue.at(at_us, Event::Invited { joiner, life, answer: answer.clone() });
        }
    }

    pub fn reach_client(&mut self, client: usize, delivery: Delivery) {
        let now_us = self.now_us();
        let (Delivery::Reply { connection, .. } | Delivery::Closed { connection }) = delivery else { return };
        if self.clients[client].connection.is_none_or(|(own, _)| own != connection) {
            return; // of a connection that the client has closed
        }
        self.note(connection);
        let think_us = 1 + self.asking.below(2 * self.plan.think_us);
        match delivery {
            Delivery::Reply { number, reply, .. } => {
                match self.clients[client].receive(number, reply, now_us, &mut self.history) {
                    Next::Wait => {}
                    Next::Think => {
                        // Who reads anywhere does not stay with the leader that it was sent to.
                        if self.clients[client].reads_anywhere && self.asking.chance(100) {
                            self.disconnect(client);
                        }
                        self.queue.after(think_us, Event::ClientActs { client });
                    }
                    Next::Reconnect { address } => {
                        self.disconnect(client);
                        self.connect(client, address.as_deref());
                        self.queue.after(think_us, Event::ClientActs { client });
                    }
                }
            }
            _ => {
                self.connections.remove(&connection);
                self.clients[client].disconnected(&mut self.history);
                self.queue.after(think_us, Event::ClientActs { client });
            }
        }
    }
}
