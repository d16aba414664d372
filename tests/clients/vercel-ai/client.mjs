// Vercel's AI SDK with its OpenAI provider (the Responses API by default, and chat) and its OpenAI-compatible one.

import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateSpeech, generateText, isStepCount, streamText, tool, transcribe } from "ai";
import { z } from "zod";

const [baseURL, apiKey, name] = process.argv.slice(2);
const openai = createOpenAI({ baseURL, apiKey });
const compatible = createOpenAICompatible({
  name: "antiphon",
  baseURL,
  apiKey,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const models = () => [openai(name), openai.chat(name), compatible(name)];
const Report = z.object({ city: z.string(), rain: z.boolean() });
const OSLO = 'call weather {"city": "Oslo"}\nsay It rains in Oslo.';
const REPORT = 'say {"city": "Oslo", "rain": true}';

const header = "524946466400000057415645666d74201000000001000100803e0000007d0000020010006461746140000000";
const sound = () => Buffer.concat([Buffer.from(header, "hex"), Buffer.alloc(64)]);

async function chat() {
  for (const model of models()) {
    const first = await generateText({ model, prompt: "say Hello there." });
    assert.equal(first.text, "Hello there.");
    assert.equal(first.usage.outputTokens, 3);
    const messages = [
      { role: "user", content: "say Hello there." },
      ...first.response.messages,
      { role: "user", content: "roles" },
    ];
    assert.equal((await generateText({ model, messages, instructions: "Be brief." })).text, "system user assistant user");
  }
}

async function stream() {
  for (const model of models()) {
    const streamed = streamText({ model, prompt: "say Hello there." });
    const parts = [];
    for await (const part of streamed.textStream) parts.push(part);
    assert.equal(parts.join(""), "Hello there.");
    assert.ok(parts.length > 1);
    assert.equal((await streamed.usage).outputTokens, 3);
  }
}

async function tools() {
  for (const model of models()) {
    for (const run of [generateText, streamText]) {
      const cities = [];
      const weather = tool({
        description: "The weather of a city",
        inputSchema: z.object({ city: z.string() }),
        execute: ({ city }) => {
          cities.push(city);
          return "Rain.";
        },
      });
      const ended = await run({ model, prompt: OSLO, tools: { weather }, stopWhen: isStepCount(3) });
      assert.equal(await ended.text, "It rains in Oslo.");
      assert.deepEqual(cities, ["Oslo"]);
    }
  }
}

async function structured() {
  for (const model of models()) {
    const { output } = await generateText({ model, prompt: REPORT, output: Output.object({ schema: Report }) });
    assert.deepEqual(output, { city: "Oslo", rain: true });
  }
}

async function hears() {
  const file = { type: "file", data: sound(), mediaType: "audio/wav" };
  const messages = [{ role: "user", content: [file, { type: "text", text: "read 0" }] }];
  for (const model of [openai.chat(name), compatible(name)]) {
    assert.equal((await generateText({ model, messages })).text, "<audio>\nread 0");
  }
}

async function sees() {
  const pixel = Buffer.from(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
    "base64",
  );
  const file = { type: "file", data: pixel, mediaType: "image/png" };
  const messages = [{ role: "user", content: [file, { type: "text", text: "read 0" }] }];
  for (const model of models()) {
    assert.equal((await generateText({ model, messages })).text, "<image>\nread 0");
  }
}

async function audio() {
  const speech = await generateSpeech({ model: openai.speech(name), text: "say Hello.", voice: "alloy", outputFormat: "wav" });
  assert.equal(Buffer.from(speech.audio.uint8Array).subarray(0, 4).toString(), "RIFF");
  const written = await transcribe({ model: openai.transcription(name), audio: sound() });
  assert.ok(written.text);
}

async function retries() {
  const model = openai.chat(name);
  assert.equal((await generateText({ model, prompt: "busy vercel\nsay Here I am." })).text, "Here I am.");
}

for (const conversation of [chat, stream, tools, structured, hears, sees, audio, retries]) {
  try {
    await conversation();
    console.log(conversation.name);
  } catch (error) {
    console.error(`--- ${conversation.name}\n`, error);
    process.exitCode = 1;
  }
}
