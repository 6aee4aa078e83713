//! The MQTT codec and the client machine, driven from outside.
//!
//! | file | asks |
//! |---|---|
//! | `samples` | makes any packet from a handful of ingredients |
//! | `roundtrip` | does every packet come back as it was, from any split |
//! | `hostile` | do any bytes, and any damage to good ones, end in an error and never in a panic |
//! | `header` | every flag and every length boundary of the fixed header |
//! | `properties` | every property in every packet: allowed, twice, misplaced, out of range |
//! | `packets` | what each packet's own section demands |
//! | `topics` | matching against a naive matcher |
//! | `client` | the client machine against scripts |
//! | `pair` | the client machine against a small server that loses connections |

mod client;
mod header;
mod hostile;
mod packets;
mod pair;
mod properties;
mod roundtrip;
mod samples;
mod topics;
