import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { MODEL, answerBy, answerForever, clientOf, collect, hold, release, untilOpen, user } from "./service.mjs";

const real = clientOf("real");
const told = clientOf("told");
const asked = { model: MODEL, messages: user("What is 2+2?"), temperature: 0, max_tokens: 60 };
const TEXT = "你好，世界 👩‍👩‍👧‍👦 é\n";

test("a chat answers", async () => {
  const answer = await real.chat.completions.create(asked);
  const [choice] = answer.choices;
  assert.match(choice.message.content, /4/);
  assert.equal(choice.message.role, "assistant");
  assert.equal(choice.finish_reason, "stop");
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  assert.ok(answer._request_id);
});

test("a stream says the same and ends with its usage", async () => {
  await answerBy("told", ["", TEXT]);
  const body = { model: "tiny", messages: user("hi") };
  const whole = await told.chat.completions.create(body);
  const stream = await told.chat.completions.create({ ...body, stream: true, stream_options: { include_usage: true } });
  const chunks = await collect(stream);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text, TEXT);
  assert.equal(whole.choices[0].message.content, TEXT);
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.ok(chunks[0].choices[0].delta.content);
  assert.equal(chunks.at(-2).choices[0].finish_reason, "stop");
  assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
  assert.ok(chunks.slice(0, -1).every((chunk) => chunk.usage === null));
});

test("usage that grows with the stream", async () => {
  await answerBy("told", ["", TEXT]);
  const options = { include_usage: true, continuous_usage_stats: true };
  const body = { model: "tiny", messages: user("hi"), stream: true, stream_options: options };
  const counts = (await collect(await told.chat.completions.create(body))).map((chunk) => chunk.usage.completion_tokens);
  assert.deepEqual(counts, [...counts].sort((a, b) => a - b));
  assert.ok(counts[0] < counts.at(-1));
});

test("the client's stream helper", async () => {
  const deltas = [];
  const stream = real.chat.completions
    .stream({ ...asked, stream_options: { include_usage: true } })
    .on("content", (delta) => deltas.push(delta));
  const content = await stream.finalContent();
  assert.equal(deltas.join(""), content);
  assert.match(content, /4/);
  assert.ok((await stream.totalUsage()).completion_tokens > 0);
  assert.equal((await stream.finalChatCompletion()).choices[0].finish_reason, "stop");
});

test("text completions, whole and streamed", async () => {
  const body = { model: MODEL, prompt: "1, 2, 3, 4, 5, 6,", temperature: 0, max_tokens: 8 };
  const whole = await real.completions.create(body);
  assert.ok(whole.choices[0].text.startsWith(" 7, 8"));
  const chunks = await collect(await real.completions.create({ ...body, stream: true }));
  assert.ok(chunks.map((chunk) => chunk.choices[0].text).join("").startsWith(" 7, 8"));
  assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
});

