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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// for the guest
    Byte(u8),
    /// Ctrl-A x
    Quit,
    /// Ctrl-A h
    Help,
    /// the first half of a command, or an unknown one
    Nothing,
}

/// Finds the Ctrl-A commands among the bytes typed.
#[derive(Debug, Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    const CTRL_A: u8 = 1;

    /// Takes one byte from the terminal.
    pub fn take(&mut self, byte: u8) -> Key {
        if !self.escaped {
            self.escaped = byte == Self::CTRL_A;
            return if self.escaped { Key::Nothing } else { Key::Byte(byte) };
        }
        self.escaped = false;
        match byte {
            b'x' | b'X' => Key::Quit,
            b'h' | b'?' => Key::Help,
            Self::CTRL_A => Key::Byte(byte),
            _ => Key::Nothing,
        }
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
        assert_eq!(found, [byte(b'a'), none, byte(1), byte(b'b'), none, Key::Quit, none, none, byte(b'c')]);
    }
}
