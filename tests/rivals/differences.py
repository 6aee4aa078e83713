"""What two brokers did differently, and the table that explains it."""

import collections
import dataclasses
import pathlib
import re
import tomllib

TABLE = pathlib.Path(__file__).with_name("differences.toml")


@dataclasses.dataclass
class Difference:
    """In a step, what one connection got from only one of the brokers, and all that it got from each. In `order`, what it
    got is the same, and comes in another order."""

    step: str
    connection: str
    is_actor: bool
    version: int
    fieldgate: list
    mosquitto: list
    whole: tuple
    is_choosy: bool
    in_order: bool

    def __str__(self):
        what = "" if self.in_order else " in this order"
        return (
            f"after  {self.step}\n  {self.connection} (v{self.version}) got{what}\n"
            f"  from fieldgate only: {'; '.join(self.fieldgate) or '-'}\n"
            f"  from mosquitto only: {'; '.join(self.mosquitto) or '-'}"
        )


class Row:
    """A row of the table.

    For people: `id`, `clause`, `why`, and which broker is `right`: fieldgate, or both. `seed` is one of the sequences that
    meet it.
    To tell it: `fieldgate` and `mosquitto`, patterns of lines that came from one only, of which each that is given has to
    match some (with both, answers are of the same packet identifier); `sent`, a pattern that is found in the step;
    `version` of the client that got it; `who`, the actor of the step or another. `check` names a function that picks the
    lines instead. `order`: it is about the order of the same lines.
    `choosy`: of a client that does not take everything at once: it has a Receive
    Maximum or a Maximum Packet Size, or has not acknowledged for long.
    What follows: with `goes_on` the brokers are in the same state afterwards. With `unseen` they are not, after any step
    that `sent` tells, whether somebody got something else or not.
    """

    KEYS = {
        *("id", "clause", "why", "right", "sent", "fieldgate", "mosquitto", "version", "who", "goes_on", "unseen", "check"),
        *("order", "choosy", "seed"),
    }

    def __init__(self, row):
        assert row.keys() <= self.KEYS, f"{row['id']}: {row.keys() - self.KEYS}"
        assert row["right"] in ("fieldgate", "both"), row["id"]
        for key in ("clause", "why"):
            assert row[key].strip(), f"{row['id']}: no {key}"
        self.id, self.seed, self.version, self.who = row["id"], row.get("seed"), row.get("version"), row.get("who")
        self.goes_on, self.unseen, self.order = row.get("goes_on", False), row.get("unseen", False), row.get("order", False)
        self.choosy = row.get("choosy", False)
        self.sent = re.compile(row.get("sent", ""))
        self.patterns = [re.compile(row[key]) if key in row else None for key in ("fieldgate", "mosquitto")]
        self.check = CHECKS[row["check"]] if "check" in row else None

    def takes(self, difference):
        """The lines of each broker that this row explains."""
        if (
            not self.sent.search(difference.step)
            or self.version not in (None, difference.version)
            or self.who not in (None, "actor" if difference.is_actor else "other")
            or self.order == difference.in_order
            or (self.choosy and not difference.is_choosy)
        ):
            return [], []
        if self.check:
            return self.check(difference)
        taken = []
        for pattern, lines in zip(self.patterns, (difference.fieldgate, difference.mosquitto)):
            taken.append([line for line in lines if pattern and pattern.fullmatch(line)])
        if all(self.patterns):
            taken = paired(*taken)
        return taken if all(found or not pattern for found, pattern in zip(taken, self.patterns)) else ([], [])


def explain(difference, rows):
    """The rows that explain it, or what is left of it."""
    left = dataclasses.replace(difference)
    used = []
    for row in rows:
        taken = row.takes(left)
        if any(taken):
            used.append(row)
            left.fieldgate = without(left.fieldgate, taken[0])
            left.mosquitto = without(left.mosquitto, taken[1])
    return used, None if not left.fieldgate and not left.mosquitto else left


def paired(ours, theirs):
    """Of answers with a packet identifier, those that both have given."""

    def answered(line):
        words = line.split()
        return words[:2] if words[0] in ("PUBACK", "PUBREC", "SUBACK", "UNSUBACK", "PUBCOMP") else None

    if not any(map(answered, ours)) or not any(map(answered, theirs)):
        return [ours, theirs]
    return [
        [line for line in lines if answered(line) is None or any(answered(line) == answered(other) for other in others)]
        for lines, others in ((ours, theirs), (theirs, ours))
    ]


