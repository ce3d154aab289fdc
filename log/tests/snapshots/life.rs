//! Adding, finding, loading, removing, compacting.

use scribe_log::snapshots::Origin;

use crate::common;
use crate::machine::*;

#[test]
fn what_was_added_comes_back() {
    let place = Place::new();
    let mut snapshots = place.open();
    assert!(snapshots.list().is_empty());
    assert!(snapshots.before(common::at(1000)).is_none());
    let mut machine = Machine::busy(1);
    machine.disk.insert(70, page(0));
    let info = snapshots.add(&machine.at(100, Origin::Asked), &mut machine.clone()).unwrap();
    assert_eq!((info.position, info.origin), (common::at(100), Origin::Asked));
    assert_eq!(info.pages, FRAMES / 2 + 7);
    for snapshots in [snapshots, place.open()] {
        assert_eq!(snapshots.list(), [info.clone()]);
        assert_loads(&snapshots, 100, &machine);
        assert!(snapshots.damaged().is_empty());
        assert!(snapshots.verify().is_empty());
    }
}
