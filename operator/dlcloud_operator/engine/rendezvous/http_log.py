"""A logger for an HTTP server that never shows what a client sent in its headers. Standard library and aiohttp only."""

from __future__ import annotations

import logging

from aiohttp.http import HttpProcessingError


def http_logger(name: str) -> logging.Logger:
    """The logger of this name, without the text of broken requests."""
    logger = logging.getLogger(name)
    logger.addFilter(_without_headers)
    return logger


def _without_headers(record: logging.LogRecord) -> bool:
    """aiohttp logs a broken request with its exception, and that quotes the header line: possibly a token."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"  # a stranger's mistake, not ours
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
    return True
