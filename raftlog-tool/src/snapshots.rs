//! The snapshots beside a log: what the log begins behind, and whether both meet.

use std::path::Path;

use redisraft::log::disk::SystemDisk;
use redisraft::log::meta::Meta;
use redisraft::node::members::Members;
use redisraft::snapshot::{survey, About, Depth, SnapshotError};
use serde::Serialize;
use serde_json::{json, Value};

use crate::failure::Failure;
use crate::text::size;

/// What a start would find.
#[derive(Default)]
pub struct Snapshots {
    /// The newest intact one.
    pub newest: Option<About>,
    /// What is wrong with others.
    pub damaged: Vec<SnapshotError>,
}

/// How a log and the newest snapshot fit together.
#[derive(Debug, PartialEq, Eq)]
pub enum Meeting {
    /// The log holds all entries, and nothing else is there.
    NoSnapshot,
    Meet,
    /// The snapshot is of an entry that the log does not reach: an installation was interrupted.
    Ahead,
    /// Entries are in neither: why, and what to do.
    Gap(String),
}

#[derive(Serialize)]
pub struct SnapshotObject {
    file: String,
    index: u64,
    term: u64,
    bytes: u64,
    crc: String,
    members: Vec<u64>,
    used_ids: usize,
}

impl Snapshots {
    pub fn find(directory: &Path, meta: &Meta, depth: Depth) -> Result<Snapshots, Failure> {
        let cluster_id = String::from_utf8_lossy(&meta.owner.cluster_id).into_owned();
        let found = survey(&SystemDisk, directory, &cluster_id, depth)
            .map_err(|error| Failure::Snapshot(Box::new(error)))?;
        let mut snapshots = Snapshots::default();
        for pair in found {
            match pair {
                Ok(about) if snapshots.newest.is_none() => snapshots.newest = Some(about),
                Ok(_) => {}
                Err(error) => snapshots.damaged.push(error),
            }
        }
        Ok(snapshots)
    }

    /// Of the newest; 0 without one.
    pub fn index(&self) -> u64 {
        self.newest.as_ref().map_or(0, |about| about.id.index)
    }

    /// How the newest snapshot fits to a log that begins behind `base` and ends at `last`.
    pub fn meet(&self, directory: &Path, base: u64, last: u64) -> Meeting {
        let advice = "restore the missing snapshot-*.rdb and its .about, or move the directory away and let the node join anew";
        let directory = directory.display();
        match (&self.newest, base) {
            (None, 0) => Meeting::NoSnapshot,
            (None, base) => Meeting::Gap(format!(
                "{directory}: the log begins behind entry {base}, and no intact snapshot holds what was before: {advice}"
            )),
            (Some(about), base) if about.id.index < base => Meeting::Gap(format!(
                "{directory}: the newest intact snapshot is of entry {}, the log begins behind entry {base}: what is between \
                 is missing: {advice}",
                about.id.index
            )),
            (Some(about), _) if about.id.index > last => Meeting::Ahead,
            (Some(_), _) => Meeting::Meet,
        }
    }

    /// One line for people; `None` without a snapshot.
    pub fn line(&self) -> Option<String> {
        let about = self.newest.as_ref()?;
        let object = SnapshotObject::of(about);
        let members: Vec<String> = object.members.iter().map(u64::to_string).collect();
        Some(format!(
            "of entry {} of term {}, {} in {}, members {}",
            about.id.index,
            about.id.term,
            size(about.id.bytes),
            about.file_name(),
            if members.is_empty() { "none".to_string() } else { members.join(" ") },
        ))
    }

    pub fn json(&self) -> Value {
        json!(self.newest.as_ref().map(SnapshotObject::of))
    }

    pub fn damaged_json(&self) -> Vec<String> {
        self.damaged.iter().map(ToString::to_string).collect()
    }
}

impl SnapshotObject {
    pub fn of(about: &About) -> SnapshotObject {
        let members =
            Members::decode(&about.members).map_or(Vec::new(), |members| members.0.into_keys().collect());
        SnapshotObject {
            file: about.file_name(),
            index: about.id.index,
            term: about.id.term,
            bytes: about.id.bytes,
            crc: format!("{:08x}", about.id.crc),
            members,
            used_ids: about.used_ids.len(),
        }
    }
}
