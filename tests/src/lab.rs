//! Whole machines: the real program, called as a user calls it, on the real image.
//!
//! In the lab (tests/lab/README.md) they run on its KVM, elsewhere on the soft engine. [`Lab::anywhere`] is for tests of
//! what both do, [`Lab::enter`] and [`Soft`](Lab::on_soft) for the rest; a test that cannot run says so.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use scribe_log::{Body, End, Event, Recording};
use scribe_vmm::host::clock;
use scribe_vmm::session::choice::Wish;

/// Seconds that one call of the program may take.
const LIMIT_S: u64 = 180;
/// Where images' digests are remembered (vmm/src/session/files.rs), in a home of recordings.
const DIGESTS: &str = "image-digests.json";
/// The program, in the checkout.
const PROGRAM: &str = "target/release/scribe-vmm";
/// What most guests of the tests do not need more of; less RAM is less to hash.
pub const MEMORY: &str = "--memory=64M";

/// Host kicks at random intervals, in microseconds.
pub const KICKS: [&str; 2] = ["--perturb", "500..10000"];

/// A path in the checkout, which is the same inside and outside the lab.
pub fn in_checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// The demo image.
pub fn image() -> PathBuf {
    in_checkout("target/guest/demo.img")
}

fn in_lab() -> bool {
    std::env::var_os("SCRIBE_LAB").is_some()
}

/// Around libtest, which swallows what a passing test prints.
fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED ({why}): {test}");
}

/// A test's own place: a folder, removed at its end, with a home for recordings.
#[derive(Debug)]
pub struct Lab {
    folder: tempfile::TempDir,
    engine: &'static str,
}

impl Lab {
    /// A place for `test` on the lab's KVM, or `None` outside the lab, which is said loudly.
    pub fn enter(test: &str) -> Option<Self> {
        if in_lab() {
            return Some(Self::new("kvm"));
        }
        skipped(test, "not in the lab");
        None
    }

    /// A place for `test` on the soft engine, outside the lab: in there a processor would be emulated by an emulated one.
    pub fn on_soft(test: &str) -> Option<Self> {
        if in_lab() {
            return None;
        }
        for needed in [image(), in_checkout(PROGRAM)] {
            if !needed.exists() {
                skipped(test, &format!("{} is missing: make image build", needed.display()));
                return None;
            }
        }
        Some(Self::new("soft"))
    }

    /// A place for `test` on the lab's KVM, and elsewhere on the soft engine.
    pub fn anywhere(test: &str) -> Option<Self> {
        if in_lab() { Self::enter(test) } else { Self::on_soft(test) }
    }

    fn new(engine: &'static str) -> Self {
        // On a disk, as in the lab /tmp is in RAM, and a test may copy the image.
        let parent = if in_lab() { std::env::var_os("HOME").unwrap().into() } else { in_checkout("target") };
        let lab = Self { folder: tempfile::tempdir_in(parent).unwrap(), engine };
        // The image is hashed once for all tests, not once for each home.
        static WARM: OnceLock<Vec<u8>> = OnceLock::new();
        let digests = WARM.get_or_init(|| {
            let image = image();
            let guest = ["run", MEMORY, "--engine", engine, "--image", text(&image), "--", "true"];
            lab.call(&guest).finish().ends_with(0);
            std::fs::read(lab.path("home").join(DIGESTS)).unwrap()
        });
        std::fs::create_dir_all(lab.path("home")).unwrap();
        std::fs::write(lab.path("home").join(DIGESTS), digests).unwrap();
        lab
    }

    /// Whether guests run on the soft engine.
    pub fn is_soft(&self) -> bool {
        self.engine == "soft"
    }

    /// What executes guests, as the library is asked for it.
    pub fn wish(&self) -> Wish {
        if self.is_soft() { Wish::Soft } else { Wish::Kvm }
    }

