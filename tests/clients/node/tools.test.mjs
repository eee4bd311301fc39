import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { ResponsesToolRunner, runnerFunction } from "openai/helpers/responses-tool-runner";
import { zodFunction, zodResponsesFunction } from "openai/helpers/zod";
import { z } from "zod";
import { answerBy, call, clientOf, collect, user } from "./service.mjs";

const told = clientOf("told");
const Weather = z.object({ city: z.string(), unit: z.enum(["c", "f"]) });
const rome = { city: "Rome", unit: "c" };
const tool = zodFunction({ name: "get_weather", parameters: Weather });
const asked = { model: "tiny", messages: user("How is Rome?"), tools: [tool] };

/** A tool whose calls are noted. */
function runnable(calls) {
  const run = (args) => (calls.push(args), "sunny, 31 degrees");
  return zodFunction({ name: "get_weather", parameters: Weather, function: run });
}

test("arguments are parsed, whatever the choice", async () => {
  await answerBy("told", ["", call("get_weather", rome)]);
  for (const tool_choice of ["auto", "required", { type: "function", function: { name: "get_weather" } }]) {
    const [choice] = (await told.chat.completions.parse({ ...asked, tool_choice })).choices;
    assert.equal(choice.finish_reason, "tool_calls");
    assert.equal(choice.message.content, null);
    assert.deepEqual(choice.message.tool_calls.map((one) => one.function.parsed_arguments), [rome]);
  }
});

test("the client's stream of a call", async () => {
  await answerBy("told", ["", `I will look.\n${call("get_weather", rome)}`]);
  const stream = told.chat.completions.stream(asked);
  const deltas = [];
  const done = [];
  stream.on("tool_calls.function.arguments.delta", (event) => deltas.push(event.arguments_delta));
  stream.on("tool_calls.function.arguments.done", (event) => done.push(event));
  const [choice] = (await stream.finalChatCompletion()).choices;
  assert.deepEqual(JSON.parse(deltas.join("")), rome);
  assert.ok(deltas.length > 10);
  assert.deepEqual(done.map((event) => [event.name, event.parsed_arguments]), [["get_weather", rome]]);
  assert.equal(choice.message.content, "I will look.");
  assert.equal(choice.message.tool_calls.length, 1);
});

test("the client runs the tools, whole and streamed", async () => {
  await answerBy("told", ["sunny, 31 degrees", "It is sunny in Rome."], ["", call("get_weather", rome)]);
  for (const stream of [false, true]) {
    const calls = [];
    const runner = told.chat.completions.runTools({ ...asked, stream, tools: [runnable(calls)] });
    assert.equal(await runner.finalContent(), "It is sunny in Rome.");
    assert.deepEqual(calls, [rome]);
    assert.deepEqual(runner.messages.map((message) => message.role), ["user", "assistant", "tool", "assistant"]);
    assert.equal(await runner.finalFunctionToolCallResult(), "sunny, 31 degrees");
  }
});

test("the client runs two calls of one answer, whole and streamed", async () => {
  const paris = { city: "Paris", unit: "f" };
  const both = `${call("get_weather", rome)}\n${call("get_weather", paris)}`;
  await answerBy("told", ["sunny, 31 degrees", "Both are sunny."], ["", both]);
  for (const stream of [false, true]) {
    const calls = [];
    const runner = told.chat.completions.runTools({ ...asked, stream, tools: [runnable(calls)] });
    assert.equal(await runner.finalContent(), "Both are sunny.");
    assert.deepEqual(calls, [rome, paris]);
    const ids = runner.messages.flatMap((message) => message.tool_calls ?? []).map((one) => one.id);
    assert.equal(new Set(ids).size, 2);
  }
});

test("one call at most", async () => {
  await answerBy("told", ["", `${call("get_weather", rome)}\n${call("get_weather", rome)}`]);
  for (const tool_choice of ["auto", "required"]) {
    const body = { ...asked, tool_choice, parallel_tool_calls: false };
    const [choice] = (await told.chat.completions.create(body)).choices;
    assert.equal(choice.message.tool_calls.length, 1);
  }
});

test("tools that are not to be called", async () => {
  await answerBy("told", ["get_weather", "it was shown"], ["", "just text"]);
  const [choice] = (await told.chat.completions.create({ ...asked, tool_choice: "none" })).choices;
  assert.deepEqual([choice.message.content, choice.message.tool_calls ?? null], ["just text", null]);
});

test("parameters that cannot be enforced say where", async () => {
  const parameters = { type: "object", properties: { tags: { type: "array", uniqueItems: true } } };
  const tools = [{ type: "function", function: { name: "tag", parameters } }];
  await assert.rejects(told.chat.completions.create({ ...asked, tools, tool_choice: "required" }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "tools");
    assert.match(error.message, /tools\[0\]\.function\.parameters\.properties\.tags/);
    return true;
  });
});

test("responses: call, output, answer", async () => {
  await answerBy("told", ["sunny, 31 degrees", "It is sunny."], ["", call("get_weather", rome)]);
  const tools = [zodResponsesFunction({ name: "get_weather", parameters: Weather })];
  const input = user("How is Rome?");
  const first = await told.responses.parse({ model: "tiny", input, tools });
  const [item] = first.output;
  assert.deepEqual([item.type, item.name, item.parsed_arguments], ["function_call", "get_weather", rome]);
  input.push(...first.output, { type: "function_call_output", call_id: item.call_id, output: "sunny, 31 degrees" });
  const second = await told.responses.create({ model: "tiny", input, tools });
  assert.equal(second.output_text, "It is sunny.");
  const stream = told.responses.stream({ model: "tiny", input: "How is Rome?", tools });
  const deltas = (await collect(stream)).filter((event) => event.type === "response.function_call_arguments.delta");
  assert.deepEqual(JSON.parse(deltas.map((event) => event.delta).join("")), rome);
});

test("responses: the client runs the tools, whole and streamed", async () => {
  await answerBy("told", ["sunny, 31 degrees", "It is sunny in Rome."], ["", call("get_weather", rome)]);
  for (const options of [{}, { stream: true }, { stream: true, eager: true }]) {
    const calls = [];
    const run = (args) => (calls.push(args), "sunny, 31 degrees");
    const tool = zodResponsesFunction({ name: "get_weather", parameters: Weather, function: run });
    const runner = new ResponsesToolRunner({ functions: [runnerFunction(tool)] });
    const answer = await runner.run(told, { model: "tiny", input: "How is Rome?" }, options);
    assert.equal(answer.output_text, "It is sunny in Rome.");
    assert.deepEqual(calls, [rome]);
  }
});
