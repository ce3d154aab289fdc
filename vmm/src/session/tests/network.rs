//! A toy with a network device: what it receives and sends, and an entropy device's answers, are recorded and replayed.

use std::io::Read;
use std::sync::mpsc::Sender;

use scribe_devices::virtio::net::Frame;
use scribe_log::DeviceInput;
use scribe_log::header::{Device, Mac};

use crate::machine::platform::Platform;

use super::super::journal::NoJournal;
use super::super::network::Network;
use super::toy::Op;
use super::*;
use crate::host::events::Shared;
use crate::host::net::tests::pair;

const NET: u64 = 0xd000_1000;
const RNG: u64 = 0xd000_2000;
/// Rings of a queue: descriptors, available, used.
const RINGS: [[u64; 3]; 3] =
    [[0x1_0000, 0x1_1000, 0x1_2000], [0x1_3000, 0x1_4000, 0x1_5000], [0x1_6000, 0x1_7000, 0x1_8000]];
const BUFFER: u64 = 0x2_0000;
/// Frames that the guest waits for.
const FRAMES: u16 = 3;

/// Brings up a device with these queues.
fn bring_up(base: u64, queues: &[[u64; 3]]) -> Vec<Op> {
    let store = |offset: u64, value: u64| Op::StoreOutside(base + offset, u32::try_from(value).unwrap());
    let mut ops = [(0x70, 0), (0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 0x0b)]
        .map(|(offset, value)| store(offset, value))
        .to_vec();
    for (index, [desc, avail, used]) in (0u64..).zip(queues) {
        ops.extend(
            [(0x30, index), (0x38, 4), (0x80, *desc), (0x90, *avail), (0xa0, *used), (0x44, 1)]
                .map(|(offset, value)| store(offset, value)),
        );
    }
    ops.push(store(0x70, 0x0f));
    ops
}

/// Asks for entropy, sends a frame, then sleeps until it has received all frames.
fn program() -> Vec<Op> {
    // Both controllers; of the second, IRQ 10 and 11 reach the processor.
    let mut ops = [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0xa0, 0x11),
        (0xa1, 0x28),
        (0xa1, 0x02),
        (0xa1, 0x01),
        (0x21, 0xfb),
        (0xa1, 0xf3),
    ]
    .map(|(port, value)| Op::Out(port, value))
    .to_vec();
    ops.extend(bring_up(NET, &RINGS[..2]));
    ops.extend(bring_up(RNG, &RINGS[2..]));
    ops.extend([Op::Sti, Op::StoreOutside(RNG + 0x50, 0), Op::StoreOutside(NET + 0x50, 1)]);
    // Sent, answered, and the frames: as many interrupts at most; sleeping once more does no harm.
    for _ in 0..FRAMES + 2 {
        ops.push(Op::Halt);
    }
    ops.push(Op::Crash);
    ops
}

/// Acknowledges everything.
fn handler() -> Vec<Op> {
    vec![
        Op::Count,
        Op::StoreOutside(NET + 0x64, 3),
        Op::StoreOutside(RNG + 0x64, 3),
        Op::Out(0xa0, 0x20),
        Op::Out(0x20, 0x20),
        Op::Return,
    ]
}

fn networked() -> Machine {
    let mut devices = Devices::new(Platform::Pc2, Vec::new(), 0, None).unwrap();
    devices.add_virtio(&[Device::Net { mac: Mac([2, 0, 0, 0, 0, 1]) }, Device::Rng {}]).unwrap();
    let ram = GuestRam::new(2 << 20).unwrap();
    let chain = |queue: usize, index: u16, address: u64, length: u32, flags: u16| {
        let [desc, avail, _] = RINGS[queue];
        let at = desc + 16 * u64::from(index);
        ram.write(at, &address.to_le_bytes()).unwrap();
        ram.write(at + 8, &length.to_le_bytes()).unwrap();
        ram.write(at + 12, &flags.to_le_bytes()).unwrap();
        ram.write(avail + 4 + 2 * u64::from(index), &index.to_le_bytes()).unwrap();
        ram.write(avail + 2, &(index + 1).to_le_bytes()).unwrap();
    };
    for index in 0..FRAMES {
        chain(0, index, BUFFER + 0x1000 * u64::from(index), 1600, 2);
    }
    ram.write(BUFFER + 0x8000, &[[0; 12], [0x77; 12], [0x77; 12]].concat()).unwrap();
    chain(1, 0, BUFFER + 0x8000, 36, 0);
    chain(2, 0, BUFFER + 0x9000, 32, 2);
    Machine::new(Box::new(Toy::new(&program(), &handler())), ram, devices, WITHOUT_COUNTER, false).unwrap()
}

