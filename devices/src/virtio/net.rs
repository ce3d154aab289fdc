//! The virtio network device (section 5.1): one receive and one transmit queue, a link that can go up and down.
//!
//! A frame that the guest sends is handed out as an owned value while the driver's notification is handled; a frame
//! for the guest is [given](VirtioMmio::receive) to the device between two exits. The device keeps no frames: one
//! that comes while no buffer is available is dropped, as on a wire, and whoever has frames waiting asks for
//! [room](VirtioMmio::receive_room) first.
//!
//! Offered: MAC and STATUS. No offloads (a frame on the wire is what the driver wrote, so it can be digested and
//! captured as it is), no control queue, one pair of queues. Mergeable buffers are left out: without offloads a frame
//! is at most [`MAX_FRAME`] bytes and fits into one buffer of the 1526 bytes that section 5.1.6.3.1 asks of the
//! driver, so they would be a second way to write a frame with nothing gained.
//!
//! A transmitted chain that is no frame (no whole header, a header that asks for an offload, a length that Ethernet
//! does not have) is given back and nothing is sent, as a card would do. Broken chains and rings are [`Fault`]s.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP};
use virtio_queue::Queue;
use vm_memory::GuestMemory;

use super::mmio::VirtioMmio;
use super::queue::{self, Stream};
use super::{Fault, VirtioDevice, read_fields};
use crate::snapshot::{RestoreError, Snapshot, require_same};

#[cfg(test)]
mod tests;

/// Most bytes of a frame: Ethernet header, one VLAN tag, 1500 bytes; the checksum behind it is not part of it.
pub const MAX_FRAME: usize = 1518;
/// Least bytes of a frame: its header. Padding to Ethernet's 60 is the wire's affair.
pub const MIN_FRAME: usize = 14;
/// Number of the receive queue.
const RECEIVE: usize = 0;
/// Number of the transmit queue.
const TRANSMIT: usize = 1;
/// Entries of each queue.
const QUEUE_SIZE: u16 = 256;
/// Bytes of `struct virtio_net_hdr` of a VERSION_1 device (section 5.1.6): flags, gso_type, hdr_len, gso_size,
/// csum_start, csum_offset, num_buffers.
const HEADER_SIZE: usize = 12;
/// Header of a received frame: nothing to say, in one buffer.
const RECEIVED: [u8; HEADER_SIZE] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// An Ethernet frame without its checksum: [`MIN_FRAME`] to [`MAX_FRAME`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// `bytes` as a frame, if they are as many as a frame has.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (MIN_FRAME..=MAX_FRAME).contains(&bytes.len()).then_some(Frame(bytes))
    }

    /// Its bytes, from the destination address on.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same, owned.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// What became of a frame for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// It is in guest memory.
    Accepted,
    /// The link is down.
    LinkDown,
    /// No driver is running, or the device demands a reset.
    NotRunning,
    /// The driver has made no buffer available.
    NoBuffer,
    /// The next buffer is too small for it. It stays where it is, for a shorter frame.
    SmallBuffer,
}

/// The network device.
#[derive(Debug)]
pub struct Net {
    state: NetState,
}

/// State of [`Net`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    /// Hardware address: configuration.
    pub mac: [u8; 6],
    /// The link is up. It is the wire's state, and outlives a reset by the driver.
    pub link_up: bool,
}

impl Net {
    /// A network device with this hardware address, its link up.
    pub fn new(mac: [u8; 6]) -> Self {
        Net { state: NetState { mac, link_up: true } }
    }

    /// Its hardware address.
    pub fn mac(&self) -> [u8; 6] {
        self.state.mac
    }

    /// Whether the link is up.
    pub fn is_link_up(&self) -> bool {
        self.state.link_up
    }

    /// Sends what the driver has made available.
    fn transmit<M: GuestMemory>(
        &mut self,
        queue: &mut Queue,
        mem: &M,
        sent: &mut Vec<Frame>,
    ) -> Result<bool, Fault> {
        let count = queue::available(queue, mem)?;
        for _ in 0..count {
            let mut chain = queue::next_chain(queue, mem)?;
            if chain.writable.left() > 0 {
                return Err(Fault::Chain);
            }
            let frame = read_frame(&mut chain.readable, mem)?.filter(|_| self.state.link_up);
            sent.extend(frame);
            queue::give_back(queue, mem, chain.head, 0)?;
        }
        Ok(count > 0 && queue::wants_interrupt(queue, mem)?)
    }
}

