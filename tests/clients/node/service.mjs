// The services that the tests talk to, and how those are told what to answer (../test_openai_node.py).
import OpenAI from "openai";

const { urls, model, key, control } = JSON.parse(process.env.SERVICES);

/** The embedded model. */
export const MODEL = model;
export const KEY = key;

/** A client of one of the services: real, told, keyed, full, loading, slow. */
export function clientOf(service, options = {}) {
  return new OpenAI({ baseURL: `${urls[service]}/v1`, apiKey: "any", maxRetries: 0, timeout: 60000, ...options });
}

async function tell(service, action, body = {}) {
  const response = await fetch(`${control}/${service}/${action}`, { method: "POST", body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`${service}/${action}: ${await response.text()}`);
  return response.json();
}

/** From now on it answers the second text of the first pair whose first text stands in the prompt. */
export const answerBy = (service, ...rules) => tell(service, "answer", rules);
/** From now on it answers `x` and never ends. */
export const answerForever = (service) => tell(service, "answer_forever");
/** Its forward passes wait until `release`. */
export const hold = (service) => tell(service, "hold");
export const release = (service) => tell(service, "release");
/** Waits until so many sequences are open; fails when that does not come. */
export const untilOpen = (service, count) => tell(service, "until_open", count);

export const user = (content) => [{ role: "user", content }];

/** What a model writes to call a function: JSON with blanks, as Qwen2.5 was taught. */
export function call(name, args) {
  const pairs = Object.entries(args).map(([key, value]) => `${JSON.stringify(key)}: ${JSON.stringify(value)}`);
  return `<tool_call>\n{"name": "${name}", "arguments": {${pairs.join(", ")}}}\n</tool_call>`;
}

export async function collect(stream) {
  const all = [];
  for await (const one of stream) all.push(one);
  return all;
}
