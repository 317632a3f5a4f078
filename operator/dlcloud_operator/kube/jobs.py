"""TrainingJobs as the API server gives them become the core's views of them, with all that is wrong with a spec.

May import core, api and the engine's reading of objects. No I/O; whatever an object holds, nothing raises here.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from dlcloud_operator.api import InvalidManifest, ObjectStore, ObjectStoreStatus, Problem, TrainingJobSpec
from dlcloud_operator.api.reading import read_status
from dlcloud_operator.api.rules import OBJECT_RULES, check_spec
from dlcloud_operator.api.validation import parse_spec
from dlcloud_operator.core.model import JobView
from dlcloud_operator.engine.reading import Parsed, job_view, mapping, number, on_store, text
from dlcloud_operator.engine.reconciler import Renderer

log = logging.getLogger(__name__)

_CACHED_SPECS = 8192
_OWN_NAMESPACE = (
    "{!r} is the operator's own namespace, where a job's pods could use its service account and read its keys; create "
    "the job in another namespace"
)


class _Read(NamedTuple):
    """What does not change with a job's status."""

    spec: Parsed
    given_store: ObjectStoreStatus | None


class JobReader:
    """Reads jobs; keeps the specs it parsed by uid and generation, because a job's status is written many times."""

    def __init__(
        self,
        own_namespace: str,
        allow_privileged: bool = False,
        object_store_defaults: ObjectStore | None = None,
        renderer: Renderer | None = None,
        cached_specs: int = _CACHED_SPECS,
    ) -> None:
        """`object_store_defaults` serve jobs that name no endpoint; with a `renderer` a podTemplate that cannot be
        merged is a problem of its job before any pod exists."""
        self._own_namespace = own_namespace
        self._allow_privileged = allow_privileged
        self._defaults: ObjectStoreStatus | None = None
        if (own := object_store_defaults) is not None:
            self._defaults = ObjectStoreStatus(
                endpoint=own.endpoint,
                region=own.region,
                credentials_secret=own.credentials_secret,
                ca_config_map=own.ca_config_map,
            )
        self._renderer = renderer
        self._cached_specs = cached_specs
        self._cache: OrderedDict[tuple[str, int], _Read] = OrderedDict()
        self._generations: dict[str, int] = {}  # of the cached specs: only a job's newest is kept

    def read(self, raw: Mapping[str, Any]) -> JobView:
        """The job of an object; what is wrong with its spec, or with the place it is in, stands in `problems`."""
        raw = mapping(raw)
        metadata = mapping(raw.get("metadata"))
        uid, generation = text(metadata.get("uid")), number(metadata.get("generation")) or 0
        key = (uid, generation)
        parsed = self._cache.get(key)
        if parsed is None:
            parsed = self._parse(raw, metadata)
            if uid and generation > 0:
                self._remember(key, parsed)
        else:
            self._cache.move_to_end(key)
        view = job_view(raw, parsed.spec)
        return view if parsed.given_store is None else replace(view, given_store=parsed.given_store)

    def forget(self, uid: str) -> None:
        """Drop what is kept of a job that is gone."""
        generation = self._generations.pop(uid, None)
        if generation is not None:
            self._cache.pop((uid, generation), None)

    def _remember(self, key: tuple[str, int], parsed: _Read) -> None:
        self.forget(key[0])
        self._cache[key] = parsed
        self._generations[key[0]] = key[1]
        while len(self._cache) > self._cached_specs:
            (uid, _), _ = self._cache.popitem(last=False)
            self._generations.pop(uid, None)

    def _parse(self, raw: Mapping[str, Any], metadata: Mapping[str, Any]) -> _Read:
        problems = tuple(self._problems_of_place(metadata))
        given_store = None
        try:
            # A CRD newer than this operator may let more fields in; they are no reason to fail a running job.
            spec, found = parse_spec(raw.get("spec"), allow_privileged=self._allow_privileged, ignore_unknown=True)
            if spec is not None and not problems:
                spec, given_store = self._on_store(spec, mapping(raw.get("status")))
                found += check_spec(spec)
                found = found or self._problems_of_template(raw, spec)
        except Exception as error:  # one job's spec must not end the watch of all
            log.exception("the spec of %s/%s cannot be read", metadata.get("namespace"), metadata.get("name"))
            problem = Problem("spec", f"cannot be read: {type(error).__name__}; simplify it")
            return _Read((None, (*problems, problem)), None)
        return _Read((spec, problems + found), given_store)

    def _problems_of_place(self, metadata: Mapping[str, Any]) -> list[Problem]:
        name, namespace = text(metadata.get("name")), text(metadata.get("namespace"))
        problems = [Problem(rule.path, rule.message) for rule in OBJECT_RULES if not rule.holds(name)]
        if namespace and namespace == self._own_namespace:
            problems.append(Problem("metadata.namespace", _OWN_NAMESPACE.format(namespace)))
        return problems

    def _on_store(
        self, spec: TrainingJobSpec, status: Mapping[str, Any]
    ) -> tuple[TrainingJobSpec, ObjectStoreStatus | None]:
        """The spec on the store it was given when it was first seen; only a new job is given today's."""
        store = read_status({"objectStore": status.get("objectStore")}).object_store
        if store is None and not status.get("phase"):
            store = self._defaults
        if store is None:
            return spec, None
        filled = on_store(spec, store)
        return filled, None if filled is spec else store

    def _problems_of_template(self, raw: Mapping[str, Any], spec: TrainingJobSpec) -> tuple[Problem, ...]:
        if self._renderer is None or not spec.pod_template:
            return ()
        try:
            self._renderer.render(job_view({**raw, "status": {}}, (spec, ())), 0, 1)
        except InvalidManifest as invalid:
            return invalid.problems
        return ()
