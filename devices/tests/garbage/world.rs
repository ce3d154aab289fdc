//! A device with guest memory and a disk, what can be done to it, and what must always hold.

use std::collections::BTreeSet;

use scribe_devices::RestoreError;
use scribe_devices::virtio::blk::{BlockBackend, BlockError, SECTOR_SIZE};
use scribe_devices::virtio::console::{BACKLOG, Console, MAX_WRITE, Size};
use scribe_devices::virtio::net::{MAX_FRAME, MIN_FRAME, Net};
use scribe_devices::virtio::rng::{MAX_SUPPLY, Rng};
use scribe_devices::virtio::slot::{Output, Slot};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::program::{DATA, INDIRECT_TABLE, RING, Step, rings};

/// The devices, by number.
pub(crate) const KINDS: [&str; 5] = ["disk", "read-only disk", "network device", "entropy device", "console"];

const NEEDS_RESET: u64 = 0x40;
const STATUS: u64 = 0x70;
const SECTORS: u64 = 64;
/// Regions of RAM: first address and bytes.
const REGIONS: [(u64, usize); 3] = [(0, 0x1_0000), (0x2_0000, 0x8000), (0x1_0000_0000, 0x4000)];

/// A small disk that can break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    bytes: Vec<u8>,
    broken: bool,
}

impl Disk {
    /// The device has promised to ask for whole sectors of the disk.
    fn range(&self, sector: u64, len: usize) -> Result<std::ops::Range<usize>, BlockError> {
        let start = usize::try_from(sector).unwrap() * SECTOR_SIZE;
        assert!(len > 0 && len.is_multiple_of(SECTOR_SIZE) && start + len <= self.bytes.len());
        if self.broken { Err(BlockError::new("broken")) } else { Ok(start..start + len) }
    }
}

impl BlockBackend for Disk {
    fn sectors(&self) -> u64 {
        SECTORS
    }

    fn read_at(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let range = self.range(sector, buf.len())?;
        buf.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn write_at(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError> {
        let range = self.range(sector, buf.len())?;
        self.bytes[range].copy_from_slice(buf);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        if self.broken { Err(BlockError::new("broken")) } else { Ok(()) }
    }
}

/// What a step could see.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    Value(u64),
    Output(Output),
    Said(String),
}

/// A device and everything around it.
pub(crate) struct World {
    kind: usize,
    pub(crate) slot: Slot<Disk>,
    mem: GuestMemoryMmap,
    /// a good driver's place in its descriptor tables and available rings
    places: [(u16, u16); 2],
    pub(crate) reached: BTreeSet<String>,
    broken: Option<String>,
}

fn device(kind: usize) -> Slot<Disk> {
    let disk = || Disk { bytes: (0..=255).cycle().take(64 * SECTOR_SIZE).collect(), broken: false };
    match kind {
        0 => Slot::disk(disk(), false, b"garbage"),
        1 => Slot::disk(disk(), true, b"garbage"),
        2 => Slot::net(Net::new([2, 0, 0, 0, 0, 1])),
        3 => Slot::rng(Rng::new()),
        _ => Slot::console(Console::new(Size { cols: 80, rows: 25 })),
    }
}

impl World {
    pub(crate) fn new(kind: usize) -> Self {
        let regions = REGIONS.map(|(start, len)| (GuestAddress(start), len));
        World {
            kind,
            slot: device(kind),
            mem: GuestMemoryMmap::from_ranges(&regions).unwrap(),
            places: Default::default(),
            reached: BTreeSet::new(),
            broken: None,
        }
    }

    fn queues(&self) -> u16 {
        if matches!(self.kind, 2 | 4) { 2 } else { 1 }
    }

    fn ring(&self) -> u16 {
        if self.kind == 3 { 8 } else { RING }
    }

    pub(crate) fn ram(&self) -> Vec<u8> {
        let region = |(start, len)| {
            let mut bytes = vec![0; len];
            self.mem.read_slice(&mut bytes, GuestAddress(start)).unwrap();
            bytes
        };
        REGIONS.into_iter().flat_map(region).collect()
    }

    pub(crate) fn disk(&mut self) -> Option<Disk> {
        self.slot.as_disk().map(|(_, disk)| disk.clone())
    }

    /// The same device in a new one, by its saved state.
    pub(crate) fn transplant(&mut self) -> Result<(), RestoreError> {
        let disk = self.disk();
        let mut slot = device(self.kind);
        slot.restore(self.slot.save())?;
        if let (Some((_, new)), Some(old)) = (slot.as_disk(), disk) {
            *new = old;
        }
        self.slot = slot;
        Ok(())
    }

