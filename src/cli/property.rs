//! `-D COMMAND IDENTIFIER [NAME] VALUE`: MQTT 5 properties as mosquitto's clients take them.
//!
//! The identifiers are the standard's names in lower case with `-`. What a packet has no such
//! property for, what this client says by another option, and what it cannot send is refused by
//! name.

use crate::mqtt::client::ConnectOptions;
use crate::mqtt::{PayloadFormat, PublishProperties, ReceiveMaximum, TopicName, UserPropertiesBuf};

use super::Failure;

/// Properties of a message: of PUBLISH, or of the will.
#[derive(Debug, Clone, Default)]
pub(crate) struct MessageProperties {
    payload_format: Option<PayloadFormat>,
    expiry: Option<u32>,
    content_type: Option<String>,
    response_topic: Option<String>,
    correlation_data: Option<Vec<u8>>,
    user: UserPropertiesBuf,
    /// Of the will alone.
    pub(crate) will_delay: u32,
    any: bool,
}

impl MessageProperties {
    /// As a PUBLISH carries them.
    pub(crate) fn as_publish(&self) -> PublishProperties<'_> {
        PublishProperties {
            payload_format_indicator: self.payload_format,
            message_expiry_interval: self.expiry,
            response_topic: self
                .response_topic
                .as_deref()
                .map(|topic| TopicName::new(topic).expect("checked when the option was read")),
            correlation_data: self.correlation_data.as_deref(),
            content_type: self.content_type.as_deref(),
            user_properties: self.user.as_properties(),
            ..PublishProperties::default()
        }
    }

    /// Whether any was given.
    pub(crate) fn any(&self) -> bool {
        self.any
    }

    fn set(&mut self, identifier: &str, words: &Words<'_>) -> Result<bool, Failure> {
        match identifier {
            "payload-format-indicator" => {
                self.payload_format = Some(if words.flag()? {
                    PayloadFormat::Utf8
                } else {
                    PayloadFormat::Bytes
                });
            }
            "message-expiry-interval" => self.expiry = Some(words.number()?),
            "content-type" => self.content_type = Some(words.text()?.to_owned()),
            "response-topic" => {
                let topic = words.text()?;
                TopicName::new(topic).map_err(|error| words.wrong(&error.to_string()))?;
                self.response_topic = Some(topic.to_owned());
            }
            "correlation-data" => self.correlation_data = Some(words.text()?.as_bytes().to_vec()),
            "user-property" => words.push_pair(&mut self.user)?,
            _ => return Ok(false),
        }
        self.any = true;
        Ok(true)
    }
}

/// Everything that `-D` has said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Properties {
    /// Of CONNECT.
    pub(crate) receive_maximum: Option<ReceiveMaximum>,
    pub(crate) maximum_packet_size: Option<u32>,
    pub(crate) topic_alias_maximum: Option<u16>,
    pub(crate) session_expiry: Option<u32>,
    connect_user: UserPropertiesBuf,
    /// Of PUBLISH.
    pub(crate) publish: MessageProperties,
    /// Of the will.
    pub(crate) will: MessageProperties,
    any: bool,
}

impl Properties {
    /// How many words stand behind `-D COMMAND IDENTIFIER`.
    pub(crate) fn word_count(identifier: &str) -> usize {
        if identifier.eq_ignore_ascii_case("user-property") {
            2
        } else {
            1
        }
    }

    /// Takes one `-D`. `commands`: those that the verb sends.
    pub(crate) fn take(
        &mut self,
        command: &str,
        identifier: &str,
        values: &[String],
        commands: &[&str],
    ) -> Result<(), Failure> {
        let command = command.to_ascii_lowercase();
        let identifier = identifier.to_ascii_lowercase();
        let words = Words {
            command: &command,
            identifier: &identifier,
            values,
        };
        if !commands.contains(&command.as_str()) {
            return Err(Failure::usage(format!(
                "-D {command}: properties can be set for {}",
                commands.join(", ")
            )));
        }
        let known = match command.as_str() {
            "connect" => self.set_connect(&identifier, &words)?,
            "publish" => self.publish.set(&identifier, &words)?,
            "will" if identifier == "will-delay-interval" => {
                self.will.will_delay = words.number()?;
                self.will.any = true;
                true
            }
            "will" => self.will.set(&identifier, &words)?,
            _ => false,
        };
        if !known {
            return Err(words.wrong("is not available in this version"));
        }
        self.any = true;
        Ok(())
    }