    /// A path in this test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A call of the program with these arguments, and nothing on its standard input.
    pub fn call(&self, arguments: &[&str]) -> Call {
        let mut command = Command::new(in_checkout(PROGRAM));
        command.args(arguments).current_dir(self.folder.path()).env("SCRIBE_VMM_HOME", self.path("home"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Call { title: arguments.join(" "), command }
    }

    /// Records `guest` (options, `--`, command) of the demo image as `name`. Everything a recording depends on is fixed.
    pub fn recorder(&self, name: &str, guest: &[&str]) -> Call {
        let image = image();
        let mut arguments = vec!["record", "--image", text(&image), "--rtc", "2026-01-01", "--seed", "5c"];
        if !guest.contains(&"--engine") {
            arguments.extend(["--engine", self.engine]);
        }
        arguments.extend(["-o", name]);
        arguments.extend(guest);
        self.call(&arguments)
    }

    /// Records as [`recorder`](Self::recorder) and expects exit code 0.
    pub fn record(&self, name: &str, guest: &[&str]) -> Outcome {
        self.recorder(name, guest).finish().ends_with(0)
    }

    /// Replays recording `name` with further options.
    pub fn replay(&self, name: &str, options: &[&str]) -> Outcome {
        let mut arguments = vec!["replay"];
        arguments.extend(options);
        arguments.push(name);
        self.call(&arguments).finish()
    }

    /// Replays recording `name` with and without host kicks, and expects what [`replays`](Self::replays) does.
    pub fn replays_equal(&self, name: &str, recorded: &Outcome) {
        self.replays(name, recorded, &[]);
        self.replays(name, recorded, &KICKS);
    }

    /// Replays recording `name` with these options, and expects the code and output that recording it gave. The program
    /// itself compares positions, registers, RAM and devices.
    pub fn replays(&self, name: &str, recorded: &Outcome, options: &[&str]) {
        let replayed = self.replay(name, options).ends_with(recorded.code);
        assert!(
            replayed.stdout == recorded.stdout,
            "the console differs\n{recorded}\n{replayed}\nfirst difference at byte {}",
            first_difference(&replayed.stdout, &recorded.stdout)
        );
        replayed.says("digests equal");
    }

    /// The recording `name`, read by the library.
    pub fn recording(&self, name: &str) -> Recording {
        Recording::open(&self.path(name)).unwrap()
    }

    /// All events of recording `name`.
    pub fn events(&self, name: &str) -> Vec<Event> {
        self.recording(name).events().map(Result::unwrap).collect()
    }

    /// The end of recording `name`.
    pub fn end(&self, name: &str) -> End {
        match self.recording(name).last() {
            Some(Event { body: Body::End(end), .. }) => end.clone(),
            other => panic!("{name} does not end with an end: {other:?}"),
        }
    }

    /// Copies recording `from` to `to`, its snapshots too.
    pub fn copy_recording(&self, from: &str, to: &str) {
        std::fs::create_dir_all(self.path(to)).unwrap();
        for entry in std::fs::read_dir(self.path(from)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let (from, to) = (format!("{from}/{name}"), format!("{to}/{name}"));
            if self.path(&from).is_dir() {
                self.copy_recording(&from, &to);
            } else {
                std::fs::copy(self.path(&from), self.path(&to)).unwrap();
            }
        }
    }
}

/// Prints a figure for `make show-replay` and `make soak-replay`, which collect such lines into a table.
pub fn figure(name: &str, value: impl std::fmt::Display) {
    println!("\nfigure: {name}: {value}");
}

/// How often to do something: what environment variable `name` says, else `usual`. The soak asks for more than the tests.
pub fn count(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |value| value.parse().unwrap())
}

/// A path as an argument; paths in the lab are UTF-8.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Where two byte strings begin to differ.
pub fn first_difference(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Polls `done` until it is true or `seconds` have passed; tells which.
pub fn wait_until(seconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let deadline = clock::monotonic_ns() + seconds * 1_000_000_000;
    loop {
        if done() {
            return true;
        }
        if clock::monotonic_ns() > deadline {
            return false;
        }
        clock::sleep_ns(10_000_000);
    }
}

/// A call of the program that has not begun.
#[derive(Debug)]
pub struct Call {
    title: String,
    command: Command,
}

impl Call {
    /// Its standard input is this file.
    pub fn input(mut self, path: &Path) -> Self {
        self.command.stdin(File::open(path).unwrap());
        self
    }

    /// Its standard input is a pipe that [`Running::types`] writes to.
    pub fn typed(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// Its standard streams are a terminal: what it says on standard error is among its output, in which lines end with a
    /// carriage return too.
    pub fn on_a_terminal(self) -> Self {
        let words = [self.command.get_program()].into_iter().chain(self.command.get_args());
        let quoted: Vec<String> =
            words.map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''"))).collect();
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--flush", "--command", &quoted.join(" "), "/dev/null"]);
        command.current_dir(self.command.get_current_dir().unwrap());
        command.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { title: self.title, command }
    }

    /// With an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// The call as a command whose standard streams are pipes, for those who look at when what comes.
    pub fn into_command(self) -> Command {
        self.typed().command
    }

    /// Starts the program.
    pub fn start(mut self) -> Running {
        let mut child = self.command.spawn().unwrap();
        let (stdout, reads_stdout) = collect(child.stdout.take().unwrap());
        let (stderr, reads_stderr) = collect(child.stderr.take().unwrap());
        let stdin = child.stdin.take();
        Running { title: self.title, child, stdin, stdout, stderr, readers: [reads_stdout, reads_stderr] }
    }

    /// Starts the program and waits for its end.
    pub fn finish(self) -> Outcome {
        self.start().finish()
    }
}

type Bytes = Arc<Mutex<Vec<u8>>>;

fn collect(mut from: impl Read + Send + 'static) -> (Bytes, JoinHandle<()>) {
    let bytes = Bytes::default();
    let sink = bytes.clone();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            sink.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
    });
    (bytes, reader)
}

/// The program at work.
#[derive(Debug)]
pub struct Running {
    title: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Bytes,
    stderr: Bytes,
    readers: [JoinHandle<()>; 2],
}

impl Running {
    /// Types on its standard input.
    pub fn types(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        // A program that has ended reads no more; its outcome says why.
        let _ = stdin.write_all(bytes).and_then(|()| stdin.flush());
    }

