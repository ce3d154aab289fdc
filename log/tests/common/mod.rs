//! What the tests of the format share: a header, events, and a writer of forged files that knows only
//! docs/log-format.md and none of the crate's own code.

#![allow(dead_code, reason = "not every test uses everything")]
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use scribe_log::header::{BootFile, Engine, Host, Image, Level, Origin, Pace, TimeConstants};
use scribe_log::{
    Body, Capture, CapturePages, End, EndCause, Event, ExitAnswer, ExitKind, FullDigest, GeneralRegisters,
    Header, OpenError, PageCodec, Position, Recording, Register, SPURIOUS, StopReason, Writer,
};

/// A header in which every field says something.
pub fn header() -> Header {
    Header {
        program: "0.1.0".to_owned(),
        platform: "scribe-pc-1".to_owned(),
        engine: Engine::Kvm,
        cpu: "scribe-v1".to_owned(),
        behaviour: None,
        digest_version: 1,
        counter: None,
        time: TimeConstants { ns_per_branch: 0, ns_per_exit: 2000 },
        memory: 128 << 20,
        vcpus: 4,
        image: Some(Image { path: "images/demo.img".into(), size: 64 << 20, blake3: [0x11; 32] }),
        kernel: BootFile { origin: Origin::Image, path: "/boot/vmlinux".into(), blake3: [0x22; 32] },
        initrd: None,
        cmdline: "console=ttyS0 quiet".to_owned(),
        command: vec![b"sh".to_vec(), b"-c".to_vec(), b"echo \xff\x00".to_vec()],
        seed: [0x33; 32],
        rtc: 1_700_000_000,
        pace: Pace::Max,
        digest_every: 65_536,
        host: Host {
            cpu_model: "A processor".to_owned(),
            microcode: "0x1".to_owned(),
            kernel_release: "6.1.0".to_owned(),
            kvm_module: "kvm_amd".to_owned(),
        },
        level: Level::Inputs,
        chaos: None,
        parent: None,
        start: None,
        devices: Vec::new(),
    }
}

pub fn at(exit: u64) -> Position {
    Position::exit(exit)
}

pub fn input(exit: u64, bytes: &[u8]) -> Event {
    Event::new(at(exit), Body::ConsoleInput { bytes: bytes.to_vec() })
}

pub fn full() -> FullDigest {
    FullDigest {
        cpu: 0x0123_4567_89ab_cdef,
        ram: 0xfedc_ba98 << 96 | 7,
        devices: 0x55,
        guest_time: 1_234_567_890,
    }
}

pub fn checkpoint(exit: u64, full: Option<FullDigest>) -> Event {
    Event::new(at(exit), Body::Checkpoint { registers: 0x1000_0000_0000_0000 | exit, full })
}

pub fn seal(exit: u64) -> Event {
    Event::new(at(exit), Body::Seal { registers: 0x2000_0000_0000_0000 | exit, guest_time: exit * 2000 })
}

pub fn end(exit: u64, cause: EndCause) -> Event {
    let registers = 0x3000_0000_0000_0000 | exit;
    Event::new(
        at(exit),
        Body::End(End {
            cause,
            registers,
            full: Some(full()),
            exits: exit,
            guest_time: exit * 2000,
            inputs: 3,
        }),
    )
}

/// Every kind that a closed recording can hold, every way of stating a position; without the end.
pub fn events() -> Vec<Event> {
    vec![
        input(3, b"ls -l\n"),
        Event::new(at(3), Body::TimeAdjust { nanoseconds: 1_500_000_000 }),
        Event::new(at(3), Body::Interrupt { vector: 0x34, irq: 4 }),
        Event::new(Position { exit: 3, branches: 700, steps: 0 }, Body::Interrupt { vector: 0x30, irq: 0 }),
        Event {
            vcpu: 2,
            position: Position { exit: 9, branches: 0, steps: 5 },
            body: Body::TimeAdjust { nanoseconds: 0 },
        },
        checkpoint(1000, None),
        Event::new(at(1000), Body::Bookmark { name: "boot-done \u{e9}".to_owned() }),
        input(70_000, &[0, 1, 0x7f, 0x80, 0xff]),
        checkpoint(131_072, Some(full())),
    ]
}

