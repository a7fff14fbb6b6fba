//! What a power loss may leave of a session that was erased: nothing that is a session.
//!
//! The big run seldom fails the power just then; here it fails after each step of the removal.

use crate::shell::files;
use crate::shell::journal::{self, Store};
use sidestream::base::arena::Key;
use sidestream::core::effect::{Batch, Part};
use sidestream::core::epochs::Durability;
use sidestream::core::journal::{Place, SegmentId};
use sidestream::wire::sse::Epoch;
use std::path::Path;

const ID: &str = "session-1-a";
/// Writing operations of a removal, and some.
const STEPS: u64 = 12;
/// How many ways are tried in which the power may fail after each of them.
const WAYS: u64 = 40;

/// Writes a session's next segment: one frame, and the snapshot that goes with it.
fn write(store: &mut Store, (start, seq): (u64, u64), name: &str, status: &str) -> u64 {
    let data = format!("{{\"sessionId\":\"{ID}\",\"timestamp\":1,\"status\":\"{status}\"}}");
    let frame = format!("id: 000000000001-{seq}\nevent: {name}\ndata: {data}\n\n");
    let place = Place {
        segment: SegmentId { start, first_seq: seq },
        is_new: true,
        closes: None,
        after_hole: false,
        rewrites: false,
    };
    let snapshot =
        format!("{{\"format\":1,\"seq\":{},\"position\":{start},\"status\":\"idle\"}}", seq - 1);
    let part = Part {
        key: Key { kind: 0, index: 0, generation: 0 },
        session_id: ID.into(),
        place,
        start,
        from: 0,
        stays_open: true,
        snapshot: (start > 0).then(|| snapshot.into_bytes()),
    };
    let batch = Batch {
        bytes: frame.into_bytes(),
        parts: vec![part],
        last_seq: seq,
        sync: true,
        ..Batch::default()
    };
    store.append(&batch).expect("nothing is wrong with the disk");
    start + batch.bytes.len() as u64
}

#[test]
fn a_session_that_was_erased_does_not_come_back_wherever_the_power_fails() {
    let open = |epoch| {
        let opened = journal::open(Path::new("/data"), Durability::Sync, Epoch::new(epoch));
        opened.expect("a data directory")
    };
    let mut finished = 0;
    for (fuse, seed) in (0..STEPS).flat_map(|fuse| (0..WAYS).map(move |seed| (fuse, seed))) {
        files::format(seed);
        let mut store = open(1).store.expect("it keeps journals");
        let middle = write(&mut store, (0, 1), "session-created", "idle");
        let end = write(&mut store, (middle, 2), "session-status", "idle");
        write(&mut store, (end, 3), "session-closed", "closed");
        files::disk(|disk| disk.trouble.fuse = Some(fuse));
        let erased = store.erase(ID, 3);
        if !files::is_dead() {
            finished += 1;
            erased.expect("nothing is wrong with the disk");
        }
        files::restart(true);
        for epoch in 2..4 {
            let again = open(epoch);
            let found: Vec<_> = again.sessions.iter().map(|one| &one.snapshot).collect();
            assert!(found.is_empty(), "fuse {fuse} seed {seed}: it came back: {found:?}");
            assert!(again.set_aside.is_empty(), "fuse {fuse} seed {seed}: {:?}", again.set_aside);
            assert_eq!(again.epochs.erased, 3, "fuse {fuse} seed {seed}: cursors miss it");
            files::restart(true);
        }
    }
    assert!(finished > 0 && finished < STEPS * WAYS, "before each step, and after the last");
}
