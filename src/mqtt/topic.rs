//! Topic names and topic filters (section 4.7): what is one, and which matches which.
//!
//! Nothing here is normalised, folded or trimmed: topics are compared byte by byte [MQTT-4.7.3-4].
//! The broker's trie is the fast matcher; [`matches()`] is the plain one, for a single filter, and
//! the model that the trie is tested against.

use core::fmt;

use crate::mqtt::wire::FIELD_LEN_MAX;

/// Levels that a topic or a filter may have. Trie nodes are made per level, so this bounds what one
/// SUBSCRIBE or one retained message can make us allocate; a topic of 65 535 slashes would be 65
/// 536 of them.
pub const TOPIC_LEVELS_MAX: usize = 128;

/// How a filter starts that names a shared subscription (4.8.2).
pub const SHARE_PREFIX: &str = "$share/";

/// A checked Topic Name: 1 to 65 535 bytes, without wildcards and U+0000, of at most
/// [`TOPIC_LEVELS_MAX`] levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Checks a name.
    pub fn new(name: &'a str) -> Result<Self, TopicError> {
        check_name(name)?;
        Ok(Self(name))
    }

    /// The name.
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

impl fmt::Display for TopicName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A checked Topic Filter, shared or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter<'a>(&'a str);

impl<'a> TopicFilter<'a> {
    /// Checks a filter.
    pub fn new(filter: &'a str) -> Result<Self, TopicError> {
        check_filter(filter)?;
        Ok(Self(filter))
    }

    /// As the subscriber wrote it, `$share/NAME/` included.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The share name and the filter behind it, if this is a shared subscription [MQTT-4.8.2-1].
    pub fn share(self) -> Option<(&'a str, TopicFilter<'a>)> {
        let (name, filter) = split_share(self.0)?;
        Some((name, TopicFilter(filter)))
    }

    /// Whether this is a shared subscription.
    pub fn is_shared(self) -> bool {
        self.0.starts_with(SHARE_PREFIX)
    }

    /// Whether `+` or `#` occurs in it.
    pub fn has_wildcards(self) -> bool {
        self.0.bytes().any(|byte| matches!(byte, b'+' | b'#'))
    }

    /// Whether it matches a topic; a shared filter matches what the filter behind its share name
    /// does.
    pub fn matches(self, topic: &str) -> bool {
        let filter = split_share(self.0).map_or(self.0, |(_, filter)| filter);
        matches(filter, topic)
    }
}

impl fmt::Display for TopicFilter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Whether `topic` matches `filter`. Both must have been checked; `$share/` means nothing here.
pub fn matches(filter: &str, topic: &str) -> bool {
    // Wildcards do not reach into $SYS and its like [MQTT-4.7.2-1].
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filter, mut topic) = (filter.as_bytes(), topic.as_bytes());
    // Both stand at the start of a level.
    loop {
        match filter {
            [b'#'] => return true,
            [b'+', rest @ ..] => {
                filter = rest;
                let level_len = topic.iter().position(|byte| *byte == b'/');
                topic = &topic[level_len.unwrap_or(topic.len())..];
            }
            _ => {
                while let ([wanted, rest_of_filter @ ..], [byte, rest @ ..]) = (filter, topic)
                    && wanted == byte
                    && *byte != b'/'
                {
                    (filter, topic) = (rest_of_filter, rest);
                }
            }
        }
        // Both must stand at the end of that level.
        match (filter, topic) {
            ([], []) => return true,
            ([b'/', rest_of_filter @ ..], [b'/', rest @ ..]) => {
                (filter, topic) = (rest_of_filter, rest);
            }
            // `#` stands for the parent level too: `sport/#` matches `sport` (4.7.1.2).
            (b"/#", []) => return true,
            _ => return false,
        }
    }
}

/// Whether a string is a Topic Name. This runs for every PUBLISH.
pub fn check_name(name: &str) -> Result<(), TopicError> {
    check_length(name)?;
    if has_null_or_wildcard(name.as_bytes()) {
        let has_null = name.as_bytes().contains(&0);
        return Err(if has_null {
            TopicError::NullCharacter // [MQTT-4.7.3-2]
        } else {
            TopicError::WildcardInName // [MQTT-4.7.0-1]
        });
    }
    // Fewer bytes than that cannot be too many levels, so nearly no topic is counted.
    if name.len() < TOPIC_LEVELS_MAX {
        return Ok(());
    }
    check_levels(name.bytes().filter(|byte| *byte == b'/').count())
}

