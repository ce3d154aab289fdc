//! A program that is spoken to, with the host's time of every word: when it was written into the pipe, when the program
//! admitted it (it says so on standard error), and when its answer came out.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use scribe_vmm::host::clock;

/// What makes the program say when it admits input.
pub const LOG: (&str, &str) = ("SCRIBE_VMM_LOG", "input=debug");

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
struct Heard {
    bytes: Vec<u8>,
    /// when how many bytes had come
    stamps: Vec<(u64, usize)>,
}

type Shared = Arc<(Mutex<Heard>, Condvar)>;

/// The program at work.
#[derive(Debug)]
pub struct Conversation {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Shared,
    stderr: Shared,
    readers: Vec<JoinHandle<()>>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// exit code; -1 after a signal
    pub code: i32,
    /// standard output
    pub stdout: Vec<u8>,
    /// standard error
    pub stderr: String,
}

/// Input that the program admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// host time, ns since 1970
    pub host: u64,
    /// where in the guest's course
    pub position: String,
    /// guest time there, ns
    pub guest: u64,
    /// bytes
    pub bytes: u64,
}

fn listen(mut from: impl Read + Send + 'static) -> (Shared, JoinHandle<()>) {
    let shared = Shared::default();
    let sink = Arc::clone(&shared);
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let now = clock::unix_ns();
            let mut heard = sink.0.lock().unwrap();
            heard.bytes.extend_from_slice(&buffer[..count]);
            let length = heard.bytes.len();
            heard.stamps.push((now, length));
            sink.1.notify_all();
        }
    });
    (shared, reader)
}

impl Conversation {
    /// Starts the program, whose standard streams are pipes.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.env(LOG.0, LOG.1).spawn().unwrap();
        let (stdout, first) = listen(child.stdout.take().unwrap());
        let (stderr, second) = listen(child.stderr.take().unwrap());
        let stdin = child.stdin.take();
        Self { child, stdin, stdout, stderr, readers: vec![first, second] }
    }

    /// Writes to its standard input; gives the host's time before.
    pub fn says(&mut self, bytes: &[u8]) -> u64 {
        let now = clock::unix_ns();
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(bytes).and_then(|()| stdin.flush()).unwrap();
        now
    }

    /// Bytes of standard output so far.
    pub fn heard(&self) -> usize {
        self.stdout.0.lock().unwrap().bytes.len()
    }

    /// Waits until its standard output contains `words` behind byte `from`; gives the host's time when they were there.
    #[track_caller]
    pub fn hears(&self, words: &[u8], from: usize) -> u64 {
        Self::wait(&self.stdout, words, from, &self.stderr)
    }

    /// As [`hears`](Self::hears), on standard error.
    #[track_caller]
    pub fn reports(&self, words: &[u8], from: usize) -> u64 {
        Self::wait(&self.stderr, words, from, &self.stdout)
    }

    #[track_caller]
    fn wait(shared: &Shared, words: &[u8], from: usize, other: &Shared) -> u64 {
        let find = |heard: &Heard| {
            let found = heard.bytes[from..].windows(words.len()).position(|window| window == words)?;
            let end = from + found + words.len();
            heard.stamps.iter().find(|(_, length)| *length >= end).map(|(at, _)| *at)
        };
        let guard = shared.0.lock().unwrap();
        let (guard, _) = shared.1.wait_timeout_while(guard, LIMIT, |heard| find(heard).is_none()).unwrap();
        find(&guard).unwrap_or_else(|| {
            let words = String::from_utf8_lossy(words).into_owned();
            let text = String::from_utf8_lossy(&guard.bytes).into_owned();
            let other = String::from_utf8_lossy(&other.0.lock().unwrap().bytes).into_owned();
            panic!("no {words:?}:\n{text}\n---\n{other}")
        })
    }

    /// Sends it a signal: `INT`, `KILL`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Closes its standard input and waits for its end.
    pub fn finish(mut self) -> Ended {
        drop(self.stdin.take());
        let status = self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let take = |shared: &Shared| std::mem::take(&mut shared.0.lock().unwrap().bytes);
        let stderr = String::from_utf8_lossy(&take(&self.stderr)).into_owned();
        Ended { code: status.code().unwrap_or(-1), stdout: take(&self.stdout), stderr }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// What was admitted, in order.
    pub fn admissions(&self) -> Vec<Admission> {
        self.stderr.lines().filter_map(admission).collect()
    }
}

/// `... input: N bytes at POSITION, N ns of guest time, host time N ns`
fn admission(line: &str) -> Option<Admission> {
    let (bytes, rest) = line.split_once(" input: ")?.1.split_once(" bytes at ")?;
    let (position, rest) = rest.split_once(", ")?;
    let (guest, rest) = rest.split_once(" ns of guest time, host time ")?;
    Some(Admission {
        host: rest.strip_suffix(" ns")?.parse().ok()?,
        position: position.into(),
        guest: guest.parse().ok()?,
        bytes: bytes.parse().ok()?,
    })
}

/// Median and most of times in ns, in ms for people.
pub fn spread(times: &[u64]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let ms = |ns: u64| format!("{}.{:02}", ns / 1_000_000, ns % 1_000_000 / 10_000);
    let most = sorted.last().copied().unwrap_or_default();
    format!("median {} ms, most {} ms of {}", ms(median(times)), ms(most), times.len())
}

/// The median; 0 of nothing.
pub fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_says_of_input_is_understood() {
        let line =
            "2026-01-01T00:00:00Z DEBUG input: 2 bytes at exit:7+12+3, 99 ns of guest time, host time 123 ns";
        let expected = Admission { host: 123, position: "exit:7+12+3".into(), guest: 99, bytes: 2 };
        assert_eq!(admission(line), Some(expected));
        assert_eq!(admission("scribe-vmm: input: none"), None);
        assert_eq!(spread(&[3_000_000, 1_000_000, 2_340_000]), "median 2.34 ms, most 3.00 ms of 3");
    }
}
