//! Helpers for the tests that need guests: hand-made ones on this host's KVM, whole ones in the lab.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests' helpers: a failure here is a failed test")]

pub mod bench;
pub mod browser;
pub mod course;
pub mod engines;
pub mod fuzz;
pub mod guests;
pub mod injections;
pub mod lab;
pub mod latency;
pub mod places;
pub mod png;
pub mod ring0;
pub mod steps;
pub mod timeline;
pub mod tiny;
pub mod vcpu;
