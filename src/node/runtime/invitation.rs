//! Asking for an invitation into a cluster: any of several addresses may give it.
//!
//! Blocking, to be run on a short-lived thread of its own.

use crate::consensus::NodeId;
use crate::limits::SECRET_BYTES;
use crate::link::join::{request, JoinError};
use crate::node::members::Members;
use crate::resp::Reply;
use std::time::{Duration, Instant};

/// Invitation by a cluster, or why there is none.
pub(super) type JoinResult = Result<Invitation, String>;

/// What a member answered to `RAFT.NODE INVITE`.
#[derive(Debug)]
pub(super) struct Invitation {
    pub id: NodeId,
    pub cluster_id: String,
    pub secret: [u8; SECRET_BYTES],
    pub members: Members,
}

/// What a node says of itself when it asks to be invited.
pub(super) struct Joiner {
    /// 0: it has no wish.
    pub id: NodeId,
    pub address: String,
    pub peer_address: String,
    pub in_memory: bool,
}

/// How long it is asked.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// All addresses together.
    pub whole: Duration,
    /// One address, redirects included.
    pub request: Duration,
}

/// Pause before the addresses are asked once more.
const PAUSE: Duration = Duration::from_millis(200);

/// Why an address gave no invitation.
#[derive(Clone, PartialEq, Eq)]
enum Obstacle {
    /// It may be over the next time: nobody there, no leader yet.
    Passing(String),
    /// The answer would be the same again.
    Lasting(String),
}

impl Obstacle {
    fn text(&self) -> &str {
        match self {
            Obstacle::Passing(text) | Obstacle::Lasting(text) => text,
        }
    }
}

/// Asks one address after the other until one invites; again while one of them may come to, and the patience lasts.
///
/// Errors: what each address said last.
pub(super) fn ask(
    addresses: &[String],
    credentials: Option<(String, String)>,
    joiner: &Joiner,
    patience: Patience,
) -> JoinResult {
    let until = Instant::now() + patience.whole;
    let credentials = credentials.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
    let mut obstacles: Vec<Option<Obstacle>> = vec![None; addresses.len()];
    loop {
        for (address, obstacle) in addresses.iter().zip(&mut obstacles) {
            let timeout = patience.request.min(until.saturating_duration_since(Instant::now()));
            if timeout.is_zero() && obstacle.is_some() {
                break; // what it said before says more than that there is no time left
            }
            match ask_one(address, credentials, joiner, timeout) {
                Ok(invitation) => return Ok(invitation),
                Err(found) if obstacle.as_ref() != Some(&found) => {
                    log::warn!("no invitation into a cluster yet: {}", found.text());
                    *obstacle = Some(found);
                }
                Err(_) => {}
            }
        }
        let reasons: Vec<&str> = obstacles.iter().flatten().map(Obstacle::text).collect();
        let reasons = reasons.join("; ");
        if obstacles.iter().flatten().all(|obstacle| matches!(obstacle, Obstacle::Lasting(_))) {
            return Err(reasons);
        }
        if Instant::now() + PAUSE >= until {
            return Err(format!("gave up after {} ms: {reasons}", patience.whole.as_millis()));
        }
        std::thread::sleep(PAUSE);
    }
}

fn ask_one(
    address: &str,
    credentials: Option<(&str, &str)>,
    Joiner { id, address: own, peer_address, in_memory }: &Joiner,
    timeout: Duration,
) -> Result<Invitation, Obstacle> {
    let id = id.to_string();
    let words: [&[u8]; 6] =
        [b"RAFT.NODE", b"INVITE", id.as_bytes(), own.as_bytes(), peer_address.as_bytes(), b"MEMORY"];
    let args = if *in_memory { &words } else { &words[..5] };
    match request(address, credentials, args, timeout) {
        Ok(Reply::Error(error)) => {
            // Who has no leader, and who still loads its data, knows more in a moment.
            let passing = error.starts_with("CLUSTERDOWN") || error.starts_with("LOADING");
            let text = format!("{address} refused: {error}");
            Err(if passing { Obstacle::Passing(text) } else { Obstacle::Lasting(text) })
        }
        Ok(reply) => decode(reply)
            .ok_or_else(|| Obstacle::Lasting(format!("{address} gave an answer that is no invitation"))),
        Err(error @ (JoinError::Credentials { .. } | JoinError::Protocol { .. })) => {
            Err(Obstacle::Lasting(error.to_string()))
        }
        Err(error) => Err(Obstacle::Passing(error.to_string())),
    }
}