/// Every kind of marker, with every exit and every answer.
pub fn markers() -> Vec<Event> {
    let register = |name: &str, bytes, value| Register { name: name.to_owned(), bytes, value };
    let registers = vec![
        Register::u64("rax", 0xffff_8000_0000_1000),
        register("efer", 4, 0xd01),
        register("xmm0", 16, u128::MAX),
        register("cpl", 1, 3),
    ];
    let mut bodies = vec![
        Body::Interrupt { vector: 0x27, irq: SPURIOUS },
        Body::State { registers, pages: vec![(0, 1), (1, u64::MAX), (0x7fff, 0xabc)] },
        Body::State { registers: Vec::new(), pages: vec![(0x8000, 2)] },
        Body::State { registers: Vec::new(), pages: Vec::new() },
        Body::DiskRequest { device: 0, request: 1, sector: 131_072, bytes: 4096, status: 0 },
        Body::DiskRequest { device: 1, request: 99, sector: u64::MAX, bytes: 0, status: 2 },
        Body::ConsoleOutput { bytes: b"$ \x1b[0m\xff".to_vec() },
    ];
    for (exit, what) in ExitKind::ALL.into_iter().enumerate() {
        let (address, size) = match what {
            ExitKind::Halt => (0, 0),
            ExitKind::PortRead | ExitKind::PortWrite => (0x3f8, 1),
            ExitKind::MmioRead | ExitKind::MmioWrite => (0xd000_0050, 4),
            ExitKind::MsrRead | ExitKind::MsrWrite => (0xc000_0103, 8),
        };
        let answer = match what {
            ExitKind::PortRead | ExitKind::MmioRead => ExitAnswer::Value(0x60),
            ExitKind::MsrRead => ExitAnswer::GeneralProtection,
            _ => ExitAnswer::Done,
        };
        let (value, branches) = (if what.writes() { 0x1234 } else { 0 }, exit as u64);
        bodies.push(Body::Exit { what, address, size, value, answer, branches, steps: branches / 2 });
    }
    (200u64..).zip(bodies).map(|(exit, body)| Event::new(at(exit), body)).collect()
}

/// Two captured sync points: one with pages in two events, one without any.
pub fn captures() -> Vec<Event> {
    let pages = |frames: Vec<u64>| {
        let mut bytes = vec![0; frames.len() * 4096];
        bytes.iter_mut().step_by(1000).zip(1..).for_each(|(byte, value)| *byte = value);
        CapturePages::pack(frames, &bytes).unwrap()
    };
    let raw = CapturePages { frames: vec![0x8000], codec: PageCodec::Raw, stored: vec![0x5a; 4096] };
    let packed = [pages(vec![0, 1, 0x7fff]), raw];
    let bytes = packed.iter().map(|pages| pages.stored.len() as u64).sum();
    let capture = |nanoseconds, interrupts, pages, bytes, state: &[u8]| {
        let state = state.to_vec();
        Body::Capture(Capture { nanoseconds, interrupts, pages, bytes, version: 1, state })
    };
    let mut bodies: Vec<Body> = packed.into_iter().map(Body::CapturePages).collect();
    bodies.push(capture(10_123_456, 1, 4, bytes, b"the processor"));
    let mut events: Vec<Event> = bodies.into_iter().map(|body| Event::new(at(150), body)).collect();
    events.push(input(150, b"x"));
    events.push(Event::new(at(151), capture(u64::MAX, 0, 0, 0, b"")));
    events
}

pub fn causes() -> Vec<EndCause> {
    let registers = GeneralRegisters {
        rax: 1,
        rsp: 0x7fff_ffff_ffff,
        r15: u64::MAX,
        rip: 0x1000,
        rflags: 2,
        ..Default::default()
    };
    let reasons = [
        StopReason::User,
        StopReason::HostTime,
        StopReason::GuestTime,
        StopReason::Silence,
        StopReason::Signal,
    ];
    let mut causes = vec![
        EndCause::PowerOff { status: 7 },
        EndCause::Reset,
        EndCause::Panic { message: "Attempted to kill init!".to_owned() },
        EndCause::TripleFault { rip: 0xfff0, bytes: vec![0x0f, 0x0b], last_exit: Box::new(registers) },
        EndCause::RefusedInstruction { rip: 0xffff_ffff_8100_0000, bytes: vec![] },
        EndCause::HaltedForever,
    ];
    causes.extend(reasons.map(|reason| EndCause::Stopped { reason }));
    causes
}

