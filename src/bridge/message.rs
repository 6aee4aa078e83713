//! What a bridge reads from a message's user properties, and what it writes there.

use super::{BACKLOG_PROPERTY, HOPS_PROPERTY, ORIGIN_PROPERTY};
use crate::mqtt::{
    ApplicationMessage, ProtocolVersion, PublishProperties, QoS, TopicName, USER_PROPERTIES_MAX,
    UserPropertiesBuf,
};
use crate::time::{Instant, WallTime};

/// The user property that says when a value was measured, or else when it was published.
const TIME_PROPERTY: &str = "time";

/// The user property that numbers the values of a point.
const SEQ_PROPERTY: &str = "seq";

/// What the user properties say of a message's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Marks<'a> {
    /// Who put it on a bridge first.
    pub origin: Option<&'a str>,
    /// Bridges that it has crossed. What is no number is as many as there may be.
    pub hops: u32,
    pub seq: Option<&'a str>,
    pub time: Option<&'a str>,
}

impl<'a> Marks<'a> {
    pub(super) fn of(message: &'a ApplicationMessage) -> Self {
        let mut marks = Self::default();
        for (name, value) in &message.properties().user_properties {
            match name {
                ORIGIN_PROPERTY => marks.origin = marks.origin.or(Some(value)),
                HOPS_PROPERTY => marks.hops = marks.hops.max(value.parse().unwrap_or(u32::MAX)),
                SEQ_PROPERTY => marks.seq = Some(value),
                TIME_PROPERTY => marks.time = Some(value),
                _ => {}
            }
        }
        marks
    }
}

/// Whether a message waited while the link was down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    Live,
    /// Since it was published; `None` if the clock was not set.
    Backlog(Option<WallTime>),
}

/// How a message goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Onward<'a> {
    pub topic: TopicName<'a>,
    pub qos: QoS,
    pub retain: bool,
    /// Who we are, for a message that enters a bridge: it has crossed one more.
    pub origin: Option<&'a str>,
    pub age: Age,
}

/// The message as it goes on, with what is left of its expiry. `None` if it has so many user
/// properties that there is no room for ours.
pub(super) fn onward(
    message: &ApplicationMessage,
    onward: Onward<'_>,
    now: Instant,
) -> Option<ApplicationMessage> {
    let properties = message.as_publish(ProtocolVersion::V5, now).properties;
    let marks = Marks::of(message);
    let mut pairs = UserPropertiesBuf::new();
    let mut count = 0;
    let mut is_marked = false;
    let mut push = |name: &str, value: &str| {
        count += 1;
        pairs.push(name, value)
    };
    let mut fits = true;
    for (name, value) in &properties.user_properties {
        is_marked |= name == BACKLOG_PROPERTY;
        if name != HOPS_PROPERTY || onward.origin.is_none() {
            fits &= push(name, value);
        }
    }
    if let Some(origin) = onward.origin {
        if marks.origin.is_none() {
            fits &= push(ORIGIN_PROPERTY, origin);
        }
        fits &= push(HOPS_PROPERTY, &marks.hops.saturating_add(1).to_string());
    }
    if let Age::Backlog(time) = onward.age {
        if !is_marked {
            fits &= push(BACKLOG_PROPERTY, "1");
        }
        if marks.time.is_none()
            && let Some(time) = time
        {
            fits &= push(TIME_PROPERTY, &time.to_string());
        }
    }
    if !fits || count > USER_PROPERTIES_MAX {
        return None;
    }
    let properties = PublishProperties {
        user_properties: pairs.as_properties(),
        ..properties
    };
    let payload = message.payload().clone();
    let Onward {
        topic, qos, retain, ..
    } = onward;
    Some(ApplicationMessage::new(
        topic,
        payload,
        qos,
        retain,
        &properties,
        now,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Payload;

    fn message(pairs: &[(&str, &str)]) -> ApplicationMessage {
        let mut buffer = UserPropertiesBuf::new();
        for (name, value) in pairs {
            assert!(buffer.push(name, value));
        }
        let properties = PublishProperties {
            user_properties: buffer.as_properties(),
            message_expiry_interval: Some(60),
            content_type: Some("text/plain"),
            ..PublishProperties::default()
        };
        let topic = TopicName::new("a").unwrap();
        let now = Instant::from_nanos(1);
        ApplicationMessage::new(
            topic,
            Payload::EMPTY,
            QoS::AtLeastOnce,
            true,
            &properties,
            now,
        )
    }

    fn pairs_of(message: &ApplicationMessage) -> Vec<(&str, &str)> {
        message.properties().user_properties.iter().collect()
    }

    fn to(topic: &str) -> Onward<'_> {
        Onward {
            topic: TopicName::new(topic).unwrap(),
            qos: QoS::AtLeastOnce,
            retain: true,
            origin: Some("shed"),
            age: Age::Live,
        }
    }

    #[test]
    fn a_message_says_where_it_entered_and_how_many_bridges_it_crossed() {
        let now = Instant::from_nanos(1);
        let first = onward(&message(&[("unit", "W")]), to("b"), now).unwrap();
        let marks = [
            ("unit", "W"),
            (ORIGIN_PROPERTY, "shed"),
            (HOPS_PROPERTY, "1"),
        ];
        assert_eq!(pairs_of(&first), marks);
        assert_eq!(
            (first.topic(), first.properties().content_type),
            ("b", Some("text/plain"))
        );
        let other = Onward {
            origin: Some("barn"),
            ..to("c")
        };
        let second = onward(&first, other, now).unwrap();
        let marks = [
            ("unit", "W"),
            (ORIGIN_PROPERTY, "shed"),
            (HOPS_PROPERTY, "2"),
        ];
        assert_eq!(pairs_of(&second), marks);
        assert_eq!(
            Marks::of(&message(&[(HOPS_PROPERTY, "many")])).hops,
            u32::MAX
        );
    }

    #[test]
    fn backlog_is_marked_once_and_a_time_that_is_there_stays() {
        let now = Instant::from_nanos(1);
        let noon = WallTime::EARLIEST_PLAUSIBLE;
        let late = Onward {
            origin: None,
            age: Age::Backlog(Some(noon)),
            ..to("b")
        };
        let marked = onward(&message(&[]), late, now).unwrap();
        let time = noon.to_string();
        assert_eq!(
            pairs_of(&marked),
            [(BACKLOG_PROPERTY, "1"), ("time", &*time)]
        );
        assert_eq!(
            pairs_of(&onward(&marked, late, now).unwrap()),
            pairs_of(&marked)
        );
        let measured = onward(&message(&[("time", "earlier")]), late, now).unwrap();
        assert_eq!(
            pairs_of(&measured),
            [("time", "earlier"), (BACKLOG_PROPERTY, "1")]
        );
    }

    #[test]
    fn a_message_that_is_full_of_user_properties_cannot_be_marked() {
        let pairs = vec![("a", "b"); USER_PROPERTIES_MAX as usize];
        assert_eq!(
            onward(&message(&pairs), to("b"), Instant::from_nanos(1)),
            None
        );
    }
}
