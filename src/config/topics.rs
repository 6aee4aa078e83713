//! Topics across devices: each point has its own, and none is the gateway's.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Span, shown};
use super::names;
use super::read::Cx;

/// Every topic that values go to, with its point and where it is written.
#[derive(Debug, Default)]
pub(super) struct Topics {
    points: Vec<(Box<str>, String, Span)>,
}

impl Topics {
    pub(super) fn add(&mut self, topic: &str, point: String, span: Span) {
        self.points.push((topic.into(), point, span));
    }

    /// Reports what collides.
    pub(super) fn check<'a>(
        &self,
        cx: &mut Cx<'_>,
        base: &str,
        devices: impl Iterator<Item = &'a Box<str>>,
    ) {
        let gateway = format!("{base}/{}", names::RESERVED_DEVICE);
        let objects: BTreeMap<String, &str> = devices
            .map(|device| (format!("{base}/{device}"), &**device))
            .collect();
        let mut seen: BTreeMap<&str, (&str, Span)> = BTreeMap::new();
        for (topic, point, span) in &self.points {
            let below_gateway = topic
                .strip_prefix(gateway.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            if below_gateway {
                let title = format!("{} is the gateway's own", shown(topic));
                let help = format!("nothing else is published at or below `{gateway}`");
                cx.error(*span, title, "", help);
            } else if let Some(device) = objects.get(&**topic) {
                let title = format!("{} is reserved", shown(topic));
                let help = format!("it is for all values of `{device}` in one object");
                cx.error(*span, title, "", help);
            } else if topic.len() > names::TOPIC_MAX {
                let title = format!("the topic of `{point}` is too long");
                let label = format!("{} bytes, {} are allowed", topic.len(), names::TOPIC_MAX);
                cx.error(*span, title, label, "make `base_topic` shorter");
            }
            let Some((other, at)) = seen.insert(topic, (point, *span)) else {
                continue;
            };
            if at == *span {
                let help = "write it at the points: `[device.NAME.point.NAME]`";
                let title = "several points would have one topic";
                cx.error(*span, title, "all of them inherit it", help);
            } else {
                cx.push(
                    Diagnostic::error(format!("two points have the topic {}", shown(topic)))
                        .at(*span, format!("`{point}`"))
                        .also(at, format!("`{other}`"))
                        .help("give one of them another `topic`"),
                );
            }
        }
    }
}
