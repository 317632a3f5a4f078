"""For all tests: property tests have no deadline of their own, a busy machine is no bug."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("dlcloud", deadline=None)
settings.load_profile("dlcloud")