MESSAGE = re.compile(r"PUBLISH (\S* (?:'[^']*'|\"[^\"]*\")) q(\d)((?: dup)?)((?: retain)?)(.*)")


def copies(difference):
    """Messages of which mosquitto sends a copy for each subscription. Together they say what fieldgate's one copy says:
    the highest quality of service, and all identifiers. Also the PUBREL of those of QoS 2."""
    ours, theirs = (by_message(lines) for lines in difference.whole)
    taken = [], []
    for message, mine in ours.items():
        other = theirs.get(message, [])
        if len(mine) == 1 and len(other) > 1 and merged(mine) == merged(other):
            for place, lines in enumerate((difference.fieldgate, difference.mosquitto)):
                taken[place].extend(line for line in lines if is_about(message, line))
    return taken


def lower(difference):
    """Messages of which mosquitto sends one copy, at a quality of service below the highest of those that match."""
    ours, theirs = by_message(difference.fieldgate), by_message(difference.mosquitto)
    taken = [], []
    for message, mine in ours.items():
        other = theirs.get(message, [])
        if len(mine) == 1 and len(other) == 1 and merged(mine)[0] > merged(other)[0]:
            for place, lines in enumerate((difference.fieldgate, difference.mosquitto)):
                taken[place].extend(line for line in lines if is_about(message, line))
    return taken


def is_about(message, line):
    return by_message([line]).keys() == {message} or line.startswith("PUBREL of " + message.replace("'", "") + " ")


def by_message(lines):
    result = collections.defaultdict(list)
    for line in lines:
        found = MESSAGE.fullmatch(line)
        if found:
            result[found[1]].append(found)
    return result


def merged(found):
    qos, identifiers, rest = 0, set(), set()
    for line in found:
        qos = max(qos, int(line[2]))
        identifiers |= set(re.findall(r"subscription_id=(\d+)", line[5]))
        rest.add(re.sub(r" subscription_id=\d+", "", line[5]))
    return qos, identifiers, rest


CHECKS = {"copies": copies, "lower": lower}


def table():
    rows = [Row(row) for row in tomllib.loads(TABLE.read_text())["difference"]]
    assert len({row.id for row in rows}) == len(rows), "two rows of one id"
    return rows


def compare(told, actor, got, versions, choosy, shared_topic):
    """The differences of a step. `got`: lines by connection, of each broker. `choosy`: connections that do
    not take everything at once."""
    found = []
    ours, theirs = (pooled(lines, shared_topic) for lines in got.values())
    for connection in sorted(ours.keys() | theirs.keys()):
        whole = ours.get(connection, []), theirs.get(connection, [])
        here, there = without(*whole), without(*reversed(whole))
        in_order = ordered(whole[0]) == ordered(whole[1])
        if here or there or not in_order:
            is_actor, version = connection.split(".")[0] == actor, versions.get(connection, 5)
            mine, other = (here, there) if here or there else whole
            in_order = bool(here or there)
            found.append(
                Difference(told, connection, is_actor, version, mine, other, whole, connection in choosy, in_order)
            )
    return found


def told(step, remarks):
    """What was done, and what only who played it knows."""
    return "".join([step.what, *(f" [{remark}]" for remark in remarks)])


def pooled(lines, shared_topic):
    """What comes by a shared subscription is everybody's."""
    if not shared_topic:
        return lines
    result = collections.defaultdict(list)
    for connection, got in lines.items():
        for line in got:
            of_members = line.startswith((f"PUBLISH {shared_topic} ", f"PUBREL of {shared_topic} "))
            result["members." if of_members else connection].append(line)
    if "members." in result:
        result["members."].sort()
    return result


def ordered(lines):
    """The order of messages matters within a topic only, and not between them and answers."""
    result = collections.defaultdict(list)
    for line in lines:
        words = line.split()
        topic = {"PUBLISH": words[1:2], "PUBREL": words[2:3]}.get(words[0])
        result[(words[0], *topic) if topic else ""].append(line)
    return result


def without(lines, others):
    """Those that the others do not have."""
    left = collections.Counter(lines) - collections.Counter(others)
    kept = []
    for line in lines:
        if left[line]:
            left[line] -= 1
            kept.append(line)
    return kept
