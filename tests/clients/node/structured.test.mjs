import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { MODEL, clientOf, user } from "./service.mjs";

const real = clientOf("real");
const Person = z.object({
  name: z.string(),
  age: z.number().int(),
  job: z.enum(["nurse", "doctor", "other"]),
  address: z.object({ city: z.string(), country: z.string().nullable() }),
  languages: z.array(z.enum(["German", "French", "other"])).max(3),
});
const question = "Extract the person as JSON: Anna Schmidt, 41, is a nurse in Hamburg. She speaks German and French.";
const asked = { model: MODEL, messages: user(question), temperature: 0, max_tokens: 200 };
const responded = { model: MODEL, input: question, temperature: 0, max_output_tokens: 200 };

function check(person) {
  assert.deepEqual(Person.parse(person), person);
  assert.match(person.name, /Anna/);
}

test("parse gives what the schema says", async () => {
  const format = zodResponseFormat(Person, "person");
  const answer = await real.chat.completions.parse({ ...asked, response_format: format });
  assert.equal(answer.choices[0].finish_reason, "stop");
  check(answer.choices[0].message.parsed);
});

test("the client's stream of it", async () => {
  const stream = real.chat.completions.stream({ ...asked, response_format: zodResponseFormat(Person, "person") });
  const snapshots = [];
  stream.on("content.delta", ({ parsed }) => snapshots.push(parsed));
  const answer = await stream.finalChatCompletion();
  check(answer.choices[0].message.parsed);
  assert.ok(snapshots.length > 5);
});

test("responses: parse and stream", async () => {
  const text = { format: zodTextFormat(Person, "person") };
  check((await real.responses.parse({ ...responded, text })).output_parsed);
  const stream = real.responses.stream({ ...responded, text });
  check((await stream.finalResponse()).output_parsed);
});

test("any JSON object", async () => {
  const answer = await real.chat.completions.create({ ...asked, response_format: { type: "json_object" } });
  const { message, finish_reason } = answer.choices[0];
  assert.ok(message.content.startsWith("{"));
  if (finish_reason === "stop") assert.equal(typeof JSON.parse(message.content), "object");
});

test("several answers all fit", async () => {
  const format = zodResponseFormat(Person, "person");
  const answer = await real.chat.completions.parse({ ...asked, response_format: format, n: 3, temperature: 0.7, seed: 1, max_tokens: 400 });
  assert.equal(answer.choices.length, 3);
  for (const { message, finish_reason } of answer.choices) {
    if (finish_reason === "stop") assert.deepEqual(Person.parse(message.parsed), message.parsed);
  }
  assert.ok(answer.choices.some((choice) => choice.finish_reason === "stop"));
});

test("an answer that is cut has an error of its own", async () => {
  const body = { ...asked, max_tokens: 5, response_format: zodResponseFormat(Person, "person") };
  await assert.rejects(real.chat.completions.parse(body), OpenAI.LengthFinishReasonError ?? /length limit/i);
});

test("a schema that cannot be enforced says where", async () => {
  const schema = { type: "object", properties: { tags: { type: "array", uniqueItems: true } } };
  const format = { type: "json_schema", json_schema: { name: "x", schema } };
  await assert.rejects(real.chat.completions.create({ ...asked, response_format: format }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "response_format");
    assert.match(error.message, /schema\.properties\.tags/);
    return true;
  });
});
