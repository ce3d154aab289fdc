//! Where a vCPU is in its execution.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// A place in a vCPU's execution, in the order the vCPU passes them.
///
/// The order of two positions is meaningful for the same vCPU only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Exits served since power-on. Position `exit:N` is the point right after exit N was finished; `exit:0` is power-on.
    pub exit: u64,
    /// Conditional branches retired since that exit.
    pub branches: u64,
    /// Instructions (REP: iterations) since that branch.
    pub steps: u64,
}

impl Position {
    /// Power-on, before the first instruction.
    pub const START: Position = Position::exit(0);

    /// The exit sync point right after exit number `exit`.
    pub const fn exit(exit: u64) -> Position {
        Position { exit, branches: 0, steps: 0 }
    }

    /// Whether this is an exit sync point: exact and free on every host.
    pub const fn is_exit(&self) -> bool {
        self.branches == 0 && self.steps == 0
    }
}

/// `exit:N`, `exit:N+BRANCHES` or `exit:N+BRANCHES+STEPS`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match (self.branches, self.steps) {
            (0, 0) => format!("exit:{}", self.exit),
            (branches, 0) => format!("exit:{}+{branches}", self.exit),
            (branches, steps) => format!("exit:{}+{branches}+{steps}", self.exit),
        };
        f.pad(&text)
    }
}

/// The text is not a position.
#[derive(Debug, thiserror::Error)]
pub enum ParsePositionError {
    /// It does not have the form.
    #[error("a position is written exit:N, exit:N+BRANCHES or exit:N+BRANCHES+STEPS")]
    Form,
    /// One of its numbers is none, or above 2^64 - 1.
    #[error("bad number in a position")]
    Number(#[source] ParseIntError),
}

/// Reads what `Display` writes.
impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Position, ParsePositionError> {
        let numbers = text.strip_prefix("exit:").ok_or(ParsePositionError::Form)?;
        let mut parsed = [0u64; 3];
        let mut parts = numbers.split('+');
        for (at, part) in parts.by_ref().take(3).enumerate() {
            if !part.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(ParsePositionError::Form);
            }
            parsed[at] = part.parse().map_err(ParsePositionError::Number)?;
        }
        if parts.next().is_some() {
            return Err(ParsePositionError::Form);
        }
        Ok(Position { exit: parsed[0], branches: parsed[1], steps: parsed[2] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_only_what_is_not_zero() {
        assert_eq!(Position::exit(7).to_string(), "exit:7");
        assert_eq!(Position { exit: 7, branches: 3, steps: 0 }.to_string(), "exit:7+3");
        assert_eq!(Position { exit: 7, branches: 0, steps: 9 }.to_string(), "exit:7+0+9");
        assert_eq!(format!("{:<8}|", Position::exit(7)), "exit:7  |");
    }

    #[test]
    fn parses_what_it_displays() {
        for text in ["exit:0", "exit:7+3", "exit:7+0+9", "exit:18446744073709551615"] {
            assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
        }
        for text in ["", "7", "exit:", "exit:-1", "exit:+1", "exit:1+2+3+4", "exit:18446744073709551616"] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }

    #[test]
    fn orders_by_exit_then_branches_then_steps() {
        let at = |exit, branches, steps| Position { exit, branches, steps };
        assert!(at(1, 9, 9) < at(2, 0, 0));
        assert!(at(1, 1, 9) < at(1, 2, 0));
        assert!(at(1, 1, 1) < at(1, 1, 2));
    }
}