    fn reach(&mut self, what: impl Into<String>) {
        self.reached.insert(what.into());
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) -> Output {
        let disk_before = self.disk().filter(|_| offset == 0x50);
        let output = self.slot.write(offset, size, value, &self.mem);
        match &output {
            Output::Frames(frames) => {
                self.reach("sent");
                let good = |len| (MIN_FRAME..=MAX_FRAME).contains(&len);
                if frames.len() > 256 || !frames.iter().all(|frame| good(frame.bytes().len())) {
                    self.broken = Some("frames that are none".into());
                }
            }
            Output::Text(text) => {
                self.reach("printed");
                if text.len() > 64 * MAX_WRITE {
                    self.broken = Some("unbounded text".into());
                }
            }
            Output::Nothing => {}
        }
        if let Some((device, disk)) = self.slot.as_disk() {
            let errors = device.device_mut().take_backend_errors().len();
            let zeroed = disk_before.is_some_and(|before| before.bytes != disk.bytes);
            let status: Option<u8> = self.mem.read_obj(GuestAddress(DATA + 0x3ff)).ok();
            if errors > 0 {
                self.reach("host error");
            }
            if zeroed {
                if self.kind == 1 {
                    self.broken = Some("a read-only disk was written".into());
                }
                self.reach("zeroed");
            }
            if let Some(status @ 0..=2) = status {
                self.reach(format!("status {status}"));
            }
        }
        if let Some(fault) = self.slot.fault() {
            self.reach(format!("fault {fault:?}"));
        }
        output
    }

    /// Whatever the driver did: a fault is to be seen, what waits is bounded, and the line is the causes'.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        let needs_reset = self.slot.read(STATUS, 4) & NEEDS_RESET != 0;
        if needs_reset != self.slot.fault().is_some() {
            return Err(format!("NEEDS_RESET is {needs_reset} with {:?}", self.slot.fault()));
        }
        let causes = self.slot.read(0x60, 4);
        if causes & !3 != 0 || self.slot.irq_level() != (causes != 0) {
            return Err(format!("causes {causes:#x} with the line {}", self.slot.irq_level()));
        }
        if self
            .slot
            .as_rng()
            .is_some_and(|rng| rng.wanted() > MAX_SUPPLY || (needs_reset && rng.wanted() > 0))
        {
            return Err("it wants too much".into());
        }
        if self.slot.as_console().is_some_and(|console| console.backlog_len() > BACKLOG) {
            return Err("its backlog has no end".into());
        }
        if needs_reset && self.slot.as_net().is_some_and(|net| net.receive_room(&self.mem) > 0) {
            return Err("it would receive in its failed state".into());
        }
        Ok(())
    }

    pub(crate) fn run(&mut self, step: &Step) -> Seen {
        let failed = self.slot.fault().is_some();
        let seen = self.act(step);
        let resets = matches!(step, Step::BringUp | Step::Requeue { .. } | Step::Write { .. });
        let printed = matches!(&seen, Seen::Output(output) if *output != Output::Nothing);
        // An emergency write works in every state, for it is no affair of the queues.
        if failed && !resets && printed {
            self.broken = Some("output in the failed state".into());
        }
        seen
    }

    fn act(&mut self, step: &Step) -> Seen {
        match *step {
            Step::Read { offset, size } => return Seen::Value(self.slot.read(offset, size)),
            Step::Write { offset, size, value } => return Seen::Output(self.write(offset, size, value)),
            Step::BringUp => self.bring_up(),
            Step::Descriptor { queue, index, addr, len, flags, next } => {
                self.descriptor(rings(queue % self.queues())[0], index, addr, len, flags, next);
            }
            Step::Indirect { index, addr, len, flags, next } => {
                self.descriptor(INDIRECT_TABLE, index, addr, len, flags, next);
            }
            Step::Available { queue, head } => self.available(queue % self.queues(), head),
            // Outside RAM nothing can be poked, which is no step then.
            Step::Poke { addr, value } => drop(self.mem.write_obj(value, GuestAddress(addr))),
            Step::Good { queue, kind, sector, len } => self.good(queue, kind, sector, len),
            Step::Notify { queue } => return Seen::Output(self.write(0x50, 4, queue.into())),
            Step::Requeue { queue, ring, addr } => {
                let mut parts = rings(queue % self.queues());
                parts[ring] = addr;
                self.set_up(queue % self.queues(), parts);
            }
            Step::Jump { queue, index } => {
                let [_, avail, _] = rings(queue % self.queues());
                self.mem.write_obj(index, GuestAddress(avail + 2)).unwrap();
            }
            Step::Frame(ref frame) => {
                let receipt = self.slot.as_net().map(|net| net.receive(frame, &self.mem));
                return self.said(format!("{:?}", receipt.unwrap()));
            }
            Step::Link(up) => self.slot.as_net().unwrap().set_link(up),
            Step::Bytes(len) => return self.bytes(len),
            Step::Resize(size) => self.slot.as_console().unwrap().resize(size),
            Step::Disk { broken } => self.slot.as_disk().unwrap().1.broken = broken,
        }
        Seen::Nothing
    }

    fn said(&mut self, text: String) -> Seen {
        self.reach(text.clone());
        if let Some(fault) = self.slot.fault() {
            self.reach(format!("fault {fault:?}"));
        }
        Seen::Said(text)
    }