    /// Waits until its standard output contains `words`.
    pub fn waits_for(&self, words: &str) {
        self.wait(&self.stdout, words);
    }

    /// Waits until its standard error contains `words`.
    pub fn waits_for_message(&self, words: &str) {
        self.wait(&self.stderr, words);
    }

    fn wait(&self, bytes: &Bytes, words: &str) {
        let contains = || String::from_utf8_lossy(&bytes.lock().unwrap()).contains(words);
        assert!(wait_until(LIMIT_S, contains), "no {words:?} from {}:\n{}", self.title, self.so_far());
    }

    fn so_far(&self) -> String {
        let part = |bytes: &Bytes| String::from_utf8_lossy(&bytes.lock().unwrap()).into_owned();
        format!("--- stdout\n{}\n--- stderr\n{}", part(&self.stdout), part(&self.stderr))
    }

    /// Sends it a signal: `INT`, `TERM`, `KILL`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Outcome {
        drop(self.stdin.take());
        let mut status = None;
        let ended = wait_until(LIMIT_S, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        if !ended {
            let _ = self.child.kill();
            panic!("{} took more than {LIMIT_S} s\n{}", self.title, self.so_far());
        }
        for reader in self.readers {
            reader.join().unwrap();
        }
        let take = |bytes: &Bytes| std::mem::take(&mut *bytes.lock().unwrap());
        Outcome {
            title: self.title,
            code: status.unwrap().code().unwrap_or(-1),
            stdout: take(&self.stdout),
            stderr: String::from_utf8_lossy(&take(&self.stderr)).into_owned(),
        }
    }
}

/// How a call of the program ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    title: String,
    /// exit code; -1 after a signal
    pub code: i32,
    /// the guest's console, or the data asked for
    pub stdout: Vec<u8>,
    /// what the program said
    pub stderr: String,
}

impl Outcome {
    /// Of a call that somebody else has made.
    pub fn of(title: &str, code: i32, stdout: Vec<u8>, stderr: String) -> Self {
        Self { title: title.into(), code, stdout, stderr }
    }

    /// Expects this exit code.
    pub fn ends_with(self, code: i32) -> Self {
        assert!(self.code == code, "exit code {} instead of {code}: {self}", self.code);
        self
    }

    /// Expects these words on standard error.
    pub fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "stderr does not say {words:?}: {self}");
        self
    }

    /// Expects these words on standard output.
    pub fn shows(self, words: &str) -> Self {
        assert!(self.console().contains(words), "stdout does not contain {words:?}: {self}");
        self
    }

    /// Expects one line on standard error, from us, that names a cause: `scribe-vmm: ...`.
    pub fn says_one_line(self) -> Self {
        // The line that says which engine it is does not count.
        let lines: Vec<&str> =
            self.stderr.lines().filter(|line| !line.starts_with("scribe-vmm: engine ")).collect();
        let clear = matches!(lines[..], [line] if line.starts_with("scribe-vmm: ") && line.len() < 400);
        assert!(clear, "not one clear line: {self}");
        self
    }

    /// Standard output as text.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { title, code, stderr, .. } = self;
        write!(f, "`{title}` [{code}]\n--- stdout\n{}\n--- stderr\n{stderr}", self.console())
    }
}

/// A program that keeps a processor busy, until dropped.
#[derive(Debug)]
pub struct Load(Child);

impl Load {
    /// Starts it.
    pub fn start() -> Self {
        Self(Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Random numbers for moments and places. The seed goes into the test's output, so that a failure can be repeated.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// Seeded by $SCRIBE_TEST_SEED or else the clock.
    pub fn new(test: &str) -> Self {
        let given = std::env::var("SCRIBE_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
        let seed = given.unwrap_or_else(|| {
            (clock::unix_seconds() << 20) ^ u64::from(std::process::id()) ^ test.len() as u64
        });
        println!("{test}: SCRIBE_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        // xorshift64 (Marsaglia 2003)
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit
    }
}