/// Whether one of the bytes is 0, `+` or `#`. In blocks, which compilers turn into vector
/// instructions; the last block overlaps the one before it, so there is no rest to go through byte
/// by byte.
fn has_null_or_wildcard(bytes: &[u8]) -> bool {
    const BLOCK: usize = 16;
    let is_bad = |byte: u8| matches!(byte, 0 | b'+' | b'#');
    let has_bad = |block: &[u8; BLOCK]| {
        let mut bad = 0_u8;
        for byte in block {
            bad |= u8::from(*byte == 0) | u8::from(*byte == b'+') | u8::from(*byte == b'#');
        }
        bad != 0
    };
    let Some(last) = bytes.last_chunk() else {
        return bytes.iter().any(|byte| is_bad(*byte));
    };
    let (blocks, _) = bytes.as_chunks();
    blocks.iter().any(has_bad) || has_bad(last)
}

/// Whether a string is a Topic Filter, shared ones included.
pub fn check_filter(filter: &str) -> Result<(), TopicError> {
    check_length(filter)?;
    if filter.bytes().any(|byte| byte == 0) {
        return Err(TopicError::NullCharacter); // [MQTT-4.7.3-2]
    }
    if !filter.starts_with(SHARE_PREFIX) {
        return check_levels_of_filter(filter);
    }
    let (name, filter) = split_share(filter).ok_or(TopicError::ShareWithoutFilter)?;
    if name.is_empty() {
        return Err(TopicError::ShareNameEmpty); // [MQTT-4.8.2-1]
    }
    if name.contains(['+', '#']) {
        return Err(TopicError::ShareNameWithWildcard); // [MQTT-4.8.2-2]
    }
    if filter.is_empty() {
        return Err(TopicError::ShareWithoutFilter); // [MQTT-4.8.2-2]
    }
    check_levels_of_filter(filter)
}

/// `$share/NAME/FILTER` in two; `None` if it does not start so, or has no filter.
fn split_share(filter: &str) -> Option<(&str, &str)> {
    filter.strip_prefix(SHARE_PREFIX)?.split_once('/')
}

fn check_length(topic: &str) -> Result<(), TopicError> {
    if topic.is_empty() {
        return Err(TopicError::Empty); // [MQTT-4.7.3-1]
    }
    if topic.len() > FIELD_LEN_MAX {
        return Err(TopicError::TooLong); // [MQTT-4.7.3-3]
    }
    Ok(())
}

fn check_levels(slashes: usize) -> Result<(), TopicError> {
    if slashes >= TOPIC_LEVELS_MAX {
        return Err(TopicError::TooManyLevels);
    }
    Ok(())
}

fn check_levels_of_filter(filter: &str) -> Result<(), TopicError> {
    let mut levels = filter.split('/').peekable();
    let mut count = 0;
    while let Some(level) = levels.next() {
        count += 1;
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(TopicError::MultiLevelWildcardMisplaced); // [MQTT-4.7.1-1]
        }
        if level.contains('+') && level != "+" {
            return Err(TopicError::SingleLevelWildcardMisplaced); // [MQTT-4.7.1-2]
        }
    }
    check_levels(count - 1)
}

/// Why a string is not a topic name or filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicError {
    /// It has no characters [MQTT-4.7.3-1].
    Empty,
    /// It has more than 65 535 bytes [MQTT-4.7.3-3].
    TooLong,
    /// It contains U+0000 [MQTT-4.7.3-2].
    NullCharacter,
    /// A name with `+` or `#` [MQTT-4.7.0-1].
    WildcardInName,
    /// More than [`TOPIC_LEVELS_MAX`] levels: our limit, not the standard's.
    TooManyLevels,
    /// `#` is not alone in the last level [MQTT-4.7.1-1].
    MultiLevelWildcardMisplaced,
    /// `+` is not alone in its level [MQTT-4.7.1-2].
    SingleLevelWildcardMisplaced,
    /// `$share//…` [MQTT-4.8.2-1].
    ShareNameEmpty,
    /// A share name with `+` or `#` [MQTT-4.8.2-2].
    ShareNameWithWildcard,
    /// `$share/NAME` without a filter [MQTT-4.8.2-2].
    ShareWithoutFilter,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a topic is at least one character long"),
            Self::TooLong => write!(f, "a topic has at most {FIELD_LEN_MAX} bytes"),
            Self::NullCharacter => f.write_str("a topic does not contain the null character"),
            Self::WildcardInName => f.write_str("a topic to publish on has no + or #"),
            Self::TooManyLevels => write!(f, "a topic has at most {TOPIC_LEVELS_MAX} levels"),
            Self::MultiLevelWildcardMisplaced => {
                f.write_str("# stands alone, as the last level of a filter")
            }
            Self::SingleLevelWildcardMisplaced => f.write_str("+ stands alone in its level"),
            Self::ShareNameEmpty => f.write_str("$share/ is followed by a name"),
            Self::ShareNameWithWildcard => f.write_str("a share name has no + or #"),
            Self::ShareWithoutFilter => f.write_str("a share name is followed by / and a filter"),
        }
    }
}

