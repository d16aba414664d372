// openai-node over the endpoints that it knows, whole and streamed.

import assert from "node:assert/strict";
import { setTimeout } from "node:timers/promises";
import OpenAI, { toFile } from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { OpenAIRealtimeWebSocket } from "openai/realtime/websocket";
import { OpenAIRealtimeWS } from "openai/realtime/ws";
import { LiveWS } from "openai/resources/live/ws";
import { z } from "zod";
import { Events, LONG, Microphone, PNG, SCRIPT, SECURE_URL, heardWords, hold } from "./conversations.mjs";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 2 });
const Report = z.object({ city: z.string(), rain: z.boolean() });
const OSLO = 'call weather {"city": "Oslo"}\nsay It rains in Oslo.';
const REPORT = 'say {"city": "Oslo", "rain": true}';
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};

const asked = (content) => [{ role: "user", content }];

const header = "524946466400000057415645666d74201000000001000100803e0000007d0000020010006461746140000000";
const sound = () => Buffer.concat([Buffer.from(header, "hex"), Buffer.alloc(64)]);

async function chat() {
  const answer = await client.chat.completions.create({ model, messages: asked("say Hello there.") });
  const { message } = answer.choices[0];
  assert.equal(message.content, "Hello there.");
  assert.equal(answer.usage.completion_tokens, 3);
  const messages = [...asked("say Hello there."), message, ...asked("roles")];
  const again = await client.chat.completions.create({ model, messages });
  assert.equal(again.choices[0].message.content, "user assistant user");
}

async function stream() {
  const runner = client.chat.completions.stream({
    model,
    messages: asked("say Hello there."),
    stream_options: { include_usage: true },
  });
  const deltas = [];
  runner.on("content", (delta) => deltas.push(delta));
  const final = await runner.finalChatCompletion();
  assert.equal(deltas.join(""), "Hello there.");
  assert.equal(final.usage.completion_tokens, 3);
  // As the helper gives it, `parsed` and `refusal` included.
  const messages = [...asked("say Hello there."), final.choices[0].message, ...asked("read 1")];
  const again = await client.chat.completions.create({ model, messages });
  assert.equal(again.choices[0].message.content, "Hello there.");
}

async function tools() {
  const cities = [];
  const weather = {
    type: "function",
    function: {
      name: "weather",
      parameters,
      parse: JSON.parse,
      function: ({ city }) => {
        cities.push(city);
        return "Rain.";
      },
    },
  };
  for (const streams of [false, true]) {
    const runner = client.chat.completions.runTools({ model, messages: asked(OSLO), tools: [weather], stream: streams });
    assert.equal(await runner.finalContent(), "It rains in Oslo.");
  }
  assert.deepEqual(cities, ["Oslo", "Oslo"]);
}

async function structured() {
  const answer = await client.chat.completions.parse({
    model,
    messages: asked(REPORT),
    response_format: zodResponseFormat(Report, "report"),
  });
  assert.deepEqual(answer.choices[0].message.parsed, { city: "Oslo", rain: true });
}

async function spoken() {
  const heard = { type: "input_audio", input_audio: { data: sound().toString("base64"), format: "wav" } };
  const first = asked([heard, { type: "text", text: "say I hear you." }]);
  const { choices } = await client.chat.completions.create({
    model,
    messages: first,
    modalities: ["text", "audio"],
    audio: { voice: "ethan", format: "wav" },
  });
  const { audio } = choices[0].message;
  assert.equal(audio.transcript, "I hear you.");
  assert.equal(Buffer.from(audio.data, "base64").subarray(0, 4).toString(), "RIFF");
  const messages = [...first, { role: "assistant", audio: { id: audio.id } }, ...asked("read 1")];
  const again = await client.chat.completions.create({ model, messages });
  assert.equal(again.choices[0].message.content, "I hear you.");
}

async function speech() {
  const response = await client.audio.speech.create({ model, voice: "alloy", input: "say Hello.", response_format: "flac" });
  assert.equal(Buffer.from(await response.arrayBuffer()).subarray(0, 4).toString(), "fLaC");
}

async function transcription() {
  const file = await toFile(sound(), "a.wav");
  const answer = await client.audio.transcriptions.create({ model, file });
  assert.ok(answer.text);
  let last;
  for await (const event of await client.audio.transcriptions.create({ model, file, stream: true })) last = event;
  assert.equal(last.type, "transcript.text.done");
  assert.equal(last.text, answer.text);
  assert.ok((await client.audio.translations.create({ model, file })).text);
}

const line = (id, body) => JSON.stringify({ custom_id: id, method: "POST", url: "/v1/chat/completions", body });

async function uploaded(name, lines) {
  return client.files.create({ file: await toFile(Buffer.from(lines.join("\n")), name), purpose: "batch" });
}

async function ids(pages) {
  const found = [];
  for await (const one of pages) found.push(one.id);
  return found;
}

