"""A Jinja template of YAML whose values are put in after the YAML was read: no text of a user ever meets a YAML parser.

May import jinja2 and PyYAML. Each `{{ value | yaml }}` leaves a mark; what is parsed depends on the template's branches
and loops alone, so that it is parsed once for all jobs of the same shape.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.runtime import Context

_MARK = "@@"
_VALUES = "values_in_order"
_SHAPES = 256


class YamlTemplate:
    """One template file. The values may be anything JSON has."""

    def __init__(self, path: Path) -> None:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(path.parent),
            undefined=jinja2.StrictUndefined,
            autoescape=False,  # no value gets into the text
        )
        environment.filters["yaml"] = _leave_mark
        self._template = environment.get_template(path.name)
        self._shapes: OrderedDict[str, Any] = OrderedDict()

    def fill(self, names: Mapping[str, Any]) -> Any:
        """The document with `names` in it. Values are not copied; the caller must not change them afterwards."""
        values: list[Any] = []
        text = self._template.render(names, **{_VALUES: values})
        shape = self._shapes.get(text)
        if shape is None:
            shape = self._shapes[text] = yaml.load(text, Loader=yaml.CSafeLoader)
            while len(self._shapes) > _SHAPES:
                self._shapes.popitem(last=False)
        else:
            self._shapes.move_to_end(text)
        return _filled(shape, values)


@jinja2.pass_context
def _leave_mark(context: Context, value: Any) -> str:
    values = context[_VALUES]
    values.append(value)
    return f'"{_MARK}{len(values) - 1}"'


def _filled(shape: Any, values: list[Any]) -> Any:
    if isinstance(shape, str):
        return values[int(shape[len(_MARK) :])] if shape.startswith(_MARK) else shape
    if isinstance(shape, dict):
        return {_filled(key, values): _filled(value, values) for key, value in shape.items()}
    if isinstance(shape, list):
        return [_filled(item, values) for item in shape]
    return shape
