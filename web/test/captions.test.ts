import assert from "node:assert/strict";
import { test } from "node:test";
import { Captions, heardText, type Caption } from "../src/realtime/captions.ts";
import { Heard } from "../src/realtime/heard.ts";
import { itemsOf } from "../src/realtime/memory.ts";

const RATE = 24_000;
const answer = (changes: Partial<Caption>): Caption => ({ ...new Captions().of("a", "assistant"), ...changes });

test("a caption grows with its sound, word by word", () => {
  const text = "The quick brown fox jumps over the lazy dog.";
  let last = "";
  for (let played = 0; played <= 2 * RATE; played += 480) {
    const heard = heardText(answer({ text, samples: 2 * RATE, isWhole: true, played }), RATE);
    assert.ok(heard.startsWith(last) && text.startsWith(heard));
    assert.ok(heard === "" || /^(\s|$)/.test(text.slice(heard.length)), `cut inside a word: ${heard}`);
    last = heard;
  }
  assert.equal(last, text);
});

test("before all of the speech is there, as much is shown as is said in the time", () => {
  const text = "word ".repeat(100).trim();
  assert.equal(heardText(answer({ text, samples: RATE, played: 0 }), RATE), "");
  assert.equal(heardText(answer({ text, samples: RATE, played: RATE }), RATE), "word word word");
  assert.equal(heardText(answer({ text: "说".repeat(50), samples: RATE, played: RATE }), RATE), "说".repeat(6));
});

test("an answer that is text alone is shown whole", () => {
  assert.equal(heardText(answer({ text: "Hello.", isWhole: true }), RATE), "Hello.");
});

test("of an interrupted answer what was heard stays", () => {
  const captions = new Captions();
  const caption = captions.of("a", "assistant");
  Object.assign(caption, { text: "one two three four", samples: 4 * RATE, isWhole: true, played: 2 * RATE });
  const heard = heardText(caption, RATE);
  assert.equal(heard, "one two");
  captions.interrupt(caption, RATE);
  assert.equal(heardText(caption, RATE), heard);
});

test("what the user was saying is over when the connection is", () => {
  const captions = new Captions();
  captions.of("u1", "user");
  captions.of("a1", "assistant");
  captions.close();
  assert.deepEqual(captions.list.map(({ isOpen }) => isOpen), [false, false]);
});

test("a position of the microphone has its time and its sound", () => {
  const heard = new Heard();
  for (let n = 0; n < 50; n++) heard.add(new Int16Array(960).fill(n), 1000 + (n + 1) * 40);
  assert.equal(heard.clockAt(0), 1000);
  assert.equal(heard.clockAt(1030), 2030);
  assert.deepEqual([...new Set(heard.slice(80, 160))], [2, 3]);
  heard.restart();
  assert.equal(heard.clockAt(0), undefined);
});

test("the words of a turn end before its silence", () => {
  const heard = new Heard();
  for (const level of [0, 3, 5000, 9000, 2000, 60, 3, 0]) heard.add(new Int16Array(960).fill(level), 0);
  assert.equal(heard.endOfWords(0, 320), 200);
  assert.equal(heard.endOfWords(280, 320), 320);
});

test("the next session is told what was heard, and what was said", () => {
  const captions = new Captions();
  captions.of("u1", "user");
  Object.assign(captions.of("a1", "assistant"), { text: "one two three", samples: 300, played: 150, isWhole: true });
  captions.of("u2", "user").text = "in words";
  captions.of("u3", "user");
  captions.of("a2", "assistant").text = "never heard";
  const sounds = new Map([["u1", new Int16Array(RATE)], ["u2", new Int16Array(RATE)], ["u3", new Int16Array(10)]]);
  const items = itemsOf(captions.list, sounds);
  assert.deepEqual(items.map(({ role, content }) => [role, content[0]?.type]), [
    ["user", "input_audio"], ["assistant", "output_text"], ["user", "input_text"],
  ]);
  assert.deepEqual(items[1]?.content, [{ type: "output_text", text: "one" }]);
});
