import assert from "node:assert/strict";
import { test } from "node:test";
import { Averager } from "../src/audio/averager.ts";
import { base64OfPcm, joined, pcmOfBase64, wavOf } from "../src/audio/pcm.ts";

test("samples survive base64", () => {
  const pcm = Int16Array.from({ length: 100_000 }, (_, n) => ((n * 7919) % 65_536) - 32_768);
  assert.deepEqual(pcmOfBase64(base64OfPcm(pcm)), pcm);
  assert.deepEqual(base64OfPcm(Int16Array.of(1, -2)), "AQD+/w==");
});

test("a WAV file has its header and its samples", async () => {
  const view = new DataView(await wavOf([Int16Array.of(1, 2), Int16Array.of(-3)]).arrayBuffer());
  assert.equal(view.byteLength, 50);
  assert.equal(view.getUint32(24, true), 24_000);
  assert.equal(view.getUint32(40, true), 6);
  assert.equal(view.getInt16(48, true), -3);
  assert.deepEqual(joined([]), new Int16Array());
});

for (const rate of [48_000, 44_100, 24_000, 16_000]) {
  test(`a microphone of ${rate} Hz gives 24 kHz`, () => {
    const out: number[] = [];
    const averager = new Averager(rate, 24_000);
    const second = Float32Array.from({ length: rate }, (_, n) => Math.sin((2 * Math.PI * 440 * n) / rate));
    for (let at = 0; at < rate; at += 128) averager.push(second.subarray(at, at + 128), (sample) => out.push(sample));
    assert.ok(Math.abs(out.length - 24_000) <= 1);
    const power = out.reduce((sum, sample) => sum + sample * sample, 0) / out.length;
    assert.ok(Math.abs(power - 0.5) < 0.01, `power ${power}`);
    const crossings = out.filter((sample, n) => n > 0 && sample >= 0 && (out[n - 1] ?? 0) < 0).length;
    assert.ok(Math.abs(crossings - 440) <= 1, `${crossings} periods`);
  });
}
