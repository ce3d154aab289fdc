//! How long a million events take to read and to print, for a clock outside, since there is none in here:
//!
//! ```text
//! cargo build --release -p scribe-log --example million
//! target/release/examples/million /tmp/million            # makes the recording
//! time target/release/examples/million /tmp/million       # reads it
//! time target/release/examples/million /tmp/million text >/dev/null
//! ```

use std::error::Error;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use scribe_log::header::{BootFile, Engine, Host, Level, Origin, Pace, TimeConstants};
use scribe_log::{Body, End, EndCause, Event, ExitAnswer, ExitKind, Header, Position, Recording, Writer};

const EVENTS: u64 = 1_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let dir = arguments.next().map(PathBuf::from).ok_or("usage: million DIR [text]")?;
    if !fs::exists(&dir)? {
        return make(&dir);
    }
    let recording = Recording::open(&dir)?;
    if arguments.next().is_none() {
        let mut count = 0;
        for event in recording.events() {
            event?;
            count += 1;
        }
        println!("{count} events");
        return Ok(());
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    for event in recording.events() {
        writeln!(out, "{}", event?)?;
    }
    out.flush()?;
    Ok(())
}

/// A million exits as a guest makes them: the console's status and data, the disk, halts.
fn make(dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut writer = Writer::create(dir, &header(), false)?;
    for exit in 1..=EVENTS {
        let (what, address, size) = match exit % 4 {
            0 => (ExitKind::PortRead, 0x3fd, 1),
            1 => (ExitKind::PortWrite, 0x3f8, 1),
            2 => (ExitKind::MmioWrite, 0xd000_0050, 4),
            _ => (ExitKind::Halt, 0, 0),
        };
        let answer =
            if what == ExitKind::PortRead { ExitAnswer::Value(exit % 256) } else { ExitAnswer::Done };
        let value = if what.writes() { exit % 128 } else { 0 };
        let branches = exit.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
        let body = Body::Exit { what, address, size, value, answer, branches, steps: branches % 9 };
        writer.append(&Event::new(Position::exit(exit), body))?;
        if exit % 1024 == 0 {
            writer
                .seal(&Event::new(Position::exit(exit), Body::Checkpoint { registers: exit, full: None }))?;
        }
    }
    let (cause, registers, full, inputs) = (EndCause::PowerOff { status: 0 }, 0, None, 0);
    let end = End { cause, registers, full, exits: EVENTS, guest_time: EVENTS * 2000, inputs };
    let sizes = writer.close(&Event::new(Position::exit(EVENTS), Body::End(end)))?;
    println!("{} bytes", sizes.total());
    Ok(())
}

fn header() -> Header {
    Header {
        program: "0.1.0".to_owned(),
        platform: "scribe-pc-1".to_owned(),
        engine: Engine::Soft,
        cpu: "scribe-v1".to_owned(),
        behaviour: None,
        digest_version: 1,
        counter: None,
        time: TimeConstants { ns_per_branch: 0, ns_per_exit: 2000 },
        memory: 128 << 20,
        vcpus: 1,
        image: None,
        kernel: BootFile { origin: Origin::Host, path: "vmlinux".into(), blake3: [0; 32] },
        initrd: None,
        cmdline: String::new(),
        command: Vec::new(),
        seed: [0; 32],
        rtc: 0,
        pace: Pace::Max,
        digest_every: 0,
        host: Host::default(),
        level: Level::Exits,
        chaos: None,
        parent: None,
        start: None,
        devices: Vec::new(),
    }
}
