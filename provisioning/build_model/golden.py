"""The golden prompt: what a healthy box answers, token by token, at temperature 0."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from appliance.model_dir import TOKENIZER, Golden
from provisioning.build_model.chat_prompt import chat_prompt
from provisioning.build_model.ir_session import IrSession
from provisioning.build_model.tokenizer_files import TextSide

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NUM_GREEDY_IDS = 16

# Questions with one obvious wording of the answer. Another CPU rounds otherwise, and a near tie
# between two tokens would then answer otherwise on a box that is in order; so of these the one
# whose narrowest lead of the first token over the second is widest becomes the golden prompt.
CANDIDATES = (
    "Count from 1 to 20, separated by commas.",
    "Write the English alphabet in capital letters, separated by spaces.",
    "Repeat this sentence exactly: The quick brown fox jumps over the lazy dog.",
    "List the days of the week in order, starting with Monday.",
)


def find_golden(session: IrSession, directory: Path, text: TextSide) -> Golden:
    """Answer the candidates by `session`; keep the surest one. `directory` holds the tokenizer.

    Plain greedy decoding without penalties, `NUM_GREEDY_IDS` ids or up to the end of the answer.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / TOKENIZER))
    answers = [_answer(session, tokenizer, text, question) for question in CANDIDATES]
    return max(
        answers, key=lambda answer: (len(answer[1].greedy_ids) == NUM_GREEDY_IDS, answer[0])
    )[1]


def _answer(
    session: IrSession, tokenizer: Tokenizer, text: TextSide, question: str
) -> tuple[float, Golden]:
    """The narrowest lead (in logits) on the way, and the answer."""
    prompt, prompt_ids = chat_prompt(text, tokenizer, question)
    session.reset()
    greedy: list[int] = []
    pending, lead = list(prompt_ids), float("inf")
    while len(greedy) < NUM_GREEDY_IDS:
        logits = session.forward(pending, [len(pending) - 1])[0]
        best = int(logits.argmax())
        top = float(logits[best])
        logits[best] = float("-inf")
        lead = min(lead, top - float(logits.max()))
        greedy.append(best)
        if best in text.eos_token_ids:
            break
        pending = [best]
    return lead, Golden(prompt, tuple(prompt_ids), tuple(greedy))
