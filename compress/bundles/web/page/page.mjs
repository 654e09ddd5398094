// What the page does: load, ask, run, show.
import { cosine, distance, openSession, run, softmax, Tensor } from "./model.mjs";
import { element, fetched, guarded, say } from "./shell.mjs";

const SHOWN = 5;
const page = await (await fetched("page.json")).json();
const labelled = page.labels.length > 0;

/** The function that makes the model's inputs: of a text, or of an image file. */
async function inputMaker() {
  const names = page.input_names;
  if (page.image) {
    const { draw, pixelInputs, seen } = await import("./images.mjs");
    return async (blob) => {
      const pixels = await seen(blob, page.image);
      draw(element("seen"), pixels);
      return pixelInputs(pixels, page.image, names[0], Tensor);
    };
  }
  const { textEncoder, tokenInputs } = await import("./texts.mjs");
  const encode = textEncoder(await (await fetched("tokenizer.json")).json(), page);
  return (text) => tokenInputs(encode(text), names, Tensor);
}

function bar(label, share, text) {
  const row = document.createElement("li");
  const meter = document.createElement("meter");
  Object.assign(meter, { min: 0, max: 1, value: Math.max(share, 0) });
  meter.setAttribute("aria-label", `${label}: ${text}`);
  const [name, number] = [label, text].map((content) => {
    const part = document.createElement("span");
    part.textContent = content;
    return part;
  });
  row.append(name, number, meter);
  return row;
}

function show(rows, outputs, milliseconds) {
  element("bars").replaceChildren(...rows);
  element("outputs").textContent = JSON.stringify(outputs);
  element("time").textContent = `${milliseconds.toFixed(1)} ms for one inference`;
  element("answer").hidden = false;
}

function showLabels({ values, milliseconds }) {
  const shares = softmax(values).map((share, place) => ({ share, label: page.labels[place] }));
  const best = shares.sort((one, other) => other.share - one.share).slice(0, SHOWN);
  const rows = best.map(({ label, share }) => bar(label, share, `${(share * 100).toFixed(1)} %`));
  show(rows, values, milliseconds);
}

function showSimilarity(first, second) {
  const similarity = cosine(first.values, second.values);
  const row = bar("similarity (cosine)", similarity, similarity.toFixed(3));
  show([row], [first.values, second.values], (first.milliseconds + second.milliseconds) / 2);
}

/** The text or the image of an example. */
async function itemOf({ text, image }) {
  return image ? (await fetched(image)).blob() : text;
}

/** Run the examples whose outputs Python computed, and say how far the browser's are. */
async function check(session, inputsOf, { examples, tolerance }) {
  let furthest = 0;
  for (const { output, ...example } of examples) {
    const inputs = await inputsOf(await itemOf(example));
    furthest = Math.max(furthest, distance((await run(session, inputs)).values, output, labelled));
  }
  const verdict = furthest <= tolerance ? "right" : "WRONG";
  const what = labelled ? "largest difference of a probability" : "largest distance of a cosine from 1";
  element("checked").textContent =
    `${examples.length} examples ${verdict}: ${what} ${furthest.toExponential(1)}, allowed ${tolerance}`;
}

async function main() {
  say(`loading the model (${page.size_mb.toFixed(2)} MB)`);
  const inputsOf = await inputMaker();
  const session = await openSession(new Uint8Array(await (await fetched("model.onnx")).arrayBuffer()));
  const known = await (await fetched("check.json")).json();
  // The first run allocates what all others use; it would be timed with it.
  for (const example of known.examples.slice(0, 1)) await run(session, await inputsOf(await itemOf(example)));
  const answer = async () => {
    if (page.image) {
      const [file] = element("image").files;
      if (!file) return say("choose an image");
      showLabels(await run(session, await inputsOf(file)));
    } else if (labelled) {
      showLabels(await run(session, await inputsOf(element("text").value)));
    } else {
      const [first, second] = [element("text").value, element("other").value];
      showSimilarity(await run(session, await inputsOf(first)), await run(session, await inputsOf(second)));
    }
    return say("ready");
  };
  element("ask").addEventListener("submit", guarded(answer));
  if (page.image) element("image").addEventListener("change", guarded(answer));
  element("check").addEventListener("click", guarded(() => check(session, inputsOf, known)));
  for (const id of ["run", "check"]) element(id).disabled = false;
  say("ready");
}

main().catch((error) => say(`failed: ${error.message ?? error}`));
