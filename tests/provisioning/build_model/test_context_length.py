from __future__ import annotations

from typing import Any

import pytest

from provisioning.build_model.architecture import max_model_len
from provisioning.build_model.errors import UnsupportedModelError


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 32768}, 32768),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                },
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                },
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "original_max_position_embeddings": 8192,
                },
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "type": "longrope",
                    "original_max_position_embeddings": 4096,
                },
            },
            4096,
        ),
        ({"max_position_embeddings": 32768, "sliding_window": 4096}, 4096),
        (
            {
                "max_position_embeddings": 32768,
                "sliding_window": 4096,
                "use_sliding_window": False,
            },
            32768,
        ),
        ({"max_position_embeddings": 32768, "sliding_window": None}, 32768),
    ],
)
def test_longest_context_the_graph_is_right_for(config: dict[str, Any], length: int) -> None:
    assert max_model_len(config) == length


@pytest.mark.parametrize("config", [{}, {"max_position_embeddings": None}])
def test_unknown_context_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="max_position_embeddings"):
        max_model_len(config)
