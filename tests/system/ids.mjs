// node ids.mjs FOLDER < {tokenizer, page, texts}: the ids of each text by the page's own code, as JSON.
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const { textEncoder } = await import(pathToFileURL(join(resolve(process.argv[2]), "texts.mjs")).href);
const { tokenizer, page, texts } = JSON.parse(readFileSync(0, "utf8"));
const encode = textEncoder(tokenizer, page);
console.log(JSON.stringify(texts.map((text) => encode(text))));
