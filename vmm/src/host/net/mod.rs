//! The guest's network on the host's side: where its frames go and come from. Frames for the guest come through the
//! event loop as events; frames of the guest are handed to a thread that writes them, so that a peer that does not read
//! never holds the guest up. A frame that finds no room is lost, as on a wire.

mod passt;
pub mod pcap;
mod stream;
mod tap;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use scribe_devices::virtio::net::Frame;

use stream::Unframer;

/// Frames of the guest that may wait to be written.
const MOST_WAITING: usize = 256;
/// Bytes read at once.
const READ: usize = 64 * 1024;

/// What the guest's network is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// passt: the host's network as any program sees it, without privileges
    User,
    /// a tap interface of the host that exists, or that root may make
    Tap(String),
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// passt is not there.
    #[error(
        "--net user needs the program passt, which cannot be started: {0}; install it (Debian: apt-get install passt), \
         or use --net tap=NAME or --net none"
    )]
    Passt(#[source] std::io::Error),
    /// The tap interface.
    #[error(
        "--net tap={name}: {what}: {source}; it needs root, or an interface made for this user (ip tuntap add)"
    )]
    Tap {
        /// its name
        name: String,
        /// what was tried
        what: &'static str,
        /// errno
        source: std::io::Error,
    },
    /// A name that no interface can have.
    #[error("--net tap={0}: an interface's name is 1 to 15 bytes without slashes and spaces")]
    Name(String),
    /// The host gave no thread or file descriptor.
    #[error("the network's connection to the host: {0}")]
    Host(#[source] std::io::Error),
}

/// A connection in both directions.
#[derive(Debug)]
pub struct Connection {
    /// frames for the guest
    pub incoming: Incoming,
    /// frames of the guest
    pub outgoing: Outgoing,
}

/// Where frames for the guest come from.
#[derive(Debug)]
pub struct Incoming {
    wire: Wire,
}

#[derive(Debug)]
enum Wire {
    /// frames behind each other, each behind its length
    Stream(UnixStream, Unframer),
    /// a frame a read
    Tap(File),
}

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// these frames, perhaps none
    Frames(Vec<Frame>),
    /// there is nothing more to come: why
    Lost(String),
}

/// Where frames of the guest go. Closes the connection when it goes.
#[derive(Debug)]
pub struct Outgoing {
    sender: Option<SyncSender<Frame>>,
    thread: Option<JoinHandle<()>>,
    stream: Option<UnixStream>,
    child: Option<Child>,
    /// frames that found no room
    lost: u64,
}

/// Opens a connection.
///
/// # Errors
/// One line that says what is missing and what to do.
pub fn open(backend: &Backend) -> Result<Connection, NetError> {
    match backend {
        Backend::User => {
            let (stream, child) = passt::start()?;
            let writer = stream.try_clone().map_err(NetError::Host)?;
            let reader = stream.try_clone().map_err(NetError::Host)?;
            let outgoing = Outgoing::start(writer, stream::put, Some(stream), Some(child))?;
            Ok(Connection {
                incoming: Incoming { wire: Wire::Stream(reader, Unframer::default()) },
                outgoing,
            })
        }
        Backend::Tap(name) => {
            let file = tap::open(name)?;
            let writer = file.try_clone().map_err(NetError::Host)?;
            let outgoing = Outgoing::start(writer, |out, bytes| out.extend_from_slice(bytes), None, None)?;
            Ok(Connection { incoming: Incoming { wire: Wire::Tap(file) }, outgoing })
        }
    }
}

impl Incoming {
    /// Reads what is there; waits if nothing is.
    pub fn read(&mut self) -> Taken {
        let mut buffer = vec![0; READ];
        let count = match &mut self.wire {
            Wire::Stream(stream, _) => std::io::Read::read(stream, &mut buffer),
            Wire::Tap(file) => std::io::Read::read(file, &mut buffer),
        };
        let bytes = match count {
            Ok(0) => return Taken::Lost("it has ended".into()),
            Ok(count) => buffer.get(..count).unwrap_or_default(),
            Err(error) => return Taken::Lost(error.to_string()),
        };
        match &mut self.wire {
            // What is no frame on this network (too long, for there is no way to cut it) does not arrive.
            Wire::Tap(_) => Taken::Frames(Frame::new(bytes.to_vec()).into_iter().collect()),
            Wire::Stream(_, unframer) => match unframer.take(bytes) {
                Ok(frames) => Taken::Frames(frames),
                Err(error) => Taken::Lost(error.to_string()),
            },
        }
    }
}