async function files() {
  const text = line("only", { model, messages: asked("say Hello.") });
  const first = await uploaded("first.jsonl", [text]);
  const second = await uploaded("second.jsonl", [text]);
  assert.deepEqual([first.object, first.bytes, first.filename], ["file", Buffer.byteLength(text), "first.jsonl"]);
  assert.equal((await client.files.waitForProcessing(first.id)).status, "processed");
  // Two pages.
  assert.deepEqual(await ids(client.files.list({ limit: 1, order: "asc" })), [first.id, second.id]);
  assert.equal(await (await client.files.content(second.id)).text(), text);
  assert.equal((await client.files.retrieve(second.id)).purpose, "batch");
  for (const { id } of [first, second]) assert.equal((await client.files.delete(id)).deleted, true);
  await assert.rejects(client.files.content(first.id), OpenAI.NotFoundError);
  await assert.rejects(client.files.create({ file: await toFile(sound(), "a.wav"), purpose: "fine-tune" }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    return error.param === "purpose";
  });
  const heard = await client.files.create({ file: await toFile(sound(), "a.wav"), purpose: "user_data" });
  const content = [{ type: "file", file: { file_id: heard.id } }, { type: "text", text: "say Hello." }];
  const answer = await client.chat.completions.create({ model, messages: [{ role: "user", content }] });
  assert.equal(answer.choices[0].message.content, "Hello.");
  const items = [{ type: "input_file", file_id: heard.id }, { type: "input_text", text: "say Hello." }];
  const response = await client.responses.create({ model, input: [{ role: "user", content: items }] });
  assert.equal(response.output_text, "Hello.");
  await client.files.delete(heard.id);
}

async function batches() {
  const messages = asked("say Hello there.");
  const input = await uploaded("in.jsonl", [
    line("right", { model, messages }),
    line("wrong", { model, messages, temperature: 9 }),
    line("also right", { model, messages: asked("say Good bye.") }),
  ]);
  const made = await client.batches.create({
    input_file_id: input.id,
    endpoint: "/v1/chat/completions",
    completion_window: "24h",
    metadata: { of: "node" },
  });
  assert.equal(made.object, "batch");
  let batch = made;
  while (!["completed", "failed", "expired", "cancelled"].includes(batch.status)) {
    await setTimeout(50);
    batch = await client.batches.retrieve(made.id);
  }
  assert.deepEqual([batch.status, batch.metadata], ["completed", { of: "node" }]);
  assert.deepEqual(batch.request_counts, { total: 3, completed: 2, failed: 1 });
  const lines = async (id) => (await (await client.files.content(id)).text()).trim().split("\n").map(JSON.parse);
  const said = Object.fromEntries(
    (await lines(batch.output_file_id)).map((one) => [one.custom_id, one.response.body.choices[0].message.content]),
  );
  assert.deepEqual(said, { right: "Hello there.", "also right": "Good bye." });
  const [failed] = await lines(batch.error_file_id);
  assert.deepEqual([failed.custom_id, failed.response.status_code], ["wrong", 400]);
  assert.equal(failed.response.body.error.param, "temperature");
  assert.deepEqual(await ids(client.batches.list({ limit: 1 })), [batch.id]);
  await assert.rejects(client.batches.cancel(batch.id), OpenAI.ConflictError);
  for (const id of [input.id, batch.output_file_id, batch.error_file_id]) await client.files.delete(id);
}

async function responses() {
  const first = await client.responses.create({ model, input: "say Hello there." });
  assert.equal(first.output_text, "Hello there.");
  const second = await client.responses.create({ model, input: "roles", previous_response_id: first.id });
  assert.equal(second.output_text, "user assistant user");
  const parsed = await client.responses.parse({ model, input: REPORT, text: { format: zodTextFormat(Report, "report") } });
  assert.deepEqual(parsed.output_parsed, { city: "Oslo", rain: true });
  const streamed = await client.responses.stream({ model, input: "say Hello there." }).finalResponse();
  assert.equal(streamed.output_text, "Hello there.");
  const tool = { type: "function", name: "weather", parameters, strict: true };
  const called = await client.responses.create({ model, input: OSLO, tools: [tool] });
  const call = called.output.find((item) => item.type === "function_call");
  assert.deepEqual(JSON.parse(call.arguments), { city: "Oslo" });
  const result = { type: "function_call_output", call_id: call.call_id, output: "Rain." };
  const input = [...asked(OSLO), ...called.output, result];
  assert.equal((await client.responses.create({ model, input, tools: [tool] })).output_text, "It rains in Oslo.");
  assert.equal((await client.responses.retrieve(first.id)).id, first.id);
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
}

async function models() {
  const found = [];
  for await (const one of client.models.list()) found.push(one.id);
  assert.deepEqual(found, [model]);
  assert.equal((await client.models.retrieve(model)).object, "model");
}