    /// Whether any was given: MQTT 5 is meant then.
    pub(crate) fn any(&self) -> bool {
        self.any
    }

    /// Puts CONNECT's into the options.
    pub(crate) fn apply(&self, options: &mut ConnectOptions) {
        if let Some(maximum) = self.receive_maximum {
            options.receive_maximum = maximum;
        }
        if let Some(size) = self.maximum_packet_size {
            options.maximum_packet_size = size;
        }
        if let Some(maximum) = self.topic_alias_maximum {
            options.topic_alias_maximum = maximum;
        }
        options.user_properties = self.connect_user.clone();
    }

    fn set_connect(&mut self, identifier: &str, words: &Words<'_>) -> Result<bool, Failure> {
        match identifier {
            "receive-maximum" => {
                let count = ReceiveMaximum::new(words.number()?);
                self.receive_maximum = Some(count.ok_or_else(|| words.wrong("is 1 to 65535"))?);
            }
            "maximum-packet-size" => {
                let size: u32 = words.number()?;
                if size == 0 {
                    return Err(words.wrong("is at least 1"));
                }
                self.maximum_packet_size = Some(size);
            }
            "topic-alias-maximum" => self.topic_alias_maximum = Some(words.number()?),
            "session-expiry-interval" => self.session_expiry = Some(words.number()?),
            "user-property" => words.push_pair(&mut self.connect_user)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// One `-D`, for messages about it.
struct Words<'a> {
    command: &'a str,
    identifier: &'a str,
    values: &'a [String],
}

impl<'a> Words<'a> {
    fn wrong(&self, what: &str) -> Failure {
        Failure::usage(format!("-D {} {}: {what}", self.command, self.identifier))
    }

    fn text(&self) -> Result<&'a str, Failure> {
        let text = self.values.first().map_or("", String::as_str);
        if text.len() > usize::from(u16::MAX) || text.contains('\0') {
            return Err(self.wrong("has at most 65535 bytes and no NUL"));
        }
        Ok(text)
    }

    fn number<T: std::str::FromStr>(&self) -> Result<T, Failure> {
        let text = self.text()?;
        text.parse()
            .map_err(|_| self.wrong(&format!("`{text}` is not a number that fits")))
    }

    fn flag(&self) -> Result<bool, Failure> {
        match self.text()? {
            "0" => Ok(false),
            "1" => Ok(true),
            other => Err(self.wrong(&format!("is 0 or 1, not `{other}`"))),
        }
    }

    fn push_pair(&self, pairs: &mut UserPropertiesBuf) -> Result<(), Failure> {
        let [name, value] = self.values else {
            return Err(self.wrong("takes a name and a value"));
        };
        if pairs.push(name, value) {
            Ok(())
        } else {
            Err(self.wrong("has at most 65535 bytes and no NUL"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[&str] = &["connect", "publish", "will"];

    fn take(words: &[&str]) -> Result<Properties, Failure> {
        let mut properties = Properties::default();
        let values: Vec<_> = words[2..].iter().map(ToString::to_string).collect();
        properties.take(words[0], words[1], &values, ALL)?;
        Ok(properties)
    }

    #[test]
    fn properties_of_a_message_reach_the_packet() {
        let properties = take(&["PUBLISH", "user-property", "a", "b"]).unwrap();
        let publish = properties.publish.as_publish();
        assert_eq!(publish.user_properties.find("a"), Some("b"));
        let properties = take(&["publish", "response-topic", "a/b"]).unwrap();
        let topic = properties.publish.as_publish().response_topic;
        assert_eq!(topic.map(TopicName::as_str), Some("a/b"));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (words, wanted) in [
            (&["publish", "topic-alias", "1"][..], "topic-alias"),
            (&["publish", "content-length", "1"], "content-length"),
            (&["puback", "user-property", "a", "b"], "puback"),
            (&["connect", "receive-maximum", "0"], "1 to 65535"),
            (&["connect", "receive-maximum", "65536"], "fits"),
            (&["publish", "payload-format-indicator", "2"], "0 or 1"),
            (&["publish", "response-topic", "a/#"], "response-topic"),
        ] {
            let failure = take(words).unwrap_err();
            assert_eq!(failure.code(), 2);
            assert!(failure.to_string().contains(wanted), "{failure}");
        }
    }
}