test("several prompts in one text completion", async () => {
  const prompt = ["1, 2, 3, 4,", "a, b, c, d,"];
  const answer = await real.completions.create({ model: MODEL, prompt, temperature: 0, max_tokens: 3 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
  assert.ok(answer.choices[0].text.startsWith(" 5") && answer.choices[1].text.startsWith(" e"));
});

test("log-probabilities of a chat, whole and streamed", async () => {
  const body = { ...asked, max_tokens: 8, logprobs: true, top_logprobs: 3 };
  const [whole] = (await real.chat.completions.create(body)).choices;
  const chunks = await collect(await real.chat.completions.create({ ...body, stream: true }));
  for (const tokens of [whole.logprobs.content, chunks.flatMap((chunk) => chunk.choices[0].logprobs?.content ?? [])]) {
    assert.ok(tokens.length > 3 && tokens.length <= 8);
    for (const token of tokens) {
      assert.equal(token.top_logprobs.length, 3);
      assert.equal(token.top_logprobs[0].logprob, token.logprob);
      assert.equal(Buffer.from(token.bytes).toString(), token.token);
    }
  }
  assert.ok(whole.message.content.startsWith(whole.logprobs.content.slice(0, 3).map((one) => one.token).join("")));
});

test("log-probabilities of a text completion", async () => {
  const body = { model: MODEL, prompt: "1, 2, 3,", max_tokens: 4, temperature: 0, logprobs: 2 };
  const [{ text, logprobs }] = (await real.completions.create(body)).choices;
  assert.equal(logprobs.tokens.join(""), text);
  assert.equal(logprobs.text_offset[0], 0);
  assert.ok(logprobs.top_logprobs.every((top) => Object.keys(top).length >= 2));
});

test("several answers, whole and streamed", async () => {
  const body = { ...asked, messages: user("Tell me a story."), n: 3, temperature: 1, seed: 4, max_tokens: 12 };
  const whole = await real.chat.completions.create(body);
  assert.deepEqual(whole.choices.map((choice) => choice.index), [0, 1, 2]);
  assert.ok(new Set(whole.choices.map((choice) => choice.message.content)).size > 1);
  const texts = ["", "", ""];
  for await (const chunk of await real.chat.completions.create({ ...body, stream: true })) {
    for (const choice of chunk.choices) texts[choice.index] += choice.delta.content ?? "";
  }
  assert.ok(texts.every((text) => text));
});

test("stop, bias and the newer name of the limit", async () => {
  await answerBy("told", ["", "one two three"]);
  const body = { model: "tiny", messages: user("hi") };
  const stopped = await told.chat.completions.create({ ...body, stop: [" three", " two"] });
  assert.equal(stopped.choices[0].message.content, "one");
  const limited = await told.chat.completions.create({ ...body, max_completion_tokens: 5 });
  assert.deepEqual([limited.choices[0].message.content, limited.choices[0].finish_reason], ["one t", "length"]);
  const bias = { ["o".charCodeAt(0)]: -100, ["x".charCodeAt(0)]: 100 };
  const biased = await told.chat.completions.create({ ...body, logit_bias: bias, max_completion_tokens: 1 });
  assert.equal(biased.choices[0].message.content, "x");
});

test("a second turn knows the first", async () => {
  const messages = user("What is the color of the sky?");
  const first = await real.chat.completions.create({ ...asked, messages });
  messages.push(first.choices[0].message, ...user("And of grass?"));
  const second = await real.chat.completions.create({ ...asked, messages, max_tokens: 4 });
  assert.ok(second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens);
});

test("content in parts, and a picture, which is refused", async () => {
  await answerBy("told", ["first second", "both"], ["", "not both"]);
  const parts = [{ type: "text", text: "first " }, { type: "text", text: "second" }];
  const answer = await told.chat.completions.create({ model: "tiny", messages: user(parts) });
  assert.equal(answer.choices[0].message.content, "both");
  const image = { type: "image_url", image_url: { url: "data:image/png;base64,aGk=" } };
  await assert.rejects(told.chat.completions.create({ model: "tiny", messages: user([...parts, image]) }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "messages");
    assert.match(error.message, /image/);
    return true;
  });
});

test("extensions go through as they are", async () => {
  const chosen = await real.chat.completions.create({ ...asked, guided_choice: ["nurse", "doctor"], timings: true });
  assert.ok(["nurse", "doctor"].includes(chosen.choices[0].message.content));
  assert.ok(chosen.timings.prompt_ms >= 0);
  const tokens = await real.post("/tokenize", { body: { model: MODEL, prompt: "Hello" } });
  const text = await real.post("/detokenize", { body: { model: MODEL, tokens: tokens.tokens } });
  assert.equal(text.prompt, "Hello");
});

test("models", async () => {
  const [model] = await collect(real.models.list());
  assert.equal(model.id, MODEL);
  assert.deepEqual(await real.models.retrieve(MODEL), model);
  await assert.rejects(real.models.retrieve("gpt-9"), OpenAI.NotFoundError);
});

test("leaving in the middle of a stream frees the seat", async () => {
  await answerForever("told");
  const body = { model: "tiny", messages: user("hi"), max_tokens: 4000, stream: true };
  const stream = await told.chat.completions.create(body);
  let seen = 0;
  for await (const chunk of stream) {
    assert.ok(chunk.choices[0].delta.content);
    if (++seen === 3) break;
  }
  await untilOpen("told", 0);
  const helper = told.chat.completions.stream(body);
  helper.on("content", () => helper.abort());
  await assert.rejects(helper.done(), OpenAI.APIUserAbortError);
  await untilOpen("told", 0);
});

test("leaving before the first text frees the seat", async () => {
  await answerBy("told", ["", "hello"]);
  await hold("told");
  const leaving = new AbortController();
  const body = { model: "tiny", messages: user("hi") };
  const answer = told.chat.completions.create(body, { signal: leaving.signal });
  const rejected = assert.rejects(answer, OpenAI.APIUserAbortError);
  await untilOpen("told", 1);
  leaving.abort();
  await rejected;
  await release("told");
  await untilOpen("told", 0);
});

test("a time-out of the client's own", async () => {
  await hold("told");
  const body = { model: "tiny", messages: user("hi") };
  await assert.rejects(told.chat.completions.create(body, { timeout: 200 }), OpenAI.APIConnectionTimeoutError);
  await release("told");
  await untilOpen("told", 0);
});
