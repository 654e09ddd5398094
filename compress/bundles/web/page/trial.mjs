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
const { texts, images, outputs, tolerance, prompts } = json(trialFile);
const { distance, openSession, run, Tensor } = await load("model.mjs");
const PIXELS_APART = 1e-4;
const problems = [];
let furthest = 0;
try {
  let inputs = [];
  const session = await openSession(new Uint8Array(readFileSync(join(folder, "model.onnx"))));
  if (page.writes) {
    const { Decoder, probed, share, Words } = await load("writing.mjs");
    const words = new Words(json(join(folder, "tokenizer.json")), page);
    for (const { text, ids, begins, decoded } of texts) {
      const found = words.ids(text, begins);
      if (JSON.stringify(found) !== JSON.stringify(ids)) problems.push({ kind: "tokens", text, found, ids });
      else if (words.text(ids) !== decoded) problems.push({ kind: "text", text: words.text(ids), ids, decoded });
    }
    const decoder = new Decoder(session, Tensor);
    for (const [place, expected] of outputs.entries()) {
      decoder.forget();
      const apart = share(probed(await decoder.after(prompts[place])), expected);
      furthest = Math.max(furthest, apart);
      if (!(apart <= tolerance)) problems.push({ kind: "outputs", place, apart });
    }
  } else if (page.image) {
    const { frame, pixelInputs } = await load("images.mjs");
    for (const [place, { pixels, height, width, values }] of images.entries()) {
      const shown = frame({ values: Uint8Array.from(pixels), height, width, channels: 3 }, page.image);
      inputs.push(pixelInputs(shown, page.image, page.input_names[0], Tensor));
      const found = inputs.at(-1)[page.input_names[0]].data;
      const apart = values.reduce((most, value, at) => Math.max(most, Math.abs(value - found[at])), 0);
      if (!(apart <= PIXELS_APART)) problems.push({ kind: "pixels", place, apart });
    }
  } else {
    const { textEncoder, tokenInputs } = await load("texts.mjs");
    const encode = textEncoder(json(join(folder, "tokenizer.json")), page);
    for (const { text, ids } of texts) {
      const found = encode(text);
      if (JSON.stringify(found) !== JSON.stringify(ids)) problems.push({ kind: "tokens", text, found, ids });
    }
    inputs = texts.slice(0, outputs.length).map(({ ids }) => tokenInputs(ids, page.input_names, Tensor));
  }
  for (const [place, expected] of page.writes ? [] : outputs.entries()) {
    const apart = distance((await run(session, inputs[place])).values, expected, page.labels.length > 0);
    furthest = Math.max(furthest, apart);
    if (!(apart <= tolerance)) problems.push({ kind: "outputs", place, apart });
  }
} catch (error) {
  problems.push({ kind: "error", message: String(error.message ?? error) });
}
console.log(JSON.stringify({ furthest, problems }));