/// `[id, cluster id, secret, members]`.
fn decode(reply: Reply) -> Option<Invitation> {
    let Reply::Array(fields) = reply else { return None };
    match <[Reply; 4]>::try_from(fields).ok()? {
        [Reply::Integer(id), Reply::Bulk(cluster_id), Reply::Bulk(secret), Reply::Bulk(members)] => {
            Some(Invitation {
                id: u64::try_from(id).ok().filter(|id| *id != 0)?,
                cluster_id: String::from_utf8(cluster_id.to_vec()).ok()?,
                secret: secret.to_vec().try_into().ok()?,
                members: Members::decode(&members).ok()?,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::members::Member;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A port that no program of today listens on.
    const NOBODY: &str = "127.0.0.1:1";
    const PATIENT: Patience = Patience { whole: Duration::from_secs(60), request: Duration::from_secs(60) };

    fn joiner() -> Joiner {
        Joiner { id: 0, address: "h:1".into(), peer_address: "h:2".into(), in_memory: false }
    }

    /// Gives these answers, one on each connection, and then is not there any more. Returns its address.
    fn answering(answers: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a connection");
                // The request is one small write.
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(&answer);
            }
        });
        address
    }

    fn invitation() -> Vec<u8> {
        let member =
            Member { voting: true, address: "a:1".into(), peer_address: "a:2".into(), in_memory: false };
        let members = Members([(7, member)].into()).encode();
        let (cluster, secret) = ("c".repeat(32), [b's'; SECRET_BYTES]);
        let mut reply = b"*4\r\n:9\r\n".to_vec();
        for field in [cluster.as_bytes(), &secret, &members] {
            reply.extend_from_slice(format!("${}\r\n", field.len()).as_bytes());
            reply.extend_from_slice(field);
            reply.extend_from_slice(b"\r\n");
        }
        reply
    }

    fn ask_these(addresses: &[String]) -> JoinResult {
        ask(addresses, None, &joiner(), PATIENT)
    }

    #[test]
    fn whoever_refuses_or_talks_nonsense_the_next_one_is_asked() {
        for wrong in ["-ERR unknown command", "-NOCLUSTER No Raft Cluster", "+OK", "*1\r\n:3", "HTTP/1.1 400"]
        {
            let wrong = answering(vec![format!("{wrong}\r\n").into_bytes()]);
            let right = answering(vec![invitation()]);
            let invited = ask_these(&[wrong, NOBODY.to_string(), right]).expect("an invitation");
            assert_eq!((invited.id, invited.members.0.len()), (9, 1));
        }
    }

    #[test]
    fn where_all_refuse_the_reasons_of_all_are_told_at_once() {
        let one = answering(vec![b"-ERR node id 3 was used already\r\n".to_vec()]);
        let two = answering(vec![b"-NOCLUSTER No Raft Cluster\r\n".to_vec()]);
        let reason = ask_these(&[one.clone(), two.clone()]).expect_err("no invitation");
        assert_eq!(
            reason,
            format!(
                "{one} refused: ERR node id 3 was used already; {two} refused: NOCLUSTER No Raft Cluster"
            )
        );
    }

    #[test]
    fn who_has_no_leader_is_asked_again_also_beside_one_that_refuses() {
        let down = answering(vec![b"-CLUSTERDOWN No Raft leader\r\n".to_vec(), invitation()]);
        let plain = answering(vec![b"-ERR unknown command\r\n".to_vec(); 2]);
        assert_eq!(ask_these(&[plain, down]).expect("an invitation").id, 9);
    }

    #[test]
    fn what_is_not_there_is_given_up_when_the_patience_ends() {
        let patience = Patience { whole: Duration::from_millis(1), ..PATIENT };
        let reason = ask(&[NOBODY.to_string()], None, &joiner(), patience).expect_err("no invitation");
        assert!(reason.starts_with("gave up after 1 ms: ") && reason.contains(NOBODY), "{reason}");
    }
}