async function errors() {
  const messages = asked("hi");
  await assert.rejects(client.chat.completions.create({ model, messages, temperature: 9 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    return Boolean(error.requestID);
  });
  await assert.rejects(client.chat.completions.create({ model: "none", messages }), OpenAI.NotFoundError);
  await assert.rejects(new OpenAI({ baseURL, apiKey: "wrong" }).models.list(), OpenAI.AuthenticationError);
}

async function retries() {
  const once = { model, messages: asked("busy node one\nsay Hi.") };
  await assert.rejects(client.chat.completions.create(once, { maxRetries: 0 }), OpenAI.RateLimitError);
  const again = { model, messages: asked("busy node two\nsay Here I am.") };
  assert.equal((await client.chat.completions.create(again)).choices[0].message.content, "Here I am.");
}

// The client has no microphone and plays nothing: that is the application's, and so is what was played until the user spoke.
async function talk(connection) {
  const events = new Events();
  connection.on("event", (event) => events.add(event));
  connection.on("error", (error) => events.add({ type: "error", error: String(error) }));
  await events.until("session.created");
  const input = { turn_detection: { type: "semantic_vad" }, transcription: { model: "gpt-4o-mini-transcribe" } };
  const tools = [{ type: "function", name: "weather", parameters }];
  const settings = { type: "realtime", instructions: SCRIPT, audio: { input, output: { voice: "alloy" } }, tools };
  connection.send({ type: "session.update", session: settings });
  await events.until("session.updated");
  const microphone = new Microphone();
  const recording = microphone.record((frame) => {
    connection.send({ type: "input_audio_buffer.append", audio: frame.toString("base64") });
  });
  microphone.say();
  const { item_id } = await events.until("response.output_audio.delta");
  const began = performance.now();
  for (let n = 0; n < 10; n++) await events.until("response.output_audio.delta");
  microphone.say();
  await events.until("input_audio_buffer.speech_started");
  const audio_end_ms = Math.floor(Math.min(performance.now() - began, events.audioMs));
  connection.send({ type: "conversation.item.truncate", item_id, content_index: 0, audio_end_ms });
  await events.until("conversation.item.truncated");
  assert.equal(await events.answer(), heardWords(audio_end_ms));
  const say = (content) => {
    connection.send({ type: "conversation.item.create", item: { type: "message", role: "user", content } });
    connection.send({ type: "response.create" });
  };
  say([{ type: "input_text", text: OSLO }]);
  const { call_id, arguments: given } = await events.until("response.function_call_arguments.done");
  assert.deepEqual(JSON.parse(given), { city: "Oslo" });
  await events.until("response.done");
  connection.send({ type: "conversation.item.create", item: { type: "function_call_output", call_id, output: "Rain." } });
  connection.send({ type: "response.create" });
  assert.equal(await events.answer(), "It rains in Oslo.");
  const image = { type: "input_image", image_url: `data:image/png;base64,${PNG}` };
  say([image, { type: "input_text", text: "read -1" }]);
  assert.equal(await events.answer(), "<image>\nread -1");
  microphone.turnOff();
  await recording;
  connection.close();
}

// Its Realtime clients speak TLS alone.
const secure = new OpenAI({ baseURL: SECURE_URL, apiKey });

async function realtime() {
  await talk(new OpenAIRealtimeWS({ model }, secure));
}

// As in a browser: the key is among the subprotocols.
async function browser() {
  await talk(new OpenAIRealtimeWebSocket({ model, dangerouslyAllowBrowser: true }, secure));
}

async function live() {
  const connection = new LiveWS(client);
  const events = new Events();
  connection.on("event", (event) => events.add(event));
  connection.on("error", (error) => events.add({ type: "error", error: String(error) }));
  const instructions = `${SCRIPT}\n\ncall delegate {"task": "Oslo's weather"}\nsay It rains in Oslo.`;
  const settings = { model, instructions, audio: { output: { voice: "alloy" } } };
  connection.send({ type: "session.start", session: settings });
  await events.until("session.started");
  const microphone = new Microphone();
  const recording = microphone.record((frame) => {
    connection.send({ type: "session.input_audio.append", audio: frame.toString("base64") });
  });
  const said = [];
  const next = async () => said.push((await events.until("session.output_transcript.delta")).delta.trim());
  const until = async (word) => {
    do await next();
    while (said.at(-1).split(" ").at(-1) !== word); // the last words of an answer may come together
  };
  microphone.say();
  await until("w9");
  microphone.say();
  // The second answer is what was heard of the first one, which said more.
  await until("w0");
  const cut = said.splice(0, said.length - 1);
  assert.ok(cut.length < LONG.length);
  const words = () => said.join(" ").split(" ");
  while (words().length < 5) await next();
  assert.deepEqual(words(), cut.slice(0, words().length));
  microphone.say();
  const { delegation } = await events.until("session.delegation.created");
  connection.send({ type: "session.commentary.append", content: "Rain.", delegation_id: delegation.id });
  await until("Oslo.");
  microphone.turnOff();
  await recording;
  connection.send({ type: "session.close" });
  assert.equal((await events.until("session.closed")).reason, "close_requested");
  connection.close();
}

await hold([
  ...[chat, stream, tools, structured, spoken, speech, transcription],
  ...[files, batches, responses, models, errors, retries],
  ...[realtime, browser, live],
]);
