import assert from "node:assert/strict";
import { test } from "node:test";
import { isRandom, isSmallWorld } from "../src/api/models.ts";

test("the page knows the local stack's checkpoints by their names", () => {
  const told = (id: string): boolean[] => [isRandom, isSmallWorld].map((is) => is({ id, voices: [] }));
  assert.deepEqual(told("Tiny-Qwen3-Omni-Instruct"), [true, false]);
  assert.deepEqual(told("Small-World-Qwen3-Omni-Captioner"), [false, true]);
  assert.deepEqual(told("Qwen3-Omni-30B-A3B-Instruct"), [false, false]);
});