impl std::error::Error for TopicError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_standard_match_as_it_says() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/ranking",
                true,
            ),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/#", "sport", true),
            ("#", "sport/tennis", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/monitor", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/monitor", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("ACCOUNTS", "Accounts", false),
            ("a/b", "a/b/c", false),
            ("a/b/c", "a/b", false),
            ("+/#", "$x", false),
            ("a/+/b", "a//b", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn filters_are_what_the_grammar_allows() {
        use TopicError as E;
        for (filter, expected) in [
            ("#", Ok(())),
            ("+", Ok(())),
            ("/", Ok(())),
            ("a b/ü/+/#", Ok(())),
            ("", Err(E::Empty)),
            ("a#", Err(E::MultiLevelWildcardMisplaced)),
            ("a/#/b", Err(E::MultiLevelWildcardMisplaced)),
            ("##", Err(E::MultiLevelWildcardMisplaced)),
            ("#/", Err(E::MultiLevelWildcardMisplaced)),
            ("a+", Err(E::SingleLevelWildcardMisplaced)),
            ("+a/b", Err(E::SingleLevelWildcardMisplaced)),
            ("++", Err(E::SingleLevelWildcardMisplaced)),
            ("a\0b", Err(E::NullCharacter)),
            ("$share/g/a/+", Ok(())),
            ("$share/g//", Ok(())),
            ("$share/g/#", Ok(())),
            ("$share/", Err(E::ShareWithoutFilter)),
            ("$share/g", Err(E::ShareWithoutFilter)),
            ("$share/g/", Err(E::ShareWithoutFilter)),
            ("$share//a", Err(E::ShareNameEmpty)),
            ("$share/+/a", Err(E::ShareNameWithWildcard)),
            ("$share/g#/a", Err(E::ShareNameWithWildcard)),
            ("$share/g/a/#/b", Err(E::MultiLevelWildcardMisplaced)),
            ("$share", Ok(())),
            ("$shared/a", Ok(())),
        ] {
            assert_eq!(check_filter(filter), expected, "{filter:?}");
        }
    }

    #[test]
    fn a_share_name_is_not_part_of_what_matches() {
        let filter = TopicFilter::new("$share/g/a/+").unwrap();
        assert_eq!(
            filter.share().map(|(name, rest)| (name, rest.as_str())),
            Some(("g", "a/+"))
        );
        assert!(filter.matches("a/b"));
        assert!(!filter.matches("$share/g/a/b"));
        assert!(!TopicFilter::new("$share/g/#").unwrap().matches("$SYS/x"));
        assert!(!TopicFilter::new("$share").unwrap().is_shared());
    }

    #[test]
    fn names_and_filters_have_the_same_limits_of_length_and_depth() {
        let deepest = vec!["a"; TOPIC_LEVELS_MAX].join("/");
        let too_deep = format!("{deepest}/a");
        let longest = "x".repeat(65_535);
        let too_long = "x".repeat(65_536);
        for check in [check_name, check_filter] {
            assert_eq!(check(&deepest), Ok(()));
            assert_eq!(check(&too_deep), Err(TopicError::TooManyLevels));
            assert_eq!(check(&longest), Ok(()));
            assert_eq!(check(&too_long), Err(TopicError::TooLong));
        }
        assert_eq!(check_filter(&format!("$share/g/{deepest}")), Ok(()));
    }

    #[test]
    fn names_have_no_wildcards() {
        for name in ["+", "#", "a/+", "a#b"] {
            assert_eq!(check_name(name), Err(TopicError::WildcardInName));
        }
        for name in ["/", "//", " ", "$SYS/x", "ü/\u{FEFF}"] {
            assert_eq!(check_name(name), Ok(()));
        }
    }
}
