// node words.mjs FOLDER < {tokenizer, page, texts}: the ids of each text by a chatting page's own code, and these as a text.
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const { Words } = await import(pathToFileURL(join(resolve(process.argv[2]), "writing.mjs")).href);
const { tokenizer, page, texts } = JSON.parse(readFileSync(0, "utf8"));
const words = new Words(tokenizer, page);
console.log(JSON.stringify(texts.map((text) => {
  const ids = words.ids(text, false);
  return [ids, words.text(ids)];
})));
