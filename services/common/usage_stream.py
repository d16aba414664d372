"""The Redis stream of usage records: gateways write to it, the control plane reads it into its database."""

from __future__ import annotations

USAGE_STREAM = "antiphon:usage"
"""One entry for each record. It has no version in its name, unlike the queues' keys: records of an older gateway must
not be left behind in a stream that nobody reads. It has no TTL either; the control plane deletes what it has stored."""

RECORD_FIELD = b"record"
"""An entry's one field: a serialized UsageRecord (usage.proto)."""

READER_GROUP = "control"
"""The consumer group of the control plane. A reader makes it, from the stream's first entry, where it is missing."""
