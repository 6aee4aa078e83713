//! What the broker has done and what it holds, by name.

macro_rules! stats {
    ($( $(#[$meta:meta])* $field:ident, )*) => {
        /// Counters since the start, and gauges of what is there now. `$SYS` and the metrics
        /// publish them by name.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Stats {
            $( $(#[$meta])* pub $field: u64, )*
        }

        impl Stats {
            /// Every number with its name, in the order in which they are declared.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$( (stringify!($field), self.$field), )*].into_iter()
            }
        }
    };
}

stats! {
    /// Gauge: network connections.
    connections,
    /// Gauge: addresses that somebody has connected from lately, those that are exempt aside.
    addresses,
    /// Gauge: sessions, connected or not.
    sessions,
    /// Gauge: sessions whose client is connected.
    connected,
    /// The most of them at once since the start.
    connected_maximum,
    /// Gauge: subscriptions of clients and of the gateway itself.
    subscriptions,
    /// Gauge: retained messages.
    retained,
    /// Gauge: bytes of retained messages.
    retained_bytes,
    /// Gauge: messages that somebody keeps, each counted once.
    messages,
    /// Gauge: deadlines of connections and sessions, those that nobody waits for any more included.
    deadlines,
    /// Gauge: messages waiting in the queues of sessions, counted for each.
    queued,
    /// Gauge: bytes of those.
    queued_bytes,
    /// Gauge: of those messages, in the journal and not in memory.
    queued_on_disk,

    /// Connections accepted.
    accepted,
    /// Connections beyond `max_connections`, the broker's or a listener's.
    refused_connections,
    /// Connections beyond `max_connections_per_address`.
    refused_per_address,
    /// Connections that came faster than `connect_rate`.
    refused_connect_rate,
    /// CONNECT packets that were refused, whatever the reason.
    refused_connects,
    /// Clients that were told to use another server.
    redirects,
    /// Connections that a new one of the same client replaced.
    takeovers,
    /// Connections that sent nothing for one and a half keep-alives.
    keep_alive_timeouts,
    /// Connections that did not send CONNECT in time.
    connect_timeouts,
    /// Connections that ended without a DISCONNECT.
    lost_connections,
    /// Sessions that expired.
    expired_sessions,
    /// New sessions beyond `max_sessions` or the memory budget.
    refused_sessions,
    /// Subscriptions beyond `max_subscriptions` or the memory budget.
    refused_subscriptions,

    /// Bytes that are no packet, and packets that are not allowed where they came.
    protocol_errors,
    /// Of those: packets longer than we take.
    oversized_packets,
    /// Packets that the memory budget had no room for; their connection waits.
    over_budget_packets,
    /// How often reading from a client was paused.
    pauses,
    /// Of those: because it had published more than its quota.
    quota_pauses,
    /// Of those: because the disk was behind with what had come.
    journal_pauses,
    /// Acknowledgements for packet identifiers that we do not know.
    unknown_packet_ids,

    /// MQTT packets received.
    packets_received,
    /// PUBLISH packets received.
    publishes_received,
    /// PUBLISH packets with a packet identifier of QoS 2 that we had already.
    duplicates_received,
    /// PUBLISH packets written, retransmissions included.
    publishes_sent,
    /// Of those: retransmissions.
    retransmissions,
    /// Packets written that are not PUBLISH.
    answers_sent,
    /// Wills published.
    wills_published,

    /// Messages that nobody had subscribed to.
    unmatched,
    /// Publications that the sender was not allowed.
    refused_publishes,
    /// Deliveries that the receiver was not allowed.
    refused_deliveries,
    /// CONNECT packets with an unknown user or a wrong password.
    refused_logins,
    /// CONNECT packets that came while too many passwords were being compared.
    refused_verifications,
    /// CONNECT packets for a session that belongs to another user.
    refused_owners,
    /// Publications whose payload is not the UTF-8 that it says it is.
    refused_payload_formats,
    /// Publications refused because a subscriber's queue was full (`when_full = "refuse"`).
    refused_queue_full,
    /// Messages lost at a full queue, counted for each subscriber.
    dropped_queue_full,
    /// Messages lost because all queues together, or the memory budget, were full; counted for each
    /// subscriber.
    dropped_over_budget,
    /// Messages that expired before they were delivered, counted for each subscriber.
    dropped_expired,
    /// Messages larger than the subscriber takes.
    dropped_too_large,
    /// QoS 0 messages for sessions without a connection, which are not kept.
    dropped_offline,
    /// Messages for a shared subscription of which no member could take them.
    dropped_shared,
    /// Subscribers disconnected because their queue was full (`when_full = "disconnect"`).
    disconnected_queue_full,
    /// Retained messages that could not be stored: the limits, or the memory budget.
    retained_refused,
    /// Retained messages that expired.
    retained_expired,
    /// Commands with RETAIN=1, which are delivered and not stored.
    retained_commands,
    /// Changes that the journal did not take: no room, or no disk.
    unkept,
    /// Of those: wills. Their clients are connected all the same.
    unkept_wills,
    /// Clients disconnected without an answer because of that.
    disconnected_unkept,
    /// Sessions that came back from the journal at the start.
    recovered_sessions,
    /// Messages waiting in their queues that came back with them.
    recovered_messages,
    /// Wills that came back: of clients that were connected, or whose will was not due.
    recovered_wills,
    /// Records that came back from the journal and could not be read.
    unrecovered,
    /// Draws that had to wait for the journal.
    fetches,
}
