//! The conformance check that every device passes.

use crate::Snapshot;

/// Saves, changes, restores and compares; then checks that the restored device goes the same way again, and that
/// the state survives its encoding, from which nothing may be missing and of which nothing may be left.
pub(crate) fn conforms<D: Snapshot>(device: &mut D, mut change: impl FnMut(&mut D)) {
    let before = device.save();
    let encoded = postcard::to_allocvec(&before).unwrap();
    assert_eq!(postcard::from_bytes::<D::State>(&encoded).unwrap(), before, "{}: encoding", D::KIND);

    let longer = [encoded.as_slice(), &[0x55]].concat();
    let (_, left) = postcard::take_from_bytes::<D::State>(&longer).unwrap();
    assert_eq!(left, [0x55], "{}: what does not belong to the state is left over, to be refused", D::KIND);
    let shorter = &encoded[..encoded.len() - 1];
    assert!(postcard::from_bytes::<D::State>(shorter).is_err(), "{}: a state that was cut", D::KIND);

    change(device);
    let after = device.save();
    assert_ne!(after, before, "{}: the change must be visible in the state", D::KIND);

    device.restore(before.clone()).unwrap();
    assert_eq!(device.save(), before, "{}: restored", D::KIND);
    assert_eq!(postcard::to_allocvec(&device.save()).unwrap(), encoded, "{}: digest", D::KIND);

    change(device);
    assert_eq!(device.save(), after, "{}: the same change after a restore", D::KIND);

    device.restore(after.clone()).unwrap();
    assert_eq!(device.save(), after, "{}: restored twice", D::KIND);
    assert!(D::VERSION > 0);
}
