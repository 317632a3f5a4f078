"""The server agents talk to: instructions out by long poll, reports in. Decides nothing.

See docs/protocol.md, section 2.
"""

from .auth import Authenticator, AuthenticatorUnavailable, KeySetAuthenticator, PodIdentity, Unauthorized
from .book import Book
from .limits import ServerLimits
from .server import RendezvousServer

__all__ = [
    "Authenticator",
    "AuthenticatorUnavailable",
    "Book",
    "KeySetAuthenticator",
    "PodIdentity",
    "RendezvousServer",
    "ServerLimits",
    "Unauthorized",
]
