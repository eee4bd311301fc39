"""How much of a model a decode step has to read, from the text of its IR; without OpenVINO."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from appliance.errors import ModelDirError
from appliance.model_dir import MODEL_BIN, MODEL_XML


@dataclass(slots=True)
class _Graph:
    """Layers by id: their type, the bytes of a constant, and who feeds whom."""

    kinds: dict[str, str] = field(default_factory=dict)
    num_bytes: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    users: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ids: str = ""

    def constant_bytes(self, layer: str) -> int:
        """Of the constant that it is, or is converted from; 0 if it is shared with others."""
        while self.kinds[layer] == "Convert":
            layer = self.inputs[layer][0]
        if self.kinds[layer] != "Const" or len(self.users[layer]) > 1:
            return 0
        return self.num_bytes[layer]


def weight_bytes_per_token(model_dir: Path) -> int:
    """Bytes of the weights that one decode step reads: all, but one row of an embedding that is
    not the LM head as well.

    Raises `OSError`, and `ModelDirError` for a file that is no IR of a language model.
    """
    total = (model_dir / MODEL_BIN).stat().st_size
    try:
        return total - _bytes_only_looked_up(_read(model_dir / MODEL_XML))
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise ModelDirError(model_dir, f"{MODEL_XML} is not understood: {error!r}") from error


def _read(path: Path) -> _Graph:
    graph = _Graph()
    # The manifest vouches for the file, and expat bounds what entities may grow to.
    for _, element in ElementTree.iterparse(path):  # noqa: S314
        if element.tag == "layer":
            layer, kind = element.attrib["id"], element.attrib["type"]
            graph.kinds[layer] = kind
            if kind == "Const":
                graph.num_bytes[layer] = _size(element)
            elif kind == "Parameter" and _is_named(element, "input_ids"):
                graph.ids = layer
            element.clear()
        elif element.tag == "edge":
            source, target = element.attrib["from-layer"], element.attrib["to-layer"]
            graph.inputs[target][int(element.attrib["to-port"])] = source
            graph.users[source].append(target)
    return graph


def _size(layer: ElementTree.Element) -> int:
    data = layer.find("data")
    return int(data.attrib["size"]) if data is not None else 0


def _is_named(layer: ElementTree.Element, name: str) -> bool:
    names = (port.attrib.get("names", "") for port in layer.iterfind("output/port"))
    return any(name in one.split(",") for one in names)


def _bytes_only_looked_up(graph: _Graph) -> int:
    """Bytes of constants that nothing but a gather by token ids uses."""
    table = graph.inputs[_first_gather(graph)][0]
    while graph.kinds[table] != "Const":
        if len(graph.users[table]) > 1:
            return 0  # tied: the LM head reads all of it in every step
        if graph.kinds[table] == "Multiply":
            return sum(graph.constant_bytes(graph.inputs[table][port]) for port in (0, 1))
        table = graph.inputs[table][0]
    return graph.constant_bytes(table)


def _first_gather(graph: _Graph) -> str:
    """The embedding: the first Gather that `input_ids` reach, behind conversions."""
    reached = [graph.ids]
    for layer in reached:
        for user in graph.users[layer]:
            if graph.kinds[user] == "Gather":
                return user
            if graph.kinds[user] in ("Convert", "Reshape"):
                reached.append(user)
    raise ValueError("input_ids reach no Gather")
