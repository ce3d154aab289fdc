//! How long it takes to add and to load a snapshot of RAM: `cargo run --release -p scribe-log --example snapshot-bench --
//! DIR DUMP...`, with DUMP a file of raw RAM. The snapshots are made below DIR, one after the other in one recording.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a tool for developers")]
#![allow(clippy::disallowed_methods, reason = "measures the host's time")]

use std::io;
use std::path::Path;
use std::time::Instant;

use scribe_log::snapshots::{
    NewSnapshot, Origin, PAGE_BYTES, PageMap, PageSink, PageSource, Part, RAM, Snapshots, Visit,
};
use scribe_log::{HEADER_FILE, Position};

const BLOCK: usize = 256 * 1024;

struct Ram(Vec<u8>);

impl PageSource for Ram {
    fn spaces(&self) -> Vec<u32> {
        vec![RAM]
    }

    fn pages(&mut self, _: u32, visit: &mut Visit<'_>) -> io::Result<()> {
        let step = (BLOCK / PAGE_BYTES) as u64;
        // Copied first, as from guest RAM that another thread could write.
        let mut copy = vec![0; BLOCK];
        for (number, block) in (0..).zip(self.0.chunks(BLOCK)) {
            copy[..block.len()].copy_from_slice(block);
            visit(number * step, &copy[..block.len()])?;
        }
        Ok(())
    }
}

impl PageSink for Ram {
    fn begin(&mut self, _: &PageMap) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, _: u32, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        let from = usize::try_from(first_page).unwrap() * PAGE_BYTES;
        self.0[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// A header: any will do.
const HEADER: &[u8] = include_bytes!("../tests/golden/v1-complete/header");

fn milliseconds<T>(action: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let result = action();
    (result, start.elapsed().as_secs_f64() * 1e3)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().expect("usage: snapshot-bench DIR DUMP...");
    let dir = Path::new(&dir);
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join(HEADER_FILE), HEADER).unwrap();
    let crc = u32::from_le_bytes(HEADER[16..20].try_into().unwrap());
    let mut snapshots = Snapshots::open(dir, crc).unwrap();
    let repeat = std::env::var("REPEAT").map_or(7, |text| text.parse().unwrap());
    for (number, dump) in (1..).zip(arguments) {
        let mut ram = Ram(std::fs::read(&dump).unwrap());
        let part = Part { kind: "cpu".to_owned(), version: 1, bytes: vec![1; 4096] };
        let position = Position::exit(number);
        let new = NewSnapshot { position, guest_time: 0, origin: Origin::Asked, parts: vec![part] };
        let before = snapshots.usage().unwrap().packs;
        let (info, add) = milliseconds(|| snapshots.add(&new, &mut ram).unwrap());
        let added = snapshots.usage().unwrap().packs - before;
        println!(
            "{dump}: {} pages not zero, {:.1} MiB; {} KiB added to the pack, {} KiB of its own; add {add:.1} ms",
            info.pages,
            info.pages as f64 / 256.0,
            added >> 10,
            info.bytes >> 10
        );
        let mut fresh: Vec<f64> = Vec::new();
        let mut again: Vec<f64> = Vec::new();
        for _ in 0..repeat {
            // Into RAM that was never touched, so that the host has to find the pages; and then into the same RAM.
            let mut back = Ram(vec![0; ram.0.len()]);
            fresh.push(milliseconds(|| snapshots.load(&info, &mut back).unwrap()).1);
            assert!(back.0 == ram.0);
            again.push(milliseconds(|| snapshots.load(&info, &mut back).unwrap()).1);
        }
        fresh.sort_by(f64::total_cmp);
        again.sort_by(f64::total_cmp);
        println!(
            "    load into new RAM {:.1} ms (least {:.1}), into used RAM {:.1} ms (least {:.1})",
            fresh[repeat / 2],
            fresh[0],
            again[repeat / 2],
            again[0]
        );
    }
    let (verified, verify) = milliseconds(|| snapshots.verify());
    let (freed, compact) = milliseconds(|| snapshots.compact().unwrap());
    println!(
        "verify {verify:.1} ms ({} errors), compact {compact:.1} ms ({} KiB freed)",
        verified.len(),
        freed >> 10
    );
}