    fn bytes(&mut self, len: usize) -> Seen {
        if let Some(rng) = self.slot.as_rng() {
            let (wanted, taken) = (rng.wanted(), rng.supply(&vec![0xa5; len], &self.mem));
            if wanted == 0 && taken > 0 {
                self.broken = Some("it took what it did not want".into());
            }
            return self.said(if taken > 0 { "supplied" } else { "not wanted" }.into());
        }
        let console = self.slot.as_console().unwrap();
        let before = console.backlog_len();
        let taken = console.receive(&vec![0x5a; len], &self.mem);
        let after = console.backlog_len();
        self.said(match (taken < len, after < before + taken) {
            (true, _) => "backlog full".into(),
            (_, true) => "delivered".into(),
            _ => format!("waits {}", after > 0),
        })
    }

    fn bring_up(&mut self) {
        self.places = Default::default();
        for status in [0, 1, 3] {
            self.write(STATUS, 4, status);
        }
        for half in [0, 1] {
            self.write(0x14, 4, half);
            let features = self.slot.read(0x10, 4);
            self.write(0x24, 4, half);
            self.write(0x20, 4, features);
        }
        self.write(STATUS, 4, 0x0b);
        for queue in 0..self.queues() {
            let [_, avail, used] = rings(queue);
            self.mem.write_obj(0u32, GuestAddress(avail)).unwrap();
            self.mem.write_obj(0u32, GuestAddress(used)).unwrap();
            self.set_up(queue, rings(queue));
        }
        self.write(STATUS, 4, 0x0f);
        assert_eq!(self.slot.read(STATUS, 4), 0x0f, "a good driver can always start again");
    }

    fn set_up(&mut self, queue: u16, parts: [u64; 3]) {
        self.write(0x30, 4, queue.into());
        self.write(0x44, 4, 0);
        self.write(0x38, 4, self.ring().into());
        for (register, addr) in [0x80, 0x90, 0xa0].into_iter().zip(parts) {
            self.write(register, 4, addr & 0xffff_ffff);
            self.write(register + 4, 4, addr >> 32);
        }
        self.write(0x44, 4, 1);
    }

    fn descriptor(&mut self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = GuestAddress(table + 16 * u64::from(index % 32));
        let low = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.mem.write_obj(addr, at).unwrap();
        self.mem.write_obj(low, GuestAddress(at.0 + 8)).unwrap();
    }

    fn available(&mut self, queue: u16, head: u16) {
        let [_, avail, _] = rings(queue);
        let ring = self.ring();
        let (_, index) = &mut self.places[usize::from(queue)];
        let slot = avail + 4 + 2 * u64::from(*index % ring);
        *index = index.wrapping_add(1);
        self.mem.write_obj(head, GuestAddress(slot)).unwrap();
        self.mem.write_obj(*index, GuestAddress(avail + 2)).unwrap();
    }

    /// A chain as the device wants it, made available.
    fn good(&mut self, queue: u16, kind: u32, sector: u64, len: u32) {
        let queue = queue % self.queues();
        let data = len.min(0x4000);
        let (readable, writable) = (0, 2);
        let chain: Vec<(u64, u32, u16)> = match (self.kind, queue) {
            (0 | 1, _) => {
                let header = [u64::from(kind), sector];
                self.mem.write_obj(header[0], GuestAddress(DATA)).unwrap();
                self.mem.write_obj(header[1], GuestAddress(DATA + 8)).unwrap();
                self.mem.write_obj(0xee_u8, GuestAddress(DATA + 0x3ff)).unwrap();
                if matches!(kind, 11 | 13 | 14) {
                    self.mem.write_obj(sector, GuestAddress(0x9000)).unwrap();
                    self.mem.write_obj(u64::from(len % 80), GuestAddress(0x9008)).unwrap();
                }
                let (data, flags) = match kind {
                    0 | 8 => (data, writable),
                    11 | 13 | 14 => (16, readable),
                    _ => (data, readable),
                };
                vec![(DATA, 16, readable), (0x9000, data, flags), (DATA + 0x3ff, 1, writable)]
            }
            (2, 1) => {
                self.mem.write_obj(0u64, GuestAddress(DATA)).unwrap();
                vec![(DATA, 12, readable), (DATA + 0x400, data, readable)]
            }
            (2, _) => vec![(DATA, data.max(26), writable)],
            (3, _) => vec![(DATA, data.max(1), writable)],
            (_, 1) => vec![(DATA, data, readable)],
            _ => vec![(DATA, data.max(1), writable)],
        };
        let ring = self.ring();
        let (first, _) = self.places[usize::from(queue)];
        let mut at = first;
        for (index, (addr, len, flags)) in chain.iter().enumerate() {
            let next = (at + 1) % ring;
            let more = u16::from(index + 1 < chain.len());
            self.descriptor(rings(queue)[0], at, *addr, *len, flags | more, next);
            at = next;
        }
        self.places[usize::from(queue)].0 = at;
        self.available(queue, first);
    }
}
