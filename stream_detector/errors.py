"""Every error that the detector raises on purpose, and who is meant to handle it.

::

    StreamDetectorError
    ├── UserError               the user's to mend: one line says what and how; exit code 2
    │   ├── SettingsError       settings that are unknown, wrong or contradict each other
    │   ├── BundleError         a model bundle that is damaged, missing or made for something else
    │   └── DataError           a file that cannot be read as events
    ├── Unavailable             a server is away or slow; trying again may help; exit code 1
    ├── Refused                 a server said no (password, ACL, topic): trying again will not help; exit code 1
    ├── Moved                   the stored state of a partition is not where we left it: load it again
    │   └── Damaged             rows of it are missing (evicted, deleted): discard it, read the events again
    └── Fenced                  this worker's ownership is over: give up the batch, join again

Foreign exceptions are translated into these in the adapter that owns the client library, and nowhere else.
"""

from __future__ import annotations


class StreamDetectorError(Exception):
    """Root of the tree; its message is one line fit for a user's eyes and never holds a secret."""


class UserError(StreamDetectorError):
    """Something the user gave is wrong; the message says what, and what to do."""


class SettingsError(UserError):
    """A setting is unknown, has a wrong value or contradicts another."""


class BundleError(UserError):
    """A model bundle is missing, damaged, or was made for other features or another window."""


class DataError(UserError):
    """A data file cannot be read as events at all (single bad rows become rejects instead)."""


class Unavailable(StreamDetectorError):
    """A server cannot be reached or did not answer in time; trying again may help."""


class Refused(StreamDetectorError):
    """A server answered and said no: wrong password, missing permission, missing topic."""


class Moved(StreamDetectorError):
    """A compare-and-set on a partition's stored position failed: nothing was changed, load again.

    Somebody else (an older or a newer owner) moved the state, or the store lost or regained it.
    """


class Damaged(Moved):
    """Rows that a partition's state refers to are gone: discard the state and read the events again."""


class Fenced(StreamDetectorError):
    """The broker no longer takes deliveries of this worker: its generation or its producer is over."""
