"""From a conversation or a text to a running completion: template, tokens, limits, engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from appliance.chat.completion import Completion
from appliance.chat.detokenizer import Detokenizer
from appliance.chat.grammar import Grammar
from appliance.chat.grammar_compiler import GrammarCompiler
from appliance.chat.options import CompletionOptions
from appliance.chat.output_format import OutputFormat
from appliance.chat.prompt_tokens import PromptTokens
from appliance.chat.scored_tokens import ScoredTokens
from appliance.chat.stop_strings import StopStrings
from appliance.chat.template import ChatTemplate, Message, PromptEnd
from appliance.chat.tokenizer import Tokenizer
from appliance.chat.tool_parser import ToolCallParser
from appliance.chat.tools import HERMES, ToolUse
from appliance.config import GenerationConfig
from appliance.engine.engine import Engine
from appliance.engine.generation import Generation
from appliance.engine.sampling_params import SamplingParams
from appliance.errors import ContextLengthExceededError, RequestError
from appliance.metrics import GenAIMetrics

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class Completer:
    """Starts completions on one engine.

    What a request leaves open comes from `generation`, and what that leaves open from
    `model_defaults`, the manifest's generation defaults. `gen_ai` takes how fast answers came.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        eos_token_ids: Sequence[int],
        generation: GenerationConfig,
        model_defaults: Mapping[str, float],
        timeout_s: float,
        tool_call_format: str | None = None,
        gen_ai: GenAIMetrics | None = None,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self.prompt_tokens = PromptTokens(
            tokenizer,
            template,
            max_model_len=engine.limits.max_model_len,
            vocab_size=engine.limits.vocab_size,
        )
        self._eos_token_ids = frozenset(eos_token_ids)
        self._generation = generation
        self._defaults = {
            name: value
            for name in _SAMPLING
            if (value := getattr(generation, name)) is not None
            or (value := model_defaults.get(name)) is not None
        }
        self._timeout_s = timeout_s
        self.shows_tools = tool_call_format == HERMES
        self._gen_ai = gen_ai
        self._grammars = GrammarCompiler(
            tokenizer,
            vocab_size=engine.limits.vocab_size,
            eos_token_ids=eos_token_ids,
            timeout_s=generation.grammar_timeout_s,
        )

    @property
    def max_model_len(self) -> int:
        """The context window in tokens, prompt and answer together."""
        return self._engine.limits.max_model_len

    async def grammar(self, form: OutputFormat) -> Grammar:
        """Compile a form that answers are to have. Raises `RequestError` if that cannot be done."""
        return await self._grammars.compile(form)

    def chat(
        self,
        messages: Sequence[Message],
        options: CompletionOptions,
        grammar: Grammar | None = None,
        tools: ToolUse | None = None,
        *,
        end: PromptEnd | None = None,
    ) -> list[Completion]:
        """Answer a conversation `options.n` times, in the form of `grammar` if there is one.

        `tools` are shown to the model and may be called; only where `shows_tools`. `end` as in
        `ChatTemplate.render`. Raises `RequestError` for messages or options that cannot be served,
        `OverloadError` when the engine takes no more.
        """
        definitions = None if tools is None else tools.definitions()
        prompt_ids = self.prompt_tokens.of_chat(messages, definitions, end)
        return self._start(prompt_ids, options, grammar, tools, "chat", param="messages")

    def complete(
        self,
        prompt: str | Sequence[int],
        options: CompletionOptions,
        grammar: Grammar | None = None,
    ) -> list[Completion]:
        """Go on with a text, or with token ids, as they are; otherwise as `chat`."""
        if isinstance(prompt, str):
            prompt_ids = self.prompt_tokens.of_text(prompt, add_special_tokens=True)
        else:
            prompt_ids = self.prompt_tokens.of_ids(prompt)
        return self._start(prompt_ids, options, grammar, None, "text_completion", param="prompt")

    def check_number(self, num_answers: int, param: str) -> None:
        """Raise `RequestError` for more answers than can ever be in the engine at once."""
        if num_answers > self._engine.max_open:
            raise RequestError(
                f"the request asks for {num_answers} answers, this server takes "
                f"{self._engine.max_open} at once (engine.max_waiting and those that run); send "
                "several requests",
                param,
            )

    def _start(
        self,
        prompt_ids: tuple[int, ...],
        options: CompletionOptions,
        grammar: Grammar | None,
        tools: ToolUse | None,
        operation: str,
        *,
        param: str,
    ) -> list[Completion]:
        if not prompt_ids:
            raise RequestError("the prompt is empty", param)
        if len(prompt_ids) >= self.max_model_len:
            raise ContextLengthExceededError(len(prompt_ids), self.max_model_len, param)
        # Where a grammar lets an answer end, it may end.
        ends = frozenset() if options.ignore_eos and grammar is None else self._eos_token_ids
        params = self._sampling_params(options, ends, self.max_model_len - len(prompt_ids))
        started: list[Completion] = []
        try:
            for index in range(options.n):
                generation = self._engine.submit(
                    prompt_ids,
                    params.for_answer(index),
                    timeout_s=self._timeout_s,
                    constraint=None if grammar is None else grammar.start(),
                )
                enforced = grammar is not None
                parser = None if tools is None else tools.parser(is_enforced=enforced)
                started.append(
                    self._completion(generation, len(prompt_ids), options, parser, operation)
                )
        except BaseException:
            for completion in started:
                completion.abort()
            raise
        return started

    def _completion(
        self,
        generation: Generation,
        num_prompt_tokens: int,
        options: CompletionOptions,
        parser: ToolCallParser | None,
        operation: str,
    ) -> Completion:
        return Completion(
            generation,
            Detokenizer(self._tokenizer),
            StopStrings(options.stop),
            num_prompt_tokens=num_prompt_tokens,
            scored=None if options.num_logprobs is None else ScoredTokens(self._tokenizer),
            parser=parser,
            on_complete=lambda done: self._record(operation, done),
        )

    def _record(self, operation: str, generation: Generation) -> None:
        per_token_s = generation.time_per_output_token_s
        if self._gen_ai is not None and per_token_s is not None:
            self._gen_ai.time_per_output_token[operation].observe(per_token_s)

    def _sampling_params(
        self, options: CompletionOptions, ends: frozenset[int], room: int
    ) -> SamplingParams:
        """The request's wishes over the defaults.

        The answer may take `room` tokens at most; one of `ends` ends it, among others.
        """
        ceiling = self._generation.max_tokens_ceiling
        max_tokens = options.max_tokens
        if max_tokens is None:
            max_tokens = min(self._generation.default_max_tokens, ceiling)
        if max_tokens > ceiling:
            name = options.max_tokens_name
            raise RequestError(
                f"{name} is {max_tokens}, this server answers with {ceiling} tokens at most", name
            )
        wishes = {
            name: value for name in _SAMPLING if (value := getattr(options, name)) is not None
        }
        sampling = {**self._defaults, **wishes}
        for token_id in options.logit_bias:
            if not 0 <= token_id < self._engine.limits.vocab_size:
                raise RequestError(
                    f"logit_bias names token id {token_id}, this model has 0 to "
                    f"{self._engine.limits.vocab_size - 1}",
                    "logit_bias",
                )
        if "top_k" in sampling:
            sampling["top_k"] = max(0, int(sampling["top_k"]))
        return SamplingParams(
            max_tokens=min(max_tokens, room),
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            logit_bias=options.logit_bias,
            seed=options.seed,
            stop_token_ids=options.stop_token_ids | ends,
            num_logprobs=options.num_logprobs,
            **sampling,
        )
