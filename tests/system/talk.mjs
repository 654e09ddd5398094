// node talk.mjs FOLDER < {pieces, talks, tokens, ends}: each talk as a chatting page writes it down, and the ids that it tells
// of a model that writes `tokens`.
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const { conversation, stream } = await import(pathToFileURL(join(resolve(process.argv[2]), "writing.mjs")).href);
const { pieces, talks, tokens, ends } = JSON.parse(readFileSync(0, "utf8"));
const decoder = { after: async (ids) => tokens.map((_, id) => (id === tokens[ids.length] ? 1 : 0)) };
const words = { text: (ids) => ids.join(" ") };
const how = { most: tokens.length, temperature: 0, ends, stopped: () => false };
let told = "";
for await (const part of stream(decoder, words, [], how)) told += part;
console.log(JSON.stringify({ texts: talks.map((talk) => conversation(pieces, talk)), told }));
