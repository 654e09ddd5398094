// The page of a language model: it answers, or goes on with a text.
import { openSession, Tensor } from "./model.mjs";
import { element, fetched, guarded, say } from "./shell.mjs";
import { conversation, Decoder, fitted, probed, share, stream, withRoom, Words } from "./writing.mjs";

const page = await (await fetched("page.json")).json();
const said = [];
let stopped = false;
let forgot = false;

function number(id) {
  const value = element(id).valueAsNumber;
  if (Number.isNaN(value)) throw new Error(`${element(id).name} is not a number`);
  return value;
}

function shown(role, text) {
  const part = document.createElement("li");
  part.className = role;
  part.textContent = text;
  element("talk").append(part);
  return part;
}

/** What was typed, as the ids of a prompt; of a conversation the oldest turns go where there is no room for them. */
function promptOf(words, text, most) {
  if (page.chat === null) return withRoom(words, words.ids(text, true));
  const messages = [...said, { role: "user", content: text }];
  const kept = fitted(words, page.chat, messages, most);
  const prompt = withRoom(words, words.ids(conversation(page.chat, kept), false));
  said.splice(0, said.length, ...kept);
  if (kept.length < messages.length && !forgot) {
    forgot = true;
    shown("note", `the oldest turns are forgotten: the model holds ${page.positions} tokens`);
  }
  return prompt;
}

async function answer(decoder, words) {
  const text = element("text").value;
  if (!text) return say("type something");
  const how = {
    most: number("most"), temperature: number("temperature"), topP: number("top-p"), ends: page.end_ids, stopped: () => stopped,
  };
  const prompt = promptOf(words, text, how.most);
  shown("user", text);
  const part = shown("assistant", "");
  element("text").value = "";
  stopped = false;
  for (const [id, off] of [["run", true], ["stop", false], ["clear", true], ["check", true]]) element(id).disabled = off;
  const start = performance.now();
  let first = null;
  try {
    for await (const more of stream(decoder, words, prompt, how)) {
      first ??= performance.now();
      part.textContent += more;
      // A moment for the page to show it, and for the button to be pressed.
      await new Promise((resume) => setTimeout(resume));
    }
  } finally {
    if (page.chat !== null) said.push({ role: "assistant", content: part.textContent });
    for (const [id, off] of [["run", false], ["stop", true], ["clear", false], ["check", false]]) element(id).disabled = off;
  }
  const written = decoder.read.length - prompt.length;
  const seconds = (performance.now() - first) / 1000;
  element("time").textContent = `first token after ${((first - start) / 1000).toFixed(1)} s`
    + (written > 0 && seconds > 0 ? `, then ${(written / seconds).toFixed(1)} a second` : "");
  return say("ready");
}

/** Run the examples whose logits Python computed, and say how far the browser's are. */
async function check(decoder, { examples, tolerance }) {
  let furthest = 0;
  for (const { ids, output } of examples) {
    decoder.forget();
    furthest = Math.max(furthest, share(probed(await decoder.after(ids)), output));
  }
  const verdict = furthest <= tolerance ? "right" : "WRONG";
  element("checked").textContent =
    `${examples.length} examples ${verdict}: largest difference ${furthest.toExponential(1)} of the largest logit, allowed ${tolerance}`;
}

async function main() {
  say(`loading the model (${page.size_mb.toFixed(2)} MB)`);
  const words = new Words(await (await fetched("tokenizer.json")).json(), page);
  const session = await openSession(new Uint8Array(await (await fetched("model.onnx")).arrayBuffer()));
  const decoder = new Decoder(session, Tensor);
  const known = await (await fetched("check.json")).json();
  element("ask").addEventListener("submit", guarded(() => answer(decoder, words)));
  element("stop").addEventListener("click", () => { stopped = true; });
  element("clear").addEventListener("click", () => {
    said.length = 0;
    forgot = false;
    element("talk").replaceChildren();
  });
  element("check").addEventListener("click", guarded(() => check(decoder, known)));
  for (const id of ["run", "clear", "check"]) element(id).disabled = false;
  say("ready");
}

main().catch((error) => say(`failed: ${error.message ?? error}`));
