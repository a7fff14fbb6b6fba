//! The one part of the shell that the simulation runs, and the fuzzers: the journal's own code, on a fake disk.

#[allow(dead_code, reason = "each world uses a part")]
#[path = "files.rs"]
pub mod files;
#[allow(dead_code, reason = "what only the server's start asks for")]
#[path = "../../src/shell/journal.rs"]
pub mod journal;
#[path = "../../src/shell/private.rs"]
pub mod private;

use journal::Store;
use sidestream::core::effect::{DiskReply, DiskRequest};

/// What the disk thread does for journals.
pub fn serve(store: &mut Store, request: DiskRequest) -> DiskReply {
    match request {
        DiskRequest::Append(batch) => {
            let result = store.append(&batch);
            DiskReply::Appended(batch, result)
        }
        DiskRequest::Read(mut read) => {
            let result = store.read(&mut read);
            DiskReply::Read(read, result)
        }
        DiskRequest::Page(mut page) => {
            let result = loop {
                match store.page(&mut page) {
                    Ok(true) => {}
                    result => break result.map(|_| ()),
                }
            };
            DiskReply::Page(page, result)
        }
        DiskRequest::Large { connection, part, source, from } => {
            DiskReply::Large { connection, part, result: store.fetch(part, &source, from) }
        }
        DiskRequest::Drop { session_id, segment, until, snapshot } => {
            DiskReply::Dropped(store.drop_segment(&session_id, segment, until, snapshot.as_deref()))
        }
        DiskRequest::Erase { session_id, last_seq } => {
            let result = store.erase(&session_id, last_seq);
            DiskReply::Erased { session_id, last_seq, result }
        }
        other => panic!("{other:?} is no journal's"),
    }
}
