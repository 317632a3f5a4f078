"""The server agents talk to: instructions out by long poll, reports in. Decides nothing.

See docs/protocol.md, section 2.
"""

from .auth import Authenticator, AuthenticatorUnavailable, KeySetAuthenticator, PodIdentity, Unauthorized, UnknownSigner
from .book import Book
from .limits import ServerLimits
from .server import RendezvousServer
from .token_cache import TokenCache

__all__ = [
    "Authenticator",
    "AuthenticatorUnavailable",
    "Book",
    "KeySetAuthenticator",
    "PodIdentity",
    "RendezvousServer",
    "ServerLimits",
    "TokenCache",
    "Unauthorized",
    "UnknownSigner",
]