impl AsRawFd for Incoming {
    fn as_raw_fd(&self) -> RawFd {
        match &self.wire {
            Wire::Stream(stream, _) => stream.as_raw_fd(),
            Wire::Tap(file) => file.as_raw_fd(),
        }
    }
}

impl Outgoing {
    fn start<W: Write + Send + 'static>(
        mut writer: W,
        put: fn(&mut Vec<u8>, &[u8]),
        stream: Option<UnixStream>,
        child: Option<Child>,
    ) -> Result<Self, NetError> {
        let (sender, frames) = sync_channel::<Frame>(MOST_WAITING);
        let work = move || {
            let mut bytes = Vec::new();
            for frame in frames {
                bytes.clear();
                put(&mut bytes, frame.bytes());
                // A peer that has gone is told of by the reading side. A tap that is down refuses single frames.
                let _ = writer.write_all(&bytes);
            }
        };
        let thread =
            std::thread::Builder::new().name("net-out".into()).spawn(work).map_err(NetError::Host)?;
        Ok(Self { sender: Some(sender), thread: Some(thread), stream, child, lost: 0 })
    }

    /// Sends a frame, or loses it.
    pub fn send(&mut self, frame: Frame) {
        if let Some(Err(TrySendError::Full(_))) = self.sender.as_ref().map(|sender| sender.try_send(frame)) {
            self.lost += 1;
        }
    }

    /// What the program behind the connection said last, if there is one and it has ended.
    pub fn last_words(&mut self) -> Option<String> {
        let child = self.child.as_mut()?;
        child.try_wait().ok().flatten()?;
        let mut said = String::new();
        let errors = child.stderr.take()?;
        std::io::Read::read_to_string(&mut std::io::Read::take(errors, 4096), &mut said).ok()?;
        // It complains about a system log that is not there.
        said.lines().rfind(|line| !line.trim().is_empty() && !line.contains("syslog")).map(str::to_owned)
    }

    /// Frames that found no room so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(stream) = &self.stream {
            // Wakes a thread that waits for a peer which does not read.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn frame(byte: u8) -> Frame {
        Frame::new(vec![byte; 60]).unwrap()
    }

    /// A connection, and its other end.
    pub(crate) fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let outgoing =
            Outgoing::start(ours.try_clone().unwrap(), stream::put, Some(ours.try_clone().unwrap()), None)
                .unwrap();
        let incoming = Incoming { wire: Wire::Stream(ours, Unframer::default()) };
        (Connection { incoming, outgoing }, theirs)
    }

    #[test]
    fn frames_go_both_ways() {
        let (mut connection, mut peer) = pair();
        connection.outgoing.send(frame(1));
        let mut bytes = [0; 64];
        std::io::Read::read_exact(&mut peer, &mut bytes).unwrap();
        assert_eq!((&bytes[..4], &bytes[4..]), (&[0, 0, 0, 60][..], &[1; 60][..]));
        peer.write_all(&bytes).unwrap();
        assert_eq!(connection.incoming.read(), Taken::Frames(vec![frame(1)]));
        drop(peer);
        assert!(matches!(connection.incoming.read(), Taken::Lost(_)));
        connection.outgoing.send(frame(2)); // nobody is there, which is no error
    }

    #[test]
    fn a_peer_that_does_not_read_holds_nobody_up() {
        let (mut connection, peer) = pair();
        for _ in 0..100_000 {
            connection.outgoing.send(Frame::new(vec![0; 1514]).unwrap());
        }
        assert!(connection.outgoing.lost() > 0);
        drop(connection);
        drop(peer);
    }
}