/// The frame behind a header that asks for nothing; none if it is no such thing.
fn read_frame<M: GuestMemory>(stream: &mut Stream, mem: &M) -> Result<Option<Frame>, Fault> {
    let len = stream.left().checked_sub(HEADER_SIZE as u64).and_then(|len| usize::try_from(len).ok());
    let Some(len) = len.filter(|len| (MIN_FRAME..=MAX_FRAME).contains(len)) else { return Ok(None) };
    let mut header = [0; HEADER_SIZE];
    stream.read(mem, &mut header)?;
    // flags and gso_type: without offloads both are 0 (section 5.1.6.2.1).
    if header[..2] != [0, 0] {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    stream.read(mem, &mut bytes)?;
    Ok(Frame::new(bytes))
}

impl VirtioMmio<Net> {
    /// Puts a frame into the next receive buffer.
    pub fn receive<M: GuestMemory>(&mut self, frame: &Frame, mem: &M) -> Receipt {
        if !self.device().is_link_up() {
            return Receipt::LinkDown;
        }
        let receipt = self.with_queue(RECEIVE, |_, queue, _| {
            if queue::available(queue, mem)? == 0 {
                return Ok((Receipt::NoBuffer, false));
            }
            let mut chain = queue::next_chain(queue, mem)?;
            if chain.readable.left() > 0 {
                return Err(Fault::Chain);
            }
            let len = HEADER_SIZE + frame.0.len();
            if chain.writable.left() < len as u64 {
                queue::put_back(queue);
                return Ok((Receipt::SmallBuffer, false));
            }
            chain.writable.write(mem, &RECEIVED)?;
            chain.writable.write(mem, &frame.0)?;
            queue::give_back(queue, mem, chain.head, u32::try_from(len).map_err(|_| Fault::Chain)?)?;
            Ok((Receipt::Accepted, queue::wants_interrupt(queue, mem)?))
        });
        receipt.unwrap_or(Receipt::NotRunning)
    }

    /// Number of receive buffers that the driver has made available: frames that it can take now. 0 while the link is
    /// down.
    pub fn receive_room<M: GuestMemory>(&self, mem: &M) -> u16 {
        let queue = self.served_queue(RECEIVE).filter(|_| self.device().is_link_up());
        queue.and_then(|queue| queue::available(queue, mem).ok()).unwrap_or(0)
    }

    /// A driver is running, so frames may find a buffer sooner or later.
    pub fn can_receive(&self) -> bool {
        self.serves(RECEIVE) && self.device().is_link_up()
    }

    /// Raises or drops the link, and tells the driver if that is a change.
    pub fn set_link(&mut self, up: bool) {
        if self.device().is_link_up() != up {
            self.device_mut().state.link_up = up;
            self.config_changed();
        }
    }
}

impl VirtioDevice for Net {
    const DEVICE_ID: u32 = VIRTIO_ID_NET;
    const QUEUE_SIZES: &'static [u16] = &[QUEUE_SIZE, QUEUE_SIZE];
    /// Frames sent, at most as many as the queue has entries in one access. The caller takes them away.
    type Host = Vec<Frame>;

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS
    }

    /// `struct virtio_net_config` (section 5.1.4): mac and status.
    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let mut config = [0; 8];
        config[..6].copy_from_slice(&self.state.mac);
        config[6] = if self.state.link_up { VIRTIO_NET_S_LINK_UP.to_le_bytes()[0] } else { 0 };
        read_fields(&config, offset, bytes);
    }

    fn reset(&mut self) {}

    fn notify<M: GuestMemory>(
        &mut self,
        index: usize,
        queue: &mut Queue,
        _features: u64,
        mem: &M,
        sent: &mut Vec<Frame>,
    ) -> Result<bool, Fault> {
        if index == TRANSMIT {
            return self.transmit(queue, mem, sent);
        }
        // There are new receive buffers: they wait for frames. A ring that makes no sense is found out now.
        queue::available(queue, mem).map(|_| false)
    }
}

impl Snapshot for Net {
    const KIND: &'static str = "virtio-net";
    const VERSION: u16 = 1;
    type State = NetState;

    fn save(&self) -> NetState {
        self.state.clone()
    }

    fn restore(&mut self, state: NetState) -> Result<(), RestoreError> {
        require_same(Self::KIND, "hardware address", &state.mac, &self.state.mac)?;
        self.state = state;
        Ok(())
    }
}
