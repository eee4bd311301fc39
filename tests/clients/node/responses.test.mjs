import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { MODEL, answerBy, answerForever, clientOf, collect, untilOpen, user } from "./service.mjs";

const real = clientOf("real");
const told = clientOf("told");
const asked = { model: MODEL, input: "What is 2+2?", temperature: 0, max_output_tokens: 60 };

test("create", async () => {
  const answer = await real.responses.create(asked);
  assert.match(answer.output_text, /4/);
  assert.equal(answer.status, "completed");
  assert.equal(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens);
});

test("instructions stand in front", async () => {
  await answerBy("told", ["You are brief.", "Yes."], ["", "It goes without saying."]);
  const answer = await told.responses.create({ model: "tiny", input: "hi", instructions: "You are brief." });
  assert.equal(answer.output_text, "Yes.");
});

test("a plain stream", async () => {
  const events = await collect(await real.responses.create({ ...asked, stream: true }));
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, i) => i));
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.equal(events.at(-1).type, "response.completed");
  // `output_text` is a field of the client's own, which a plain stream does not have.
  const [message] = events.at(-1).response.output;
  assert.equal(deltas.map((event) => event.delta).join(""), message.content[0].text);
});

test("the client's stream helper", async () => {
  const snapshots = [];
  const stream = real.responses.stream(asked);
  stream.on("response.output_text.delta", (event) => snapshots.push(event.snapshot));
  const answer = await stream.finalResponse();
  assert.equal(answer.output_text, snapshots.at(-1));
  assert.match(answer.output_text, /4/);
});

test("a conversation goes on with what came out", async () => {
  const input = user("What is the color of the sky on a clear day?");
  const first = await real.responses.create({ ...asked, input });
  input.push(...first.output, ...user("And of grass?"));
  const second = await real.responses.create({ ...asked, input, max_output_tokens: 4 });
  assert.ok(second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens);
});

test("cut by the limit", async () => {
  const answer = await real.responses.create({ ...asked, input: "Count from 1 to 100.", max_output_tokens: 5 });
  assert.deepEqual([answer.status, answer.incomplete_details.reason], ["incomplete", "max_output_tokens"]);
});

test("log-probabilities", async () => {
  const include = ["message.output_text.logprobs"];
  const answer = await real.responses.create({ ...asked, include, top_logprobs: 2 });
  const [{ text, logprobs }] = answer.output[0].content;
  assert.equal(logprobs.map((one) => one.token).join(""), text);
  assert.ok(logprobs.every((one) => one.top_logprobs.length === 2));
});

test("what needs a memory is refused", async () => {
  await assert.rejects(real.responses.create({ ...asked, previous_response_id: "resp_1" }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "previous_response_id");
    return true;
  });
});

test("leaving in the middle frees the seat", async () => {
  await answerForever("told");
  const body = { model: "tiny", input: "hi", max_output_tokens: 4000 };
  const stream = told.responses.stream(body);
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") break;
  }
  await untilOpen("told", 0);
  const plain = await told.responses.create({ ...body, stream: true });
  plain.controller.abort();
  await untilOpen("told", 0);
});
