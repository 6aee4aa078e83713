//! The field on a bench: fake chips, lines and ports, virtual time, and the pains of real users as
//! cases.
//!
//! [`bench`] is a host that knows no Linux: it answers what the field asks, late, wrong or never if
//! a case wants that. The cases stand beside the kind of device that they are about; `hostile`
//! sends what no honest host would.

mod bench;
mod chips;
mod gpio;
mod hostile;
mod lines;
mod recovery;
mod reference;
mod sampled;
