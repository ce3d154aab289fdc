//! Inputs and their interrupts at chosen places: the guest that gets them, machines that are brought there, a recorder that
//! puts them there, and where the interrupts must be taken.

pub mod guest;
pub mod model;
pub mod placed;
pub mod stage;
