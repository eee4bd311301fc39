import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { KEY, answerBy, answerForever, clientOf, hold, release, untilOpen, user } from "./service.mjs";

const asked = { model: "tiny", messages: user("hi"), max_tokens: 400 };

/** Waits for the promise to fail as this class with these fields. */
async function refused(promise, kind, fields) {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof kind, `${error?.constructor?.name}: ${error}`);
    for (const [name, value] of Object.entries(fields)) assert.equal(error[name], value, name);
    assert.ok(error.requestID && error.message);
    return true;
  });
}

/** Runs `meanwhile` while another request has the only seat, then lets that end. */
async function whileFull(client, meanwhile) {
  await answerBy("full", ["", "hello"]);
  await hold("full");
  const first = client.chat.completions.create(asked);
  await untilOpen("full", 1);
  try {
    await meanwhile();
  } finally {
    await release("full");
  }
  assert.equal((await first).choices[0].message.content, "hello");
}

test("400: out of range, a wrong type, a prompt that does not fit", async () => {
  const told = clientOf("told");
  const type = "invalid_request_error";
  const create = (fields) => told.chat.completions.create({ ...asked, ...fields });
  await refused(create({ temperature: 5 }), OpenAI.BadRequestError, { status: 400, type, code: "invalid_value", param: "temperature" });
  await refused(create({ max_tokens: "5" }), OpenAI.BadRequestError, { code: "invalid_value", param: "max_tokens" });
  await refused(create({ stream_options: {} }), OpenAI.BadRequestError, { param: "stream_options" });
  await refused(create({ top_logprobs: 21, logprobs: true }), OpenAI.BadRequestError, { param: "top_logprobs" });
  const long = { messages: user("long ".repeat(2000)) };
  for (const stream of [false, true]) {
    await refused(create({ ...long, stream }), OpenAI.BadRequestError, { code: "context_length_exceeded", param: "messages" });
  }
});

test("401: without a key of the service", async () => {
  const wrong = clientOf("keyed").chat.completions.create(asked);
  await refused(wrong, OpenAI.AuthenticationError, { status: 401, code: "invalid_api_key" });
  await refused(clientOf("keyed").models.list(), OpenAI.AuthenticationError, { status: 401 });
  const answer = await clientOf("keyed", { apiKey: KEY }).chat.completions.create(asked);
  assert.equal(answer.choices[0].message.content, "hello");
});

test("404: another model, another path", async () => {
  const told = clientOf("told");
  await refused(told.chat.completions.create({ ...asked, model: "gpt-9" }), OpenAI.NotFoundError, { code: "model_not_found", param: "model" });
  await refused(told.embeddings.create({ model: "tiny", input: "hi" }), OpenAI.NotFoundError, { status: 404, code: "not_found" });
});

test("413: a body that is too large", async () => {
  const body = { ...asked, messages: user("x".repeat(9 << 20)) };
  await refused(clientOf("told").chat.completions.create(body), OpenAI.APIError, { status: 413, code: "payload_too_large" });
});

test("429: a full queue", async () => {
  const full = clientOf("full");
  await whileFull(full, async () => {
    for (const stream of [false, true]) {
      const second = full.chat.completions.create({ ...asked, stream });
      await refused(second, OpenAI.RateLimitError, { status: 429, type: "rate_limit_error", code: "queue_full" });
    }
    await assert.rejects(full.responses.create({ model: "tiny", input: "hi" }), OpenAI.RateLimitError);
  });
});

test("429: the client tries again by itself, when Retry-After says", async () => {
  const full = clientOf("full", { maxRetries: 1 });
  let answer;
  const started = performance.now();
  await whileFull(full, async () => {
    // The only seat is still taken at the first try, and free well before the second.
    answer = full.chat.completions.create(asked);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  });
  assert.equal((await answer).choices[0].message.content, "hello");
  assert.ok(performance.now() - started > 1900);
});

test("429: more than a minute's requests of a key", async () => {
  const limited = clientOf("limited");
  await limited.models.list();
  await refused(limited.models.list(), OpenAI.RateLimitError, { status: 429, code: "rate_limit_exceeded" });
});

test("500: the engine has died", async () => {
  const dead = clientOf("dead");
  await refused(dead.chat.completions.create(asked), OpenAI.InternalServerError, { status: 500, code: "engine_dead" });
});

test("503: while the model loads, and the client waits for it by itself", async () => {
  await refused(clientOf("loading").chat.completions.create(asked), OpenAI.InternalServerError, { status: 503, code: "not_ready" });
  const answer = clientOf("loading", { maxRetries: 8 }).chat.completions.create(asked);
  await new Promise((resolve) => setTimeout(resolve, 300));
  await release("loading");
  assert.equal((await answer).choices[0].message.content, "hello");
});

test("504: out of time before the first text, which is not tried again", async () => {
  await answerForever("slow");
  const slow = clientOf("slow", { maxRetries: 5 });
  const body = { ...asked, max_tokens: 4000 };
  await refused(slow.chat.completions.create(body), OpenAI.InternalServerError, { status: 504, code: "deadline_exceeded" });
});

test("an error behind the first text of a stream is thrown", async () => {
  await answerForever("slow");
  const slow = clientOf("slow");
  for (const create of [
    () => slow.chat.completions.create({ ...asked, stream: true }),
    () => slow.completions.create({ model: "tiny", prompt: "hi<|im_start|>assistant\n", max_tokens: 400, stream: true }),
    () => slow.responses.create({ model: "tiny", input: "hi", stream: true }),
  ]) {
    let seen = 0;
    const read = async () => {
      for await (const _ of await create()) seen += 1;
    };
    await assert.rejects(read, (error) => {
      assert.ok(error instanceof OpenAI.APIError, `${error}`);
      assert.equal(error.code, "deadline_exceeded");
      return true;
    });
    assert.ok(seen > 1);
  }
});
