"""A subscriber upstream whose session stays, and comes back when its connection is lost."""

from arrivals import Arrivals
from client import Client

# What the gateway calls a message that has waited, where user properties can say so.
BACKLOG = ("fieldgate-backlog", "1")


class MqttReader(Client):
    """At QoS 1, of everything that gateways send; with `share` together with all others of that name. What it gets is
    added to `arrivals`, which may be another's too; `count` is its own part."""

    def __init__(self, port, version, client_id, arrivals=None, share=None):
        self.arrivals = arrivals or Arrivals()
        self.count = 0
        super().__init__(port, version=version, client_id=client_id, clean=False, session_expiry=3600, retry=True)
        for topic_filter in ("+/plant/#", "late/+/plant/#"):
            reason = self.subscribe(f"$share/{share}/{topic_filter}" if share else topic_filter, qos=1)
            if reason.is_failure:
                raise AssertionError(f"{client_id}: {topic_filter} is refused: {reason}")

    def _on_message(self, _client, _userdata, message):
        self.count += 1
        properties = getattr(message.properties, "UserProperty", [])
        is_backlog = message.topic.startswith("late/") or BACKLOG in properties
        self.arrivals.add(message.payload, is_backlog, message.dup)
