import assert from "node:assert/strict";
import { test } from "node:test";
import { eventsOf } from "../src/api/sse.ts";

/** Returns the events of a stream that comes in these chunks. */
async function read(chunks: Uint8Array[]): Promise<string[]> {
  const stream = new ReadableStream<Uint8Array>({
    start(controller) {
      chunks.forEach((chunk) => controller.enqueue(chunk));
      controller.close();
    },
  });
  const events: string[] = [];
  for await (const event of eventsOf(stream)) events.push(event);
  return events;
}

test("events are whole however they are cut", async () => {
  const text = ': keep alive\n\ndata: {"a":"语音"}\n\ndata: one\ndata: two\r\n\r\ndata: [DONE]\n\n';
  const bytes = new TextEncoder().encode(text);
  for (const size of [1, 2, 3, 7, bytes.length]) {
    const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, n) => bytes.slice(n * size, (n + 1) * size));
    assert.deepEqual(await read(chunks), ['{"a":"语音"}', "one\ntwo", "[DONE]"]);
  }
});

test("a stream that ends early gives what was complete", async () => {
  assert.deepEqual(await read([new TextEncoder().encode("data: one\n\nda")]), ["one"]);
  assert.deepEqual(await read([]), []);
});
