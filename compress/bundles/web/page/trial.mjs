// node trial.mjs FOLDER: runs the model of a page on its examples and prints what went wrong, as JSON.
// Images are given as pixels, with the tensors that Python made of them; how a browser decodes them only a browser can
// tell.
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, trialFile] = process.argv.slice(2).map((path) => resolve(path));
const load = (name) => import(pathToFileURL(join(folder, name)).href);
const json = (path) => JSON.parse(readFileSync(path, "utf8"));

const page = json(join(folder, "page.json"));
const { texts, images, outputs, tolerance } = json(trialFile);
const { distance, openSession, run, Tensor } = await load("model.mjs");
const PIXELS_APART = 1e-4;
const problems = [];
let furthest = 0;
try {
  let inputs = [];
  if (page.image) {
    const { frame, pixelInputs } = await load("images.mjs");
    for (const [place, { pixels, height, width, values }] of images.entries()) {
      const shown = frame({ values: Uint8Array.from(pixels), height, width, channels: 3 }, page.image);
      inputs.push(pixelInputs(shown, page.image, page.input_names[0], Tensor));
      const found = inputs.at(-1)[page.input_names[0]].data;
      const apart = values.reduce((most, value, at) => Math.max(most, Math.abs(value - found[at])), 0);
      if (!(apart <= PIXELS_APART)) problems.push({ kind: "pixels", place, apart });
    }
  }
  if (!page.image) {
    const { textEncoder, tokenInputs } = await load("texts.mjs");
    const encode = textEncoder(json(join(folder, "tokenizer.json")), page);
    for (const { text, ids } of texts) {
      const found = encode(text);
      if (JSON.stringify(found) !== JSON.stringify(ids)) problems.push({ kind: "tokens", text, found, ids });
    }
    inputs = texts.slice(0, outputs.length).map(({ ids }) => tokenInputs(ids, page.input_names, Tensor));
  }
  const session = await openSession(new Uint8Array(readFileSync(join(folder, "model.onnx"))));
  for (const [place, expected] of outputs.entries()) {
    const apart = distance((await run(session, inputs[place])).values, expected, page.labels.length > 0);
    furthest = Math.max(furthest, apart);
    if (!(apart <= tolerance)) problems.push({ kind: "outputs", place, apart });
  }
} catch (error) {
  problems.push({ kind: "error", message: String(error.message ?? error) });
}
console.log(JSON.stringify({ furthest, problems }));
