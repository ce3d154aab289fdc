//! The user's terminal: raw while the guest has it, and back as it was after any kind of end, a panic included.
#![allow(unsafe_code)] // tcgetattr, tcsetattr

use std::io::IsTerminal;

/// While this lives, standard input is raw: every key goes to the guest, also Ctrl-C. Output processing stays on.
#[derive(Debug)]
pub struct RawTerminal {
    saved: libc::termios,
}

impl RawTerminal {
    /// Makes standard input raw. `None` if it is no terminal.
    pub fn enter() -> Option<Self> {
        if !std::io::stdin().is_terminal() {
            return None;
        }
        let mut saved = std::mem::MaybeUninit::<libc::termios>::uninit();
        // SAFETY: tcgetattr fills the whole structure if it returns 0, and only then is it used.
        let saved = unsafe {
            if libc::tcgetattr(libc::STDIN_FILENO, saved.as_mut_ptr()) != 0 {
                return None;
            }
            saved.assume_init()
        };
        let mut raw = saved;
        raw.c_iflag &= !(libc::ICRNL | libc::INLCR | libc::IGNCR | libc::ISTRIP | libc::IXON | libc::BRKINT);
        raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ECHONL | libc::ISIG | libc::IEXTEN);
        raw.c_cc[libc::VMIN] = 1;
        raw.c_cc[libc::VTIME] = 0;
        // SAFETY: `raw` is a valid termios, derived from one that the kernel filled in.
        let set = unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw) };
        (set == 0).then_some(Self { saved })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // SAFETY: `saved` is what tcgetattr gave.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &self.saved) };
    }
}

/// What a key press at the terminal comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// for the guest
    Byte(u8),
    /// Ctrl-A x
    Quit,
    /// Ctrl-A h
    Help,
    /// Ctrl-A b: a bookmark here, whose name comes next
    Mark,
    /// the bookmark's name, as far as it is typed
    Naming(String),
    /// the bookmark's name; empty if the user gave none
    Named(String),
    /// no bookmark after all
    Unmark,
    /// the first half of a command, or an unknown one
    Nothing,
}

/// Finds the Ctrl-A commands among the bytes typed.
#[derive(Debug, Default)]
pub struct Keys {
    escaped: bool,
    /// the name of a bookmark, while it is typed
    name: Option<String>,
}

impl Keys {
    const CTRL_A: u8 = 1;
    const CTRL_C: u8 = 3;
    const BACKSPACE: u8 = 8;
    const ESCAPE: u8 = 27;
    const DELETE: u8 = 127;

    /// Takes one byte from the terminal.
    pub fn take(&mut self, byte: u8) -> Key {
        if self.name.is_some() {
            return self.take_name(byte);
        }
        if !self.escaped {
            self.escaped = byte == Self::CTRL_A;
            return if self.escaped { Key::Nothing } else { Key::Byte(byte) };
        }
        self.escaped = false;
        match byte {
            b'x' | b'X' => Key::Quit,
            b'h' | b'?' => Key::Help,
            b'b' | b'B' => {
                self.name = Some(String::new());
                Key::Mark
            }
            Self::CTRL_A => Key::Byte(byte),
            _ => Key::Nothing,
        }
    }

    fn take_name(&mut self, byte: u8) -> Key {
        let mut name = self.name.take().unwrap_or_default();
        match byte {
            b'\r' | b'\n' => return Key::Named(name),
            Self::ESCAPE | Self::CTRL_C => return Key::Unmark,
            Self::BACKSPACE | Self::DELETE => drop(name.pop()),
            // What a bookmark's name can be made of; whether it is one is for the recording to say.
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => name.push(char::from(byte)),
            _ => {}
        }
        self.name = Some(name.clone());
        Key::Naming(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_among_bytes() {
        let mut keys = Keys::default();
        let found: Vec<Key> = b"a\x01\x01b\x01x\x01qc".iter().map(|byte| keys.take(*byte)).collect();
        let (byte, none) = (Key::Byte, Key::Nothing);
        let quit = [none.clone(), Key::Quit, none.clone(), none.clone()];
        let text = [byte(b'a'), none, byte(1), byte(b'b')];
        assert_eq!(found, [text.as_slice(), &quit, &[byte(b'c')]].concat());
    }

    #[test]
    fn a_bookmark_is_named_after_it_was_set() {
        let mut keys = Keys::default();
        let mut take = |bytes: &[u8]| -> Vec<Key> { bytes.iter().map(|byte| keys.take(*byte)).collect() };
        let naming = |name: &str| Key::Naming(name.into());
        let named = [naming("o"), naming("ox"), naming("o"), naming("ok"), Key::Named("ok".into())];
        assert_eq!(take(b"\x01b"), [Key::Nothing, Key::Mark]);
        assert_eq!(take(b"ox\x7fk\r"), named);
        assert_eq!(
            take(b"q\x01b\x1bq"),
            [Key::Byte(b'q'), Key::Nothing, Key::Mark, Key::Unmark, Key::Byte(b'q')]
        );
        assert_eq!(take(b"\x01b/\n"), [Key::Nothing, Key::Mark, naming(""), Key::Named(String::new())]);
    }
}