/// Writes and closes a recording.
pub fn write_closed(dir: &Path, events: &[Event], end: &Event) {
    let mut writer = Writer::create(dir, &header(), false).unwrap();
    events.iter().for_each(|event| writer.append(event).unwrap());
    writer.close(end).unwrap();
}

/// Writes a recording of `segments` small segments and leaves it as a killed recorder does.
pub fn write_crashed(dir: &Path, segments: u64) {
    let mut writer = Writer::create(dir, &header(), false).unwrap();
    for segment in 0..segments {
        writer.append(&input(segment * 10 + 1, b"some input\n")).unwrap();
        writer.append(&input(segment * 10 + 2, b"more input\n")).unwrap();
        writer.seal(&seal(segment * 10 + 3)).unwrap();
    }
}

/// Sets `file` to `bytes`, looks, puts the file back. In place: emptying a file first makes some file systems write
/// through to the disk, which is slow.
pub fn with<T>(file: &Path, bytes: &[u8], look: impl FnOnce() -> T) -> T {
    let before = fs::read(file).unwrap();
    let put = |bytes: &[u8]| {
        let file = OpenOptions::new().write(true).open(file).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    };
    put(bytes);
    let result = look();
    put(&before);
    result
}

/// All events, or the first error.
pub fn read_all(dir: &Path) -> Result<Vec<Event>, OpenError> {
    Recording::open(dir)?.events().collect()
}

/// The complete error: its message and those of its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(&format!(": {error}"));
        next = error.source();
    }
    text
}

/// Where each segment of an events file starts, and where the last one ends. From the magic and the lengths alone.
pub fn segment_bounds(events: &[u8]) -> Vec<usize> {
    let mut bounds = vec![0];
    let mut at = 0;
    while events[at..].starts_with(b"SCRSEGM1") {
        at += 60 + u32::from_le_bytes(events[at + 40..at + 44].try_into().unwrap()) as usize;
        bounds.push(at);
    }
    bounds
}

/// A segment made by hand, to be changed before it is encoded.
#[derive(Clone)]
pub struct Forged {
    pub serial: u64,
    pub start_exit: u64,
    pub end_exit: u64,
    pub events: u32,
    pub raw_length: Option<u32>,
    pub codec: u8,
    pub previous: u32,
    pub payload: Vec<u8>,
}

impl Forged {
    /// The first segment behind the header file in `dir`.
    pub fn first(dir: &Path, events: u32, end_exit: u64, payload: &[u8]) -> Forged {
        let header = fs::read(dir.join("header")).unwrap();
        let previous = u32::from_le_bytes(header[16..20].try_into().unwrap());
        let payload = payload.to_vec();
        Forged { serial: 0, start_exit: 0, end_exit, events, raw_length: None, codec: 0, previous, payload }
    }

    pub fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap();
        let mut out = b"SCRSEGM1".to_vec();
        out.extend(self.serial.to_le_bytes());
        out.extend(self.start_exit.to_le_bytes());
        out.extend(self.end_exit.to_le_bytes());
        out.extend(self.events.to_le_bytes());
        out.extend(self.raw_length.unwrap_or(length).to_le_bytes());
        out.extend(length.to_le_bytes());
        out.extend([self.codec, 0, 0, 0]);
        out.extend(self.previous.to_le_bytes());
        out.extend(crc32fast::hash(&self.payload).to_le_bytes());
        out.extend(crc32fast::hash(&out).to_le_bytes());
        out.extend(&self.payload);
        out
    }

    /// An events file of this segment and an index that fits it.
    pub fn closed(&self) -> Vec<u8> {
        let segment = self.encode();
        let crc = u32::from_le_bytes(segment[56..60].try_into().unwrap());
        let mut index = Vec::new();
        index.extend(0u64.to_le_bytes());
        index.extend(self.start_exit.to_le_bytes());
        index.extend(self.end_exit.to_le_bytes());
        index.extend(u64::from(self.events).to_le_bytes());
        index.extend(1u64.to_le_bytes());
        index.extend(crc.to_le_bytes());
        index.extend(crc32fast::hash(&index).to_le_bytes());
        index.extend(b"SCRINDEX");
        [segment, index].concat()
    }
}
