//! The MQTT server: connections, sessions, subscriptions, retained messages.

pub mod settings;
