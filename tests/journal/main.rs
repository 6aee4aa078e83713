//! The journal on a disk that loses power, fails, and fills up.

mod crashes;
mod disk;
mod early;
mod faults;
mod hostile;
mod house;
mod looks;
mod rules;
mod tags;
