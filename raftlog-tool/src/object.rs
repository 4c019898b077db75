//! The JSON objects of records.

use redisraft::log::record::{Mark, RecordType, BATCH_START};
use redisraft::log::scan::Record;
use redisraft::log::Hole;
use serde::Serialize;

use crate::effects::{Effect, Walk};
use crate::select::TypeName;
use crate::source::{EntryState, Item};
use crate::text::{file_name, JsonBytes};

/// Version of all JSON objects; grows when a field changes its meaning or goes away.
pub const SCHEMA: u64 = 1;

/// A record. Fields that do not apply to its type are left out.
#[derive(Serialize)]
pub struct RecordObject<'r> {
    schema: u64,
    #[serde(rename = "type")]
    type_name: &'static str,
    file: String,
    offset: u64,
    index: u64,
    term: u64,
    crc: String,
    /// When it was written, everything before it in its segment was on the disk.
    batch_start: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta_generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_crc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<EntryState>,
    /// Why the payload cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<DamageObject<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commands: Option<Vec<CommandObject<'r>>>,
    /// What stands behind the last command and is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_command: Option<JsonBytes<'r>>,
}

/// What stood where a record should be.
#[derive(Serialize)]
pub struct DamageObject<'r> {
    expected: &'r str,
    found: &'r str,
}

/// A command of an entry.
#[derive(Serialize)]
pub struct CommandObject<'r> {
    db: u64,
    command: Vec<JsonBytes<'r>>,
}

impl<'r> CommandObject<'r> {
    pub fn of(effect: &Effect<'r, '_>) -> CommandObject<'r> {
        CommandObject { db: effect.database, command: effect.arguments().map(JsonBytes).collect() }
    }
}

impl<'r> RecordObject<'r> {
    /// `takes`: which of the commands.
    pub fn of(item: &Item<'r>, with_payload: bool, takes: &dyn Fn(&Effect) -> bool) -> RecordObject<'r> {
        let Record { record_type, offset, header, payload, payload_crc } = item.read.record;
        let mark = Mark::decode(payload).filter(|_| record_type == RecordType::Mark);
        let mut object = RecordObject {
            schema: SCHEMA,
            type_name: TypeName::of(record_type).name(),
            file: file_name(item.read.file),
            offset,
            index: header.index,
            term: header.term,
            crc: format!("{:08x}", header.crc),
            batch_start: header.flags & BATCH_START != 0,
            meta_generation: mark.map(|mark| mark.meta_generation),
            payload_bytes: None,
            payload_crc: None,
            state: item.state,
            damage: None,
            commands: None,
            no_command: None,
        };
        if item.state.is_none() {
            return object;
        }
        object.payload_bytes = Some(header.length);
        if let Some(Hole { expected, found, .. }) = item.read.hole {
            object.damage = Some(DamageObject { expected, found });
            return object;
        }
        object.payload_crc = Some(format!("{payload_crc:08x}"));
        if with_payload && record_type != RecordType::NoOp {
            let mut walk = Walk::new(payload);
            let mut commands = Vec::new();
            while let Some(effect) = walk.step() {
                if takes(&effect) {
                    commands.push(CommandObject::of(&effect));
                }
            }
            object.commands = Some(commands);
            object.no_command = Some(walk.rest()).filter(|rest| !rest.is_empty()).map(JsonBytes);
        }
        object
    }
}
