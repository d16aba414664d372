// openai-agents-js: a RealtimeSession over a WebSocket, with the settings that it has by default.

import assert from "node:assert/strict";
import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession, tool } from "@openai/agents-realtime";
import { Events, KEY, MODEL, Microphone, OSLO, PNG, SCRIPT, URL, WEATHER, heardWords, hold } from "./conversations.mjs";

async function realtime() {
  const cities = [];
  const weather = tool({
    name: "weather",
    description: "The weather of a city.",
    parameters: WEATHER,
    strict: true,
    execute: ({ city }) => {
      cities.push(city);
      return "Rain.";
    },
  });
  const agent = new RealtimeAgent({ name: "forecaster", instructions: SCRIPT, tools: [weather] });
  const url = `${URL.replace("http", "ws")}/realtime?model=${MODEL}`;
  const session = new RealtimeSession(agent, { transport: new OpenAIRealtimeWebSocket({ url }), model: MODEL });
  const events = new Events();
  session.on("transport_event", (event) => events.add(event));
  session.on("error", (error) => events.add({ type: "error", error }));
  await session.connect({ apiKey: KEY });
  const microphone = new Microphone();
  const recording = microphone.record((frame) => session.sendAudio(frame.buffer));
  microphone.say();
  for (let n = 0; n < 10; n++) await events.until("response.output_audio.delta");
  microphone.say();
  const { audio_end_ms } = await events.until("conversation.item.truncated");
  assert.equal(await events.answer(), heardWords(audio_end_ms));
  session.sendMessage(OSLO);
  assert.equal(await events.answer(), "It rains in Oslo.");
  assert.deepEqual(cities, ["Oslo"]);
  session.addImage(`data:image/png;base64,${PNG}`, { triggerResponse: false });
  session.sendMessage("read -2");
  assert.equal(await events.answer(), "<image>");
  microphone.turnOff();
  await recording;
  session.close();
}

await hold([realtime]);