fn frame(byte: u8) -> Frame {
    Frame::new(vec![byte; 60]).unwrap()
}

fn send_slowly(sender: Sender<HostEvent>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for byte in 1..=3 {
            clock::sleep_ns(3_000_000);
            sender.send(HostEvent::Frame(frame(byte))).unwrap();
        }
        // Should the guest still sleep, because two frames came at once.
        clock::sleep_ns(50_000_000);
        let _ = sender.send(HostEvent::Stop(StopReason::User));
    })
}

fn inputs(recorded: &Recorded) -> Vec<DeviceInput> {
    let events = recorded.events().into_iter();
    events
        .filter_map(|event| if let Body::Device { input, .. } = event.body { Some(input) } else { None })
        .collect()
}

#[test]
fn frames_and_entropy_are_replayed_where_they_came() {
    let recorded = record(networked(), 7, None, send_slowly);
    let found = inputs(&recorded);
    assert!(matches!(&found[0], DeviceInput::Entropy(bytes) if bytes.len() == 32), "{found:?}");
    let frames = (1..=3).map(|byte| DeviceInput::Frame(frame(byte).into_bytes())).collect::<Vec<_>>();
    assert_eq!(found[1..], frames);
    for _ in 0..3 {
        let mut machine = networked();
        assert!(matches!(recorded.replay(&mut machine).unwrap(), Outcome::Complete(_)));
        let mut received = [0; 72];
        machine.ram().read(BUFFER + 0x2000, &mut received).unwrap();
        assert_eq!((received[10], &received[12..]), (1, &[3; 60][..]));
    }
}

#[test]
fn a_guest_that_sends_something_else_diverges() {
    let recorded = record(networked(), 0, None, send_slowly);
    let mut other = networked();
    other.ram().write(BUFFER + 0x8000 + 20, &[0x78]).unwrap();
    match recorded.replay(&mut other).unwrap_err() {
        SessionError::Diverged(divergence) => {
            assert!(divergence.to_string().contains("rolling digest"), "{divergence}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn what_the_guest_sends_goes_out_in_order() {
    let mut machine = networked();
    let (host, _sender) = HostLoop::by_hand();
    let (connection, mut peer) = pair();
    let network = Network::new(Some(connection.outgoing));
    let inputs = Inputs { network, ..nothing_more(false, Some(1_000_000)) };
    let mut policy = Live::new(NoJournal, host, inputs, 0);
    let cause = drive(&mut machine, &mut policy, &mut Console::quiet()).unwrap();
    assert_eq!(cause, EndCause::Stopped { reason: StopReason::GuestTime });
    let mut bytes = [0; 28];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, *[&[0, 0, 0, 24][..], &[0x77; 24]].concat());
}

#[test]
fn an_input_for_no_device_is_a_divergence() {
    let recorded = record(networked(), 0, None, send_slowly);
    // A machine without a network device at all.
    let mut other = machine(&program(), &handler());
    match recorded.replay(&mut other).unwrap_err() {
        SessionError::Diverged(divergence) => {
            assert!(divergence.to_string().contains("no such device"), "{divergence}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn going_live_pulls_the_plug_and_puts_it_in_again() {
    let mut machine = networked();
    let slot = machine.net_slot().unwrap();
    let shared = Shared::default();
    let (connection, _peer) = pair();
    let mut network = Network::replugged(Some(connection.outgoing), 0);
    assert_eq!(network.ready(&mut machine), Some(0));
    assert!(network.admit(&mut machine, &mut NoJournal, &shared).unwrap());
    assert!(!machine.is_link_up(slot));
    let later = network.ready(&mut machine).unwrap();
    assert!(!network.admit(&mut machine, &mut NoJournal, &shared).unwrap(), "not yet");
    machine.jump(later);
    assert!(network.admit(&mut machine, &mut NoJournal, &shared).unwrap());
    assert!(machine.is_link_up(slot));
    assert_eq!(network.ready(&mut machine), None);
    // With nothing at its other end it stays as it is.
    let mut network = Network::replugged(None, later);
    network.admit(&mut machine, &mut NoJournal, &shared).unwrap();
    assert_eq!((machine.is_link_up(slot), network.ready(&mut machine)), (false, None));
}
