//! What a run can find.

/// Why a run has failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Violation {
    /// The run itself could not be made.
    #[error("cannot run: {0}")]
    Setup(String),
    #[error("node {node} ended by itself, and no fault explains it")]
    Ended { node: usize },
    #[error("node {node} does not start again: it was given {seconds} s without any fault")]
    DoesNotStart { node: usize, seconds: u64 },
    #[error("the log of the server {node} reports a crash: {line}")]
    Crash { node: usize, line: String },
    #[error("two leaders in term {term}: nodes {first} and {second}")]
    TwoLeaders { term: u64, first: u64, second: u64 },
    #[error("client {client}: {command} was answered with {reply}")]
    Reply { client: usize, command: String, reply: String },
    #[error("client {client}: its MULTI was refused and the commands behind it were run: {replies}")]
    RanWithoutMulti { client: usize, replies: String },
    #[error("no {what} within {seconds} s after all faults were over:\n{states}")]
    NotAlive { what: &'static str, seconds: u64, states: String },
    #[error("what clients saw of bundle {bundle} is not linearizable: see history.txt")]
    NotLinearizable { bundle: u32 },
    #[error("{count} of {bundles} bundles could not be judged")]
    Undecided { count: usize, bundles: usize },
    #[error("raftlog-tool {command} on the logs of the nodes, all of which had converged:\n{output}")]
    Logs { command: String, output: String },
    #[error("the run proves nothing: {0}")]
    Vacuous(String),
}

pub type Result<T> = std::result::Result<T, Violation>;
